"""Which convolutions to measure: those of real networks in every type, layout and batch, and a grid over the edges of rules.

    python benchmarks/torch/convolution_calls.py OUT.csv.gz

Needs torchvision, timm and transformers, and no GPU: networks run on meta. Every call is in one of three sets. ``guided`` may
be looked at while rules are written and grown, ``judged`` may not, and only gives scores: they are halves by a hash of the
layer (its shapes without the batch), so that no layer is in both. ``apart`` has the layers that occur in the networks of
`APART` alone, and in no other.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import zoo

BATCHES = (1, 2, 4, 8, 16, 32)
DTYPES = ("fp32", "fp16", "bf16")
_MOST_BYTES = 1 << 30
"""Of input and output together: more does not fit beside the calls of other processes."""

GROWN = (
    *zoo.GUIDED, *zoo.JUDGED, "probe/unet", "probe/conv3d",
    "zoo/yolov8m", "zoo/yolov8s@416", "zoo/yolov8l@960", "zoo/yolo11m", "zoo/yolov5s@512", "tv/alexnet", "tv/vgg11_bn",
    "tv/resnet18", "tv/resnet34@256", "tv/resnet101@288", "tv/resnet152@160", "tv/wide_resnet50_2", "tv/densenet169",
    "tv/densenet201@192", "tv/mobilenet_v2", "tv/mobilenet_v3_small", "tv/efficientnet_b1", "tv/efficientnet_b3@300",
    "tv/efficientnet_b5@456", "tv/efficientnet_v2_m@384", "tv/regnet_x_800mf", "tv/regnet_y_8gf", "tv/regnet_x_16gf",
    "tv/shufflenet_v2_x1_5", "tv/squeezenet1_0", "tv/mnasnet0_5", "tv/convnext_base", "tv/resnext101_32x8d",
    "tv/deeplabv3_mobilenet_v3_large", "tv/fcn_resnet101", "timm/resnet26d", "timm/resnetv2_50", "timm/seresnet50",
    "timm/ecaresnet50t", "timm/skresnet34", "timm/resnest26d", "timm/dpn68", "timm/vovnet39a", "timm/ese_vovnet19b_dw",
    "timm/hrnet_w32", "timm/dla60", "timm/selecsls42b", "timm/cspresnet50", "timm/darknet53", "timm/tresnet_m",
    "timm/mobilenetv4_conv_small", "timm/mobilenetv4_hybrid_medium",
    "timm/tinynet_a", "timm/fbnetc_100",
    "timm/spnasnet_100", "timm/mixnet_s", "timm/rexnet_100", "timm/lcnet_100", "timm/hardcorenas_a", "timm/efficientnet_lite0",
    "timm/gernet_s", "timm/nf_resnet50", "timm/botnet26t_256", "timm/halonet26t", "timm/lambda_resnet26t",
    "timm/mobilevitv2_100", "timm/edgenext_base", "timm/convmixer_768_32", "timm/coat_lite_mini", "timm/cait_s24_224",
    "timm/maxvit_tiny_rw_224", "timm/inception_v4", "timm/inception_resnet_v2", "timm/xception41", "timm/efficientvit_b1",
    "timm/repghostnet_100", "timm/resnet50@384", "timm/resnetrs50@320", "timm/focalnet_tiny_srf", "timm/visformer_small",
)  # fmt: skip

APART = (
    *zoo.FRESH, "zoo/yolov8x", "zoo/yolov5m@800", "zoo/yolo11s@416", "tv/regnet_x_3_2gf", "tv/regnet_y_400mf",
    "tv/efficientnet_b2", "tv/efficientnet_b4@380", "tv/densenet161", "tv/shufflenet_v2_x2_0", "tv/wide_resnet101_2@320",
    "tv/vgg19@256", "tv/mnasnet1_3", "timm/xception65", "timm/dpn92", "timm/res2net101_26w_4s", "timm/vovnet57a",
    "timm/hrnet_w40",
    "timm/dla102", "timm/mobilenetv4_conv_medium", "timm/ghostnetv2_100", "timm/rexnet_150", "timm/mixnet_l",
    "timm/mobileone_s1", "timm/efficientvit_m4", "timm/inception_next_tiny", "timm/starnet_s3", "timm/hgnet_small",
    "timm/hgnetv2_b2", "timm/csatv2", "timm/nextvit_small", "timm/tiny_vit_11m_224", "timm/sequencer2d_s",
    "timm/poolformerv2_s24",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One convolution; shapes are joined by ``x``. Invariant: ``batch`` is the first side of ``input_shape``."""

    input_shape: str
    weight_shape: str
    stride: str
    padding: str
    dilation: str
    groups: int
    transposed: int
    dtype: str = "fp32"
    channels_last: int = 0
    tf32: int = 1
    source: str = "network"
    set: str = "guided"

    @property
    def layer(self) -> str:
        """The call without its batch, type and layout."""
        rest = self.input_shape.partition("x")[2]
        steps = (self.stride, self.padding, self.dilation, str(self.groups), str(self.transposed))
        return "|".join((rest, self.weight_shape, *steps))


NAMES = tuple(field.name for field in fields(Call))


