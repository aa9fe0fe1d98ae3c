"""YOLO11: lighter stages, attention on the coarsest level, a depthwise class branch."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .heads import AnchorFreeHead, Levels
from .layers import Bottleneck, ConvUnit, CrossStage, DenseStage, PyramidPool, linear_unit
from .necks import PathAggregation
from .yolov8 import Scale

SCALES = {
    "n": Scale(depth=0.50, width=0.25, max_channels=1024),
    "s": Scale(depth=0.50, width=0.50, max_channels=1024),
    "m": Scale(depth=0.50, width=1.00, max_channels=512),
}
HEAD_CHANNELS = 64


def stage(in_channels: int, out_channels: int, depth: int, *, nested: bool, expansion: float = 0.5) -> DenseStage:
    """Return a stage whose links are bottlenecks or, when `nested`, whole CSP stages of two."""
    hidden = int(out_channels * expansion)
    link: Callable[[], nn.Module] = partial(Bottleneck, hidden, expansion=0.5)
    if nested:
        link = partial(CrossStage, hidden, hidden, 2, kernels=(3, 3))
    return DenseStage(in_channels, out_channels, hidden, [link() for _ in range(depth)])


class Attention(nn.Module):
    """Self-attention over all cells; keys have half the width of values; position by a depthwise 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.value_width = channels // self.heads
        self.key_width = self.value_width // 2
        self.project_in = linear_unit(channels, channels + 2 * self.heads * self.key_width)
        self.project_out = linear_unit(channels, channels)
        self.position = linear_unit(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        per_head = 2 * self.key_width + self.value_width
        mixed = self.project_in(x).view(batch, self.heads, per_head, height * width)
        query, key, value = mixed.split((self.key_width, self.key_width, self.value_width), 2)
        weights = ((query.transpose(2, 3) @ key) * self.key_width**-0.5).softmax(3)
        attended = (value @ weights.transpose(2, 3)).view(batch, channels, height, width)
        position = self.position(value.reshape(batch, channels, height, width))
        y: Tensor = self.project_out(attended + position)
        return y


class AttentionBlock(nn.Module):
    """Attention, then a two-layer 1x1 network, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.feed_forward = nn.Sequential(ConvUnit(channels, 2 * channels), linear_unit(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        y: Tensor = x + self.feed_forward(x)
        return y


class AttentionStage(nn.Module):
    """Send half of the channels through attention blocks, keep the other half, merge."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.split = ConvUnit(channels, 2 * hidden)
        self.merge = ConvUnit(2 * hidden, channels)
        self.blocks = nn.Sequential(*(AttentionBlock(hidden) for _ in range(depth)))
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.split(x).split((self.hidden, self.hidden), 1)
        y: Tensor = self.merge(torch.cat((kept, self.blocks(attended)), 1))
        return y


class Backbone(nn.Module):
    """Five halvings of the image; the last three levels are returned."""

    def __init__(self, scale: Scale, *, nested: bool) -> None:
        super().__init__()
        w64, w128, w256, w512, w1024 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        depth = scale.repeats(2)
        self.fine = nn.Sequential(
            ConvUnit(3, w64, 3, 2),
            ConvUnit(w64, w128, 3, 2),
            stage(w128, w256, depth, nested=nested, expansion=0.25),
        )
        self.small = nn.Sequential(ConvUnit(w256, w256, 3, 2), stage(w256, w512, depth, nested=nested, expansion=0.25))
        self.middle = nn.Sequential(ConvUnit(w512, w512, 3, 2), stage(w512, w512, depth, nested=True))
        self.large = nn.Sequential(
            ConvUnit(w512, w1024, 3, 2),
            stage(w1024, w1024, depth, nested=True),
            PyramidPool(w1024, w1024),
            AttentionStage(w1024, depth),
        )

    def forward(self, x: Tensor) -> Levels:
        small = self.small(self.fine(x))
        middle = self.middle(small)
        return small, middle, self.large(middle)


class Yolo11(nn.Module):
    """Backbone, path-aggregation neck and head; from size m up every stage is nested."""

    def __init__(self, scale: Scale, classes: int, *, nested: bool) -> None:
        super().__init__()
        w256, w512, w1024 = (scale.channels(base) for base in (256, 512, 1024))
        depth = scale.repeats(2)
        nestings = (nested, nested, nested, True)
        # The backbone's finest returned level already has the middle level's width.
        inputs = (w1024 + w512, 2 * w512, w256 + w512, w512 + w1024)
        outputs = (w512, w256, w512, w1024)
        stages = [stage(a, b, depth, nested=flag) for a, b, flag in zip(inputs, outputs, nestings, strict=True)]
        self.backbone = Backbone(scale, nested=nested)
        self.neck = PathAggregation((w256, w512, w1024), stages)
        self.head = AnchorFreeHead((w256, w512, w1024), classes, light=True)

    def forward(self, images: Tensor) -> Tensor:
        predictions: Tensor = self.head(self.neck(self.backbone(images)))
        return predictions


def yolo11n(classes: int = 80) -> nn.Module:
    """Return YOLO11 nano in eval mode."""
    return Yolo11(SCALES["n"], classes, nested=False).eval()


def yolo11s(classes: int = 80) -> nn.Module:
    """Return YOLO11 small in eval mode."""
    return Yolo11(SCALES["s"], classes, nested=False).eval()


def yolo11m(classes: int = 80) -> nn.Module:
    """Return YOLO11 medium in eval mode."""
    return Yolo11(SCALES["m"], classes, nested=True).eval()
