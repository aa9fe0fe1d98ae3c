"""The models behind published TensorRT build logs, rebuilt from public descriptions, as weight-free ONNX.

    python benchmarks/trt_models.py [ID ...]           write benchmarks/onnx/ID.onnx
    python benchmarks/trt_models.py --check [ID ...]   compare instead; exit 1 if a file differs

Each case names the rows of the table of published readings that it can be judged against. Graphs are
static: shape arithmetic is folded away, as TensorRT does before it plans memory.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent / "onnx"
IMAGE_640 = (1, 3, 640, 640)
IMAGE_224 = (1, 3, 224, 224)
PYRAMID_MAPS = ("p2", "p3", "p4", "p5", "p6")
PYRAMID_NAMES = (*PYRAMID_MAPS, *(f"{level}_{part}" for level in PYRAMID_MAPS for part in ("objectness", "offsets")))
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model at one shape and precision. Invariant: cases with one `id` up to the `@` share a file.

    `factory` is a module of `vramplan.models` and a function in it. `guided` says that the modelling rules were shaped
    while looking at this reading; the others judge them. `partial` says that the logged network had parts this graph
    lacks (plug-ins, heads), or that its input size is a guess: expect at best the same order of magnitude.
    """

    id: str
    rows: tuple[str, ...]
    factory: str
    input_shape: tuple[int, ...]
    precision: str
    notes: str = ""
    partial: bool = False
    guided: bool = False
    class_count: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    input_names: tuple[str, ...] = ("images",)
    output_names: tuple[str, ...] = ("output0",)

    def module(self) -> nn.Module:
        """Build the model, with random weights."""
        file, _, function = self.factory.partition(":")
        arguments = () if self.class_count is None else (self.class_count,)
        return getattr(importlib.import_module(f"vramplan.models.{file}"), function)(*arguments, **self.options)

    @property
    def path(self) -> Path:
        """Where the case's weight-free graph lies."""
        return FOLDER / f"{self.id.partition('@')[0]}.onnx"


def row_ids(first: int, last: int) -> tuple[str, ...]:
    """Return the ids of the rows from `first` to `last`, both included."""
    return tuple(f"t{number:03}" for number in range(first, last + 1))


def cases() -> list[Case]:
    """Return every case, most trustworthy models first."""
    return [*_classifiers(), *_detectors(), *_others()]


def _classifiers() -> list[Case]:
    return [
        Case(
            id="ufld_culane",
            rows=row_ids(1, 5),
            factory="lane:ufld_culane",
            input_shape=(1, 3, 288, 800),
            precision="fp32",
            guided=True,
        ),
        Case(
            id="resnet50@tf32",
            rows=row_ids(6, 10),
            factory="resnet:resnet50",
            input_shape=IMAGE_224,
            precision="tf32",
            guided=True,
            notes="the logged file may have its strides on the 1x1 convolutions; the peak is in an earlier stage",
        ),
        Case(
            id="resnet50@int8",
            rows=row_ids(89, 91),
            factory="resnet:resnet50",
            input_shape=IMAGE_224,
            precision="int8",
        ),
        Case(
            id="densenet121",
            rows=row_ids(49, 51),
            factory="densenet:densenet121",
            class_count=14,
            input_shape=IMAGE_224,
            precision="fp16",
            guided=True,
        ),
        Case(
            id="googlenet",
            rows=row_ids(92, 109),
            factory="googlenet:googlenet",
            input_shape=IMAGE_224,
            precision="fp16",
            notes="five builds of one network by several TensorRT versions",
        ),
        Case(
            id="mnist_cntk",
            rows=row_ids(131, 140),
            factory="small:mnist_cntk",
            input_shape=(1, 1, 28, 28),
            precision="fp32",
            guided=True,
        ),
        Case(
            id="strided_conv_net",
            rows=row_ids(141, 144),
            factory="small:strided_conv_net",
            input_shape=(1, 3, 32, 32),
            precision="fp32",
        ),
        Case(
            id="vit_s_16",
            rows=row_ids(155, 156),
            factory="vit:vit_s_16",
            input_shape=IMAGE_224,
            precision="unknown",
            notes="patch size inferred; the log does not state the precision",
        ),
        Case(
            id="yolov8s_cls",
            rows=row_ids(167, 168),
            factory="yolo_tasks:yolov8s_cls",
            input_shape=(2, 3, 224, 224),
            precision="fp16",
        ),
    ]


