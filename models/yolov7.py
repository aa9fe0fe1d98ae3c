"""YOLOv7-tiny (arXiv 2207.02696): chained aggregation stages, LeakyReLU, anchor-based head."""

from functools import partial

import torch
from torch import Tensor, nn

from .heads import AnchorHead, Levels
from .layers import ConvUnit, UpsampleCat


def leaky_unit(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> ConvUnit:
    """Return a `ConvUnit` with LeakyReLU 0.1."""
    activation = nn.LeakyReLU(0.1, inplace=True)
    return ConvUnit(in_channels, out_channels, kernel, stride, activation=activation)


class Aggregation(nn.Module):
    """Two 1x1 and a chain of two 3x3, all four concatenated and merged to twice the width."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.side = leaky_unit(in_channels, width)
        self.chain_in = leaky_unit(in_channels, width)
        self.chain_1 = leaky_unit(width, width, 3)
        self.chain_2 = leaky_unit(width, width, 3)
        self.merge = leaky_unit(4 * width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        side, start = self.side(x), self.chain_in(x)
        first = self.chain_1(start)
        y: Tensor = self.merge(torch.cat((self.chain_2(first), first, start, side), 1))
        return y


class CrossStagePool(nn.Module):
    """Parallel pools of 13, 9 and 5 on one half, the other half kept."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.kept = leaky_unit(in_channels, width)
        self.reduce = leaky_unit(in_channels, width)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (13, 9, 5))
        self.mix = leaky_unit(4 * width, width)
        self.merge = leaky_unit(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        kept, reduced = self.kept(x), self.reduce(x)
        mixed = self.mix(torch.cat([*(pool(reduced) for pool in self.pools), reduced], 1))
        y: Tensor = self.merge(torch.cat((mixed, kept), 1))
        return y


class Backbone(nn.Module):
    """Stem of two strided convolutions, then four stages with max pools between them."""

    def __init__(self) -> None:
        super().__init__()
        pool = partial(nn.MaxPool2d, 2, 2)
        self.fine = nn.Sequential(leaky_unit(3, 32, 3, 2), leaky_unit(32, 64, 3, 2), Aggregation(64, 32))
        self.small = nn.Sequential(pool(), Aggregation(64, 64))
        self.middle = nn.Sequential(pool(), Aggregation(128, 128))
        self.large = nn.Sequential(pool(), Aggregation(256, 256), CrossStagePool(512, 256))

    def forward(self, x: Tensor) -> Levels:
        small = self.small(self.fine(x))
        middle = self.middle(small)
        return small, middle, self.large(middle)


class Neck(nn.Module):
    """Path aggregation; skip connections pass a 1x1 first and outputs a 3x3 that doubles them."""

    def __init__(self) -> None:
        super().__init__()
        self.join = UpsampleCat()
        self.reduce_large, self.skip_middle = leaky_unit(256, 128), leaky_unit(256, 128)
        self.top_middle = Aggregation(256, 64)
        self.reduce_middle, self.skip_small = leaky_unit(128, 64), leaky_unit(128, 64)
        self.top_small = Aggregation(128, 32)
        self.down_small = leaky_unit(64, 128, 3, 2)
        self.bottom_middle = Aggregation(256, 64)
        self.down_middle = leaky_unit(128, 256, 3, 2)
        self.bottom_large = Aggregation(512, 128)
        self.widen = nn.ModuleList(leaky_unit(c, 2 * c, 3) for c in (64, 128, 256))

    def forward(self, features: Levels) -> Levels:
        small, middle, large = features
        middle = self.top_middle(self.join(self.reduce_large(large), self.skip_middle(middle)))
        small = self.top_small(self.join(self.reduce_middle(middle), self.skip_small(small)))
        middle = self.bottom_middle(torch.cat((self.down_small(small), middle), 1))
        large = self.bottom_large(torch.cat((self.down_middle(middle), large), 1))
        small, middle, large = (wide(x) for wide, x in zip(self.widen, (small, middle, large), strict=True))
        return small, middle, large


class YoloV7Tiny(nn.Module):
    """Returns Bx(3 * cells)x(5 + classes), boxes as xywh in pixels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.head = AnchorHead((128, 256, 512), classes)

    def forward(self, images: Tensor) -> Tensor:
        predictions: Tensor = self.head(self.neck(self.backbone(images)))
        return predictions


def yolov7_tiny(classes: int = 80) -> nn.Module:
    """Return YOLOv7-tiny in eval mode; anchor sizes are YOLOv5's, which changes no shape."""
    return YoloV7Tiny(classes).eval()
