"""Path-aggregation necks (arXiv 1803.01534): of YOLOv8 and YOLO11, and of YOLOv5 and YOLOX."""

from collections.abc import Sequence

import torch
from torch import nn

from .heads import Levels
from .layers import ConvUnit, CrossStage, UpsampleCat


class PathAggregation(nn.Module):
    """Top-down then bottom-up over three levels; the four stages are the caller's.

    Invariant: the stages' input channels are the concatenations made here, in call order.
    """

    def __init__(self, channels: tuple[int, int, int], stages: Sequence[nn.Module]) -> None:
        super().__init__()
        small, middle, _ = channels
        self.join = UpsampleCat()
        self.top_middle, self.top_small, self.bottom_middle, self.bottom_large = stages
        self.down_small = ConvUnit(small, small, 3, 2)
        self.down_middle = ConvUnit(middle, middle, 3, 2)

    def forward(self, features: Levels) -> Levels:
        small, middle, large = features
        middle = self.top_middle(self.join(large, middle))
        small = self.top_small(self.join(middle, small))
        middle = self.bottom_middle(torch.cat((self.down_small(small), middle), 1))
        large = self.bottom_large(torch.cat((self.down_middle(middle), large), 1))
        return small, middle, large


def neck_channels(channels: tuple[int, int, int]) -> tuple[tuple[int, int], ...]:
    """Return (in, out) channels of the four stages for a backbone with `channels`."""
    small, middle, large = channels
    return (large + middle, middle), (middle + small, small), (small + middle, middle), (middle + large, large)


class ReducedPathAggregation(nn.Module):
    """The same of CSP stages, with a 1x1 that halves the channels before each upsampling."""

    def __init__(self, channels: tuple[int, int, int], depth: int) -> None:
        super().__init__()
        small, middle, large = channels
        self.join = UpsampleCat()
        self.reduce_large = ConvUnit(large, middle)
        self.top_middle = CrossStage(2 * middle, middle, depth, False)
        self.reduce_middle = ConvUnit(middle, small)
        self.top_small = CrossStage(2 * small, small, depth, False)
        self.down_small = ConvUnit(small, small, 3, 2)
        self.bottom_middle = CrossStage(2 * small, middle, depth, False)
        self.down_middle = ConvUnit(middle, middle, 3, 2)
        self.bottom_large = CrossStage(2 * middle, large, depth, False)

    def forward(self, features: Levels) -> Levels:
        small, middle, large = features
        large = self.reduce_large(large)
        middle = self.reduce_middle(self.top_middle(self.join(large, middle)))
        small = self.top_small(self.join(middle, small))
        middle = self.bottom_middle(torch.cat((self.down_small(small), middle), 1))
        large = self.bottom_large(torch.cat((self.down_middle(middle), large), 1))
        return small, middle, large