def joined(sizes: Sequence[int]) -> str:
    """(2, 3) as 2x3."""
    return "x".join(map(str, sizes))


class Seen(TorchDispatchMode):
    """Every convolution that runs, at batch two."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[Call] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, w, _, stride, padding, dilation, transposed, output_padding, groups = args
            if not any(output_padding):
                sizes = [joined(one) for one in (x.shape, w.shape, stride, padding, dilation)]
                self.calls.add(Call(**dict(zip(NAMES, sizes, strict=False)), groups=groups, transposed=int(transposed)))
        return func(*args, **(kwargs or {}))


def layers_of(name: str) -> set[Call]:
    """The convolutions of one network in fp32, contiguous, batch two; ``name@size`` runs on images of another size."""
    name, _, size = name.partition("@")
    try:
        return _layers(zoo.on_meta(name), size)
    except (RuntimeError, NotImplementedError):  # it keeps constants, or reads what it computes
        return _layers(zoo.build(name), size)


def _layers(built: zoo.Built, size: str) -> set[Call]:
    module, inputs = built
    args, kwargs = inputs(2)
    if size:
        args = tuple(torch.zeros(2, 3, int(size), int(size)) for _ in args)
    on = next(module.parameters()).device
    move = lambda value: value.to(on) if isinstance(value, torch.Tensor) else value  # noqa: E731
    with Seen() as seen, torch.no_grad():
        module(*map(move, args), **{key: move(value) for key, value in kwargs.items()})
    return seen.calls


def network_layers(names: Sequence[str]) -> set[Call]:
    """Those of all networks that run here."""
    found: set[Call] = set()
    for name in names:
        try:
            found |= layers_of(name)
        except Exception as error:  # a network that does not run on meta is left out, and said
            print("left out:", name, f"{type(error).__name__}: {error}"[:120], file=sys.stderr)
    return found


def with_batch(call: Call, batch: int) -> Call:
    """*call*, which was seen at batch two, at another; an odd first side does not grow with the batch."""
    first, _, rest = call.input_shape.partition("x")
    count = int(first) * batch // 2 if int(first) % 2 == 0 else int(first)
    return replace(call, input_shape=f"{count}x{rest}")


def variants(layer: Call, batches: Sequence[int] = BATCHES) -> Iterator[Call]:
    """Every type, layout and batch."""
    layouts = (0, 1) if layer.stride.count("x") else (0,)  # one dimension has no channels_last
    for batch, dtype, channels_last in itertools.product(batches, DTYPES, layouts):
        yield replace(with_batch(layer, batch), dtype=dtype, channels_last=channels_last)


_WIDTHS = (1, 3, 4, 8, 12, 16, 21, 24, 32, 40, 48, 64, 80, 91, 96, 112, 120, 128, 144, 160, 192, 240, 255, 256, 320, 384, 480,
           512, 576, 640, 672, 768, 960, 1000, 1024, 1152, 1280, 1536, 2048)  # fmt: skip
_SIDES = (1, 2, 4, 5, 7, 8, 10, 12, 13, 14, 16, 19, 20, 24, 26, 28, 32, 33, 38, 40, 48, 52, 56, 64, 65, 80, 96, 112, 128, 160)
_KERNELS = ((2, 2), *[(3, 3)] * 4, (4, 4), (5, 5), (7, 7), (9, 9), (1, 3), (3, 1), (1, 7))


def grid() -> Iterator[Call]:
    """Layers at the edges of rules: random sizes, most of them as networks like them, some not."""
    dice = random.Random(6)
    kinds = {_product: 1500, _window: 1300, _strided: 250, _depthwise: 250, _transposed: 350, _line: 300, _volume: 200}
    for make, count in kinds.items():
        for _ in range(count):
            layer = make(dice)
            if layer is not None:
                yield layer


def _product(dice: random.Random) -> Call | None:
    side, channels, outputs = dice.choice(_SIDES), dice.choice(_WIDTHS), dice.choice(_WIDTHS)
    width = side if dice.random() < 0.8 else dice.choice(_SIDES)
    return _layer((2, channels, side, width), (outputs, channels, 1, 1))


def _window(dice: random.Random) -> Call | None:
    side, channels, outputs = dice.choice(_SIDES), dice.choice(_WIDTHS), dice.choice(_WIDTHS)
    kernel = dice.choice(_KERNELS)
    stride, dilation = dice.choice((1, 1, 1, 2, 2, kernel[0])), dice.choice((1, 1, 1, 1, 2, 3))
    groups = dice.choice((1,) * 8 + (2, 4, 8, 32))
    padding = tuple(dilation * (one // 2) for one in kernel) if dice.random() < 0.85 else (0, 0)
    reach = [dilation * (one - 1) + 1 for one in kernel]
    if channels % groups or outputs % groups or channels == groups:
        return None
    if any(side + 2 * pad < one for pad, one in zip(padding, reach, strict=True)):
        return None
    shape = (outputs, channels // groups, *kernel)
    return _layer((2, channels, side, side), shape, stride=stride, padding=padding, dilation=dilation, groups=groups)


def _strided(dice: random.Random) -> Call | None:
    side, channels = dice.choice(_SIDES[6:]), dice.choice(_WIDTHS[3:])
    return _layer((2, channels, side, side), (dice.choice(_WIDTHS), channels, 1, 1), stride=2)


def _depthwise(dice: random.Random) -> Call | None:
    side, channels, kernel = dice.choice(_SIDES[6:]), dice.choice(_WIDTHS[3:]), dice.choice((3, 3, 5, 7, 9))
    shape, padding = (channels, 1, kernel, kernel), (kernel // 2, kernel // 2)
    return _layer((2, channels, side, side), shape, stride=dice.choice((1, 2)), padding=padding, groups=channels)


def _transposed(dice: random.Random) -> Call | None:
    side, channels, outputs = dice.choice(_SIDES[2:24]), dice.choice(_WIDTHS[3:]), dice.choice(_WIDTHS[1:])
    kernel, stride, pad = dice.choice(((2, 2, 0), (4, 2, 1), (3, 1, 1), (3, 2, 1), (8, 4, 2), (5, 2, 2), (2, 1, 0)))
    shape = (channels, outputs, kernel, kernel)
    return _layer((2, channels, side, side), shape, stride=stride, padding=(pad, pad), transposed=1)


def _line(dice: random.Random) -> Call | None:
    length = dice.choice((50, 100, 197, 256, 500, 1000, 1500, 3000, 8000))
    channels, outputs = dice.choice(_WIDTHS[3:]), dice.choice(_WIDTHS[1:])
    kernel = dice.choice((1, 3, 3, 5, 7, 9))
    return _layer((2, channels, length), (outputs, channels, kernel), stride=dice.choice((1, 1, 2)), padding=(kernel // 2,))


def _volume(dice: random.Random) -> Call | None:
    depth, side = dice.choice((4, 8, 16)), dice.choice((7, 14, 16, 28, 32, 56))
    channels, outputs = dice.choice(_WIDTHS[1:24]), dice.choice(_WIDTHS[1:24])
    kernel = dice.choice(((1, 1, 1), (3, 3, 3), (3, 3, 3), (1, 3, 3), (3, 1, 1)))
    padding = tuple(one // 2 for one in kernel)
    return _layer(
        (2, channels, depth, side, side), (outputs, channels, *kernel), stride=dice.choice((1, 1, 2)), padding=padding
    )


def _layer(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: int = 1,
    padding: Sequence[int] = (),
    dilation: int = 1,
    groups: int = 1,
    transposed: int = 0,
) -> Call:
    rank = len(input_shape) - 2
    return Call(
        input_shape=joined(input_shape),
        weight_shape=joined(weight_shape),
        stride=joined([stride] * rank),
        padding=joined(padding or [0] * rank),
        dilation=joined([dilation] * rank),
        groups=groups,
        transposed=transposed,
        source="grid",
    )


def bytes_of(call: Call) -> int:
    """Input and output, about."""
    x, w = (list(map(int, shape.split("x"))) for shape in (call.input_shape, call.weight_shape))
    scale = 1
    for stride in map(int, call.stride.split("x")):
        scale *= stride
    pixels = 1
    for side in x[2:]:
        pixels *= side
    outputs = x[0] * (w[1] * call.groups * pixels * scale if call.transposed else w[0] * pixels / scale)
    return int((x[0] * x[1] * pixels + outputs) * (4 if call.dtype == "fp32" else 2))


def half(layer: str) -> str:
    """The half of a layer, by its hash."""
    return ("guided", "judged")[hashlib.sha256(layer.encode()).digest()[0] % 2]


def calls() -> list[Call]:
    """All that is measured, in a random order."""
    dice = random.Random(7)
    grown, apart = network_layers(GROWN), network_layers(APART)
    named, others = ({layer.layer for layer in layers} for layers in (grown, apart))
    found: dict[Call, None] = {}
    for layer in sorted(grown, key=astuple):
        for call in variants(layer):
            if dice.random() < (0.9 if _is_product(call) else 0.5):
                found[replace(call, set=half(call.layer))] = None
    for layer in sorted((layer for layer in apart if layer.layer not in named), key=astuple):
        for call in variants(layer):
            if dice.random() < 0.35:
                found[replace(call, set="apart")] = None
    for layer in grid():
        if layer.layer in named | others:
            continue
        for call in variants(layer):
            if dice.random() < 0.22:
                found[replace(call, set=half(call.layer))] = None
    plain = [replace(call, tf32=0) for call in found if call.dtype == "fp32" and dice.random() < 0.08]
    kept = [call for call in (*found, *plain) if bytes_of(call) <= _MOST_BYTES]
    dice.shuffle(kept)
    return kept


def _is_product(call: Call) -> bool:
    ones = (*call.weight_shape.split("x")[2:], *call.stride.split("x"))
    return call.groups == 1 and all(one == "1" for one in ones)


def main() -> None:
    """Write the calls."""
    warnings.filterwarnings("ignore")
    found = calls()
    with gzip.open(sys.argv[1], "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAMES)
        writer.writerows(astuple(call) for call in found)
    print(len(found), "calls")


if __name__ == "__main__":
    main()
