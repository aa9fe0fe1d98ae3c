"""YOLOv8, anchor-free, in five sizes: 1x(4 + classes)x8400 for a 640x640 image."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from .heads import AnchorFreeHead, Levels
from .layers import Bottleneck, ConvUnit, DenseStage, PyramidPool, round_up
from .necks import PathAggregation, neck_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How one size differs from the base network. Invariant: widths are multiples of 8."""

    depth: float
    width: float
    max_channels: int

    def channels(self, base: int) -> int:
        """Return the width of a layer that has `base` channels in the base network."""
        return round_up(min(base, self.max_channels) * self.width)

    def repeats(self, base: int) -> int:
        """Return the depth of a stage that has `base` blocks in the base network."""
        return max(round(base * self.depth), 1)


SCALES = {
    "n": Scale(depth=0.33, width=0.25, max_channels=1024),
    "s": Scale(depth=0.33, width=0.50, max_channels=1024),
    "m": Scale(depth=0.67, width=0.75, max_channels=768),
    "l": Scale(depth=1.00, width=1.00, max_channels=512),
    "x": Scale(depth=1.00, width=1.25, max_channels=512),
}


def dense_stage(in_channels: int, out_channels: int, depth: int, shortcut: bool) -> DenseStage:
    """Return the stage YOLOv8 is made of: a chain of full-width 3x3 bottlenecks."""
    hidden = out_channels // 2
    blocks: list[nn.Module] = [Bottleneck(hidden, shortcut=shortcut) for _ in range(depth)]
    return DenseStage(in_channels, out_channels, hidden, blocks)


class Backbone(nn.Module):
    """Five halvings of the image; the last three levels are returned."""

    def __init__(self, scale: Scale, *, pool: bool = True) -> None:
        super().__init__()
        widths = [scale.channels(base) for base in (64, 128, 256, 512, 1024)]
        depths = [scale.repeats(base) for base in (3, 6, 6, 3)]
        self.stem = ConvUnit(3, widths[0], 3, 2)
        self.downs = nn.ModuleList(ConvUnit(a, b, 3, 2) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(
            dense_stage(width, width, depth, True) for width, depth in zip(widths[1:], depths, strict=True)
        )
        self.pool = PyramidPool(widths[4], widths[4]) if pool else nn.Identity()
        self.channels = (widths[2], widths[3], widths[4])

    def forward(self, x: Tensor) -> Levels:
        x = self.stem(x)
        levels = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
            levels.append(x)
        return levels[1], levels[2], self.pool(levels[3])


class YoloV8(nn.Module):
    """Backbone, path-aggregation neck and decoupled head."""

    def __init__(self, scale: Scale, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(scale)
        channels, depth = self.backbone.channels, scale.repeats(3)
        stages = [dense_stage(a, b, depth, False) for a, b in neck_channels(channels)]
        self.neck = PathAggregation(channels, stages)
        self.head = AnchorFreeHead(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        predictions: Tensor = self.head(self.neck(self.backbone(images)))
        return predictions


def yolov8n(classes: int = 80) -> nn.Module:
    """Return YOLOv8 nano in eval mode."""
    return YoloV8(SCALES["n"], classes).eval()


def yolov8s(classes: int = 80) -> nn.Module:
    """Return YOLOv8 small in eval mode."""
    return YoloV8(SCALES["s"], classes).eval()


def yolov8m(classes: int = 80) -> nn.Module:
    """Return YOLOv8 medium in eval mode."""
    return YoloV8(SCALES["m"], classes).eval()


def yolov8l(classes: int = 80) -> nn.Module:
    """Return YOLOv8 large in eval mode."""
    return YoloV8(SCALES["l"], classes).eval()


def yolov8x(classes: int = 80) -> nn.Module:
    """Return YOLOv8 extra large in eval mode."""
    return YoloV8(SCALES["x"], classes).eval()