def _detectors() -> list[Case]:
    return [
        Case(
            id="yolov8s@fp32",
            rows=row_ids(34, 38),
            factory="yolov8:yolov8s",
            input_shape=IMAGE_640,
            precision="fp32",
            guided=True,
            notes="TF32 allowed",
        ),
        Case(
            id="yolov8s@fp16",
            rows=row_ids(39, 43),
            factory="yolov8:yolov8s",
            input_shape=IMAGE_640,
            precision="fp16",
            guided=True,
        ),
        Case(
            id="yolov5s_raw",
            rows=row_ids(52, 54),
            factory="yolo_tasks:yolov5s_raw",
            input_shape=IMAGE_640,
            precision="fp32",
            notes="TF32 allowed; decoded predictions and three raw maps are outputs",
            output_names=("output0", "small", "middle", "large"),
        ),
        Case(
            id="yolov5s_26",
            rows=row_ids(114, 118),
            factory="yolov5:yolov5s",
            class_count=26,
            input_shape=(10, 3, 640, 1088),
            precision="fp16",
            notes="size s inferred from the engine's 15 MiB",
        ),
        Case(
            id="yolov5nu_6",
            rows=row_ids(60, 63),
            factory="yolov5:yolov5nu",
            class_count=6,
            input_shape=IMAGE_640,
            precision="fp16",
            guided=True,
        ),
        Case(
            id="yolov5nu_1",
            rows=row_ids(197, 201),
            factory="yolov5:yolov5nu",
            class_count=1,
            input_shape=IMAGE_640,
            precision="fp16",
            guided=True,
        ),
        Case(
            id="yolo11n_6",
            rows=row_ids(72, 75),
            factory="yolo11:yolo11n",
            class_count=6,
            input_shape=IMAGE_640,
            precision="fp16",
        ),
        Case(
            id="yolo11n",
            rows=row_ids(79, 88),
            factory="yolo11:yolo11n",
            input_shape=IMAGE_640,
            precision="fp32",
            notes="three builds of one network on one kind of board",
        ),
        Case(
            id="yolox_s",
            rows=row_ids(119, 122),
            factory="yolox:yolox_s",
            class_count=1,
            options={"decode": False},
            input_shape=(1, 3, 608, 1088),
            precision="fp32",
        ),
        Case(
            id="yolox_l",
            rows=row_ids(44, 48),
            factory="yolox:yolox_l",
            input_shape=IMAGE_640,
            precision="fp32",
            notes="the logged network ends in a non-maximum suppression plug-in",
            partial=True,
        ),
        Case(
            id="yolov7_tiny",
            rows=row_ids(169, 170),
            factory="yolov7:yolov7_tiny",
            input_shape=IMAGE_640,
            precision="fp32",
            notes="the logged network ends in a non-maximum suppression plug-in; input size inferred",
            partial=True,
        ),
        Case(
            id="yolov5n_trunk",
            rows=row_ids(146, 150),
            factory="yolo_tasks:yolov5n_trunk",
            input_shape=IMAGE_640,
            precision="fp16",
            notes="a plug-in decodes; the log does not show the input size, 640x640 is a guess",
            partial=True,
            output_names=("small", "middle", "large"),
        ),
        Case(
            id="ssdlite_mobilenet_v2",
            rows=("t111",),
            factory="ssdlite:ssdlite_mobilenet_v2",
            input_shape=(1, 3, 300, 300),
            precision="fp16",
            notes="class count unknown, 21 here",
            output_names=("scores", "boxes"),
        ),
    ]


def _others() -> list[Case]:
    return [
        Case(
            id="yolov8s_seg",
            rows=("t166",),
            factory="yolo_tasks:yolov8s_seg",
            input_shape=IMAGE_640,
            precision="fp16",
            output_names=("output0", "output1"),
        ),
        Case(
            id="yolov8m_seg",
            rows=("t173",),
            factory="yolo_tasks:yolov8m_seg",
            input_shape=(128, 3, 640, 640),
            precision="unknown",
            notes="the post states neither unit nor precision",
            output_names=("output0", "output1"),
        ),
        Case(
            id="bert_base_chinese",
            rows=row_ids(126, 130),
            factory="bert:bert_base_chinese",
            input_shape=(32, 128),
            precision="fp16",
            guided=True,
            notes="TensorRT runs the whole network as one compiled region; inputs are int64 here, int32 there",
            input_names=TOKEN_INPUTS,
            output_names=("logits",),
        ),
        Case(
            id="mask_rcnn_trunk@fp16",
            rows=row_ids(21, 24),
            factory="fpn:mask_rcnn_trunk",
            input_shape=(1, 3, 1344, 1344),
            precision="fp16",
            notes="backbone, pyramid and proposal head only; maps are outputs here, inner tensors there",
            partial=True,
            output_names=PYRAMID_NAMES,
        ),
        Case(
            id="mask_rcnn_trunk@int8",
            rows=row_ids(25, 28),
            factory="fpn:mask_rcnn_trunk",
            input_shape=(1, 3, 1344, 1344),
            precision="int8",
            notes="backbone, pyramid and proposal head only; maps are outputs here, inner tensors there",
            partial=True,
            output_names=PYRAMID_NAMES,
        ),
    ]


def build(case: Case) -> bytes:
    """Return the case's weight-free graph; it is traced at batch 1 and bound to the case's batch."""
    import torch
    from vramplan.models.folding import fold_batch_norm
    from vramplan.models.onnx_export import bind, export, scatter, serialise, without_weights

    torch.manual_seed(0)
    model = export(
        fold_batch_norm(scatter(case.module())),
        tuple(_example((1, *case.input_shape[1:])) for _ in case.input_names),
        input_names=case.input_names,
        output_names=case.output_names,
        dynamic_axes={name: {0: "batch"} for name in case.input_names},
    )
    bound = bind(model, {"batch": case.input_shape[0]})
    return serialise(without_weights(bound))


def _example(shape: tuple[int, ...]) -> Tensor:
    """Return zeros: token ids where there are two dimensions, an image where there are four."""
    import torch

    return torch.zeros(shape, dtype=torch.int64 if len(shape) == 2 else torch.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="default: every case")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(argv)
    by_path = {case.path: case for case in cases()}
    chosen = {path: case for path, case in by_path.items() if not options.ids or path.stem in options.ids}
    stale = [path for path, case in chosen.items() if not _process(path, case, check=options.check)]
    return 1 if stale or not chosen else 0


def _process(path: Path, case: Case, *, check: bool) -> bool:
    from vramplan.models.build import difference

    content = build(case)
    problem = difference(path, content) if check else None
    if not check:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    print(f"{path.stem:<22} {len(content):>8,} bytes  {problem or 'ok'}", flush=True)
    return problem is None


if __name__ == "__main__":
    sys.exit(main())
