"""YOLOv5 (release 7.0), anchor-based: 1x25200x(5 + classes) for a 640x640 image."""

from itertools import pairwise

from torch import Tensor, nn

from .heads import AnchorFreeHead, AnchorHead, Levels
from .layers import ConvUnit, CrossStage, PyramidPool
from .necks import ReducedPathAggregation
from .yolov8 import Scale

SCALES = {
    "n": Scale(depth=0.33, width=0.25, max_channels=1024),
    "s": Scale(depth=0.33, width=0.50, max_channels=1024),
    "m": Scale(depth=0.67, width=0.75, max_channels=1024),
}


class Backbone(nn.Module):
    """Five halvings of the image, the first by a 6x6 convolution; the last three levels are returned."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        widths = [scale.channels(base) for base in (64, 128, 256, 512, 1024)]
        depths = [scale.repeats(base) for base in (3, 6, 9, 3)]
        self.stem = ConvUnit(3, widths[0], 6, 2, padding=2)
        self.downs = nn.ModuleList(ConvUnit(a, b, 3, 2) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(CrossStage(width, width, depth) for width, depth in zip(widths[1:], depths, strict=True))
        self.pool = PyramidPool(widths[4], widths[4])
        self.channels = (widths[2], widths[3], widths[4])

    def forward(self, x: Tensor) -> Levels:
        x = self.stem(x)
        levels = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
            levels.append(x)
        return levels[1], levels[2], self.pool(levels[3])


class YoloV5(nn.Module):
    """Backbone and neck of YOLOv5 under a head of the caller's choice."""

    def __init__(self, scale: Scale, head: type[AnchorHead | AnchorFreeHead], classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(scale)
        channels = self.backbone.channels
        self.neck = ReducedPathAggregation(channels, scale.repeats(3))
        self.head = head(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        predictions: Tensor = self.head(self.neck(self.backbone(images)))
        return predictions


def yolov5n(classes: int = 80) -> nn.Module:
    """Return YOLOv5 nano in eval mode."""
    return YoloV5(SCALES["n"], AnchorHead, classes).eval()


def yolov5s(classes: int = 80) -> nn.Module:
    """Return YOLOv5 small in eval mode."""
    return YoloV5(SCALES["s"], AnchorHead, classes).eval()


def yolov5m(classes: int = 80) -> nn.Module:
    """Return YOLOv5 medium in eval mode."""
    return YoloV5(SCALES["m"], AnchorHead, classes).eval()


def yolov5nu(classes: int = 80) -> nn.Module:
    """Return YOLOv5 nano with the anchor-free head of YOLOv8, in eval mode."""
    return YoloV5(SCALES["n"], AnchorFreeHead, classes).eval()
