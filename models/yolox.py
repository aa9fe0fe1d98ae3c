"""YOLOX (arXiv 2107.08430): space-to-depth stem, CSP backbone, path aggregation, decoupled head."""

import torch
from torch import Tensor, nn

from .heads import STRIDES, Levels, cell_indices
from .layers import ConvUnit, CrossStage
from .necks import ReducedPathAggregation
from .yolov8 import Scale

SCALES = {
    "s": Scale(depth=0.33, width=0.50, max_channels=1024),
    "l": Scale(depth=1.00, width=1.00, max_channels=1024),
}


class SpaceToDepth(nn.Module):
    """Put every 2x2 patch into channels, then a 3x3 convolution."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvUnit(12, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        patches = (even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2])
        y: Tensor = self.conv(torch.cat(patches, 1))
        return y


class ParallelPool(nn.Module):
    """Spatial pyramid pooling as three max pools of 5, 9 and 13 beside each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.reduce = ConvUnit(channels, hidden)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.merge = ConvUnit(4 * hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        y: Tensor = self.merge(torch.cat([x, *(pool(x) for pool in self.pools)], 1))
        return y


class Backbone(nn.Module):
    """Five halvings; the last three levels are returned."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        w64, w128, w256, w512, w1024 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        shallow, deep = scale.repeats(3), scale.repeats(9)
        self.stem = SpaceToDepth(w64)
        self.fine = nn.Sequential(ConvUnit(w64, w128, 3, 2), CrossStage(w128, w128, shallow))
        self.small = nn.Sequential(ConvUnit(w128, w256, 3, 2), CrossStage(w256, w256, deep))
        self.middle = nn.Sequential(ConvUnit(w256, w512, 3, 2), CrossStage(w512, w512, deep))
        self.large = nn.Sequential(ConvUnit(w512, w1024, 3, 2), ParallelPool(w1024), CrossStage(w1024, w1024, shallow, False))
        self.channels = (w256, w512, w1024)

    def forward(self, x: Tensor) -> Levels:
        small = self.small(self.fine(self.stem(x)))
        middle = self.middle(small)
        return small, middle, self.large(middle)


class LevelHead(nn.Module):
    """One level: a 1x1 stem, two 3x3 for classes, two 3x3 for boxes and objectness."""

    def __init__(self, in_channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.stem = ConvUnit(in_channels, hidden)
        self.class_path = nn.Sequential(ConvUnit(hidden, hidden, 3), ConvUnit(hidden, hidden, 3))
        self.box_path = nn.Sequential(ConvUnit(hidden, hidden, 3), ConvUnit(hidden, hidden, 3))
        self.scores = nn.Conv2d(hidden, classes, 1)
        self.boxes = nn.Conv2d(hidden, 4, 1)
        self.objectness = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scores = self.scores(self.class_path(x))
        box = self.box_path(x)
        return torch.cat((self.boxes(box), self.objectness(box).sigmoid(), scores.sigmoid()), 1)


class YoloX(nn.Module):
    """Returns BxAx(5 + classes); boxes are raw, or xywh in pixels when `decode` is set."""

    def __init__(self, scale: Scale, classes: int, *, decode: bool) -> None:
        super().__init__()
        self.backbone = Backbone(scale)
        channels, hidden = self.backbone.channels, scale.channels(256)
        self.neck = ReducedPathAggregation(channels, scale.repeats(3))
        self.heads = nn.ModuleList(LevelHead(c, hidden, classes) for c in channels)
        self.decode = decode

    def forward(self, images: Tensor) -> Tensor:
        maps = [head(level) for head, level in zip(self.heads, self.neck(self.backbone(images)), strict=True)]
        flat = torch.cat([level.flatten(2) for level in maps], 2).transpose(1, 2)
        return in_pixels(flat, maps) if self.decode else flat


def in_pixels(flat: Tensor, maps: list[Tensor]) -> Tensor:
    """Decode boxes: centre = (offset + cell) * stride, size = exp(raw) * stride."""
    corners, strides = [], []
    for level, stride in zip(maps, STRIDES, strict=True):
        columns, rows = cell_indices(level, level.shape[2], level.shape[3])
        corners.append(torch.cat((columns, rows), 1).flatten(2).transpose(1, 2) - 1)
        strides.append(torch.full_like(columns, stride).flatten(2).transpose(1, 2))
    stride_px = torch.cat(strides, 1)
    centre = (flat[..., :2] + torch.cat(corners, 1)) * stride_px
    return torch.cat((centre, flat[..., 2:4].exp() * stride_px, flat[..., 4:]), 2)


def yolox_s(classes: int = 80, *, decode: bool = True) -> nn.Module:
    """Return YOLOX small in eval mode."""
    return YoloX(SCALES["s"], classes, decode=decode).eval()


def yolox_l(classes: int = 80, *, decode: bool = True) -> nn.Module:
    """Return YOLOX large in eval mode."""
    return YoloX(SCALES["l"], classes, decode=decode).eval()
