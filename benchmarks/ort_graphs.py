"""Export the graphs that ONNX Runtime is measured with: weight-free ONNX files, one archive.

    python benchmarks/ort_graphs.py FOLDER [NAME ...]     export into FOLDER, one file each; what is there already stays
    python benchmarks/ort_graphs.py FOLDER --pack         FOLDER → data/onnxruntime_h200/graphs.tar.xz

A file is called MODEL.STYLE.PRECISION.onnx. Styles: ``open`` is the TorchScript exporter with an open batch axis, ``fixed``
the same with every dimension fixed (batch 8), ``dynamo`` the newer exporter with an open batch axis, ``file`` a file of our zoo
with open sides too. Precision ``fp16`` is the fp32 file converted as a whole (onnxconverter-common). Needs torch, torchvision,
timm, transformers, onnxscript and onnxconverter-common.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARCHIVE = HERE / "data" / "onnxruntime_h200" / "graphs.tar.xz"
FIXED_BATCH = 8

OPEN = (
    "zoo/yolov8s", "zoo/yolov8n", "zoo/yolov5s", "zoo/yolo11n", "tv/resnet18", "tv/resnet50", "tv/vgg16", "tv/mobilenet_v2",
    "tv/mobilenet_v3_large", "tv/efficientnet_b0", "tv/densenet121", "tv/googlenet", "tv/inception_v3", "tv/squeezenet1_1",
    "tv/shufflenet_v2_x1_0", "tv/regnet_y_1_6gf", "tv/resnext50_32x4d", "tv/mnasnet1_0", "tv/convnext_tiny", "tv/swin_t",
    "tv/vit_b_16", "tv/deeplabv3_resnet50", "tv/fcn_resnet50", "tv/lraspp_mobilenet_v3_large", "tv/alexnet",
    "timm/res2net50_26w_4s", "timm/dla34", "timm/repvgg_a0", "timm/hrnet_w18", "timm/ghostnet_100", "timm/efficientformer_l1",
    "timm/poolformer_s12", "timm/mobilevit_s", "timm/pvt_v2_b1", "timm/mixer_s16_224", "timm/deit_small_patch16_224",
    "timm/cspdarknet53", "timm/convnextv2_tiny", "timm/edgenext_small", "timm/levit_128s", "hf/bert",
    "hf/segformer", "hf/dinov2", "hf/roberta", "hf/electra", "hf/yolos", "hf/t5", "probe/unet",
)  # fmt: skip
FIXED = (
    "zoo/yolov8s", "tv/resnet50", "tv/mobilenet_v3_large", "tv/swin_t", "tv/vit_b_16", "tv/densenet121",
    "tv/deeplabv3_resnet50", "timm/mobilevit_s", "timm/convnextv2_tiny", "timm/dla34", "hf/bert", "hf/segformer",
)  # fmt: skip
DYNAMO = (
    "zoo/yolov8n", "tv/resnet50", "tv/mobilenet_v2", "tv/vit_b_16", "tv/convnext_tiny", "timm/deit_small_patch16_224",
    "timm/res2net50_26w_4s", "hf/bert",
)  # fmt: skip
FILES = ("yolov8s", "yolo11s")
HALVES = frozenset((*OPEN[:24], *OPEN[25:38], "hf/bert", "hf/segformer", "probe/unet"))


def wanted() -> list[tuple[str, str]]:
    """Every model and style, in the order of their worth."""
    pairs = [(name, "open") for name in OPEN] + [(name, "fixed") for name in FIXED] + [(name, "dynamo") for name in DYNAMO]
    return pairs + [(f"zoo/{name}", "file") for name in FILES]


def export_all(folder: Path, names: list[str]) -> None:
    """Export what is missing in *folder*."""
    for name, style in wanted():
        stem = f"{name.replace('/', '-')}.{style}"
        if (names and name not in names) or (folder / f"{stem}.fp32.onnx").exists():
            continue
        started = time.monotonic()
        try:
            model = export(name, style)
            if name in HALVES and style == "open":
                (folder / f"{stem}.fp16.onnx").write_bytes(light(halved(model)))
            (folder / f"{stem}.fp32.onnx").write_bytes(light(model))
            print(f"{stem} {time.monotonic() - started:.0f} s", flush=True)
        except Exception as error:
            print(f"{stem} FAILED {type(error).__name__}: {str(error)[-160:]}", flush=True)


def export(name: str, style: str) -> Any:
    """One model with its random weights, as a `onnx.ModelProto`."""
    import onnx
    import torch

    if style == "file":
        return onnx.load(HERE.parent / "models" / "onnx" / f"{name.partition('/')[2]}.onnx")
    from zoo import build

    torch.backends.mha.set_fastpath_enabled(False)
    module, inputs = build(name)
    scatter(module)
    for config in (getattr(each, "config", None) for each in module.modules()):
        if config is not None:
            config.use_cache = False
    args, kwargs = inputs(FIXED_BATCH if style == "fixed" else 2)
    buffer = io.BytesIO()
    flat = _Flat(module, len(args), tuple(kwargs)).eval()
    values = (*args, *kwargs.values())
    input_names = [*(f"input{index}" for index in range(len(args))), *kwargs]
    options: dict[str, Any] = {"input_names": input_names, "dynamo": style == "dynamo"}
    if style == "dynamo":
        batch = torch.export.Dim("batch", min=1, max=64)
        options |= {"dynamic_shapes": {"values": tuple({0: batch} for _ in values)}, "external_data": False}
    else:
        options |= {"opset_version": 17}
        options |= {"dynamic_axes": {key: {0: "batch"} for key in input_names}} if style == "open" else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if style == "dynamo":
            program = torch.onnx.export(flat, values, verbose=False, **options)
            return program.model_proto
        torch.onnx.export(flat, values, buffer, **options)  # type: ignore[arg-type]
    return onnx.load_model_from_string(buffer.getvalue())


def scatter(module: Any) -> None:
    """Distinct random values in every vector: equal tensors would be stored once."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)


def _flat_class() -> Any:
    import torch
    from torch import nn

    class Flat(nn.Module):
        """A module that takes tensors by position and returns tensors."""

        def __init__(self, module: nn.Module, count: int, keys: tuple[str, ...]) -> None:
            super().__init__()
            self.module, self.count, self.keys = module, count, keys

        def forward(self, *values: torch.Tensor) -> Any:
            result = self.module(*values[: self.count], **dict(zip(self.keys, values[self.count :], strict=True)))
            if isinstance(result, torch.Tensor):
                return result
            found = result.values() if isinstance(result, dict) else result
            return tuple(value for value in found if isinstance(value, torch.Tensor))

    return Flat


def _Flat(module: Any, count: int, keys: tuple[str, ...]) -> Any:  # noqa: N802
    return _flat_class()(module, count, keys)


def halved(model: Any) -> Any:
    """The whole graph in fp16, inputs and outputs too."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_float_to_float16(copy, keep_io_types=False)


def light(model: Any) -> bytes:
    """Without the values of large float weights, and without what exporters say about themselves."""
    import onnx
    from vramplan.models.onnx_export import serialise, without_weights

    small = without_weights(model)
    del small.metadata_props[:], small.graph.value_info[:], small.graph.metadata_props[:]
    small.doc_string = small.graph.doc_string = ""
    for function in small.functions:
        function.doc_string = ""
    for node in small.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and node.op_type == "Constant":
                _lighten(attribute.t)
    return serialise(small)


def _lighten(tensor: Any) -> None:
    """A large float constant becomes zeros, which compress to nothing: a node's tensor cannot be without values."""
    import onnx

    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(tensor.raw_data) > 4096:
        tensor.raw_data = bytes(len(tensor.raw_data))


def pack(folder: Path) -> None:
    """One archive of all files in *folder*, the same bytes for the same files."""
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in sorted(folder.glob("*.onnx")):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            archive.addfile(entry, io.BytesIO(path.read_bytes()))


def main() -> int:
    """Export or pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pack", action="store_true")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.folder)
    else:
        sys.path.insert(0, str(HERE / "torch"))
        export_all(arguments.folder, arguments.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
