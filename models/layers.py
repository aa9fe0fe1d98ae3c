"""Building blocks shared by the YOLO definitions.

A convolution and its batch norm are registered next to each other, in call order: that is what
`folding.fold_batch_norm` relies on.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BlockFactory = Callable[[int, int, int, bool], nn.Module]
"""Makes a stage from (in channels, out channels, depth, shortcut)."""


def round_up(value: float, multiple: int = 8) -> int:
    """Return the smallest multiple of `multiple` that is not below `value`."""
    return -int(-value // multiple) * multiple


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, activation (SiLU unless told otherwise)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        pad = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, pad, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.activation = nn.SiLU(inplace=True) if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


def linear_unit(in_channels: int, out_channels: int, kernel: int = 1, *, groups: int = 1) -> ConvUnit:
    """Return a `ConvUnit` without activation."""
    return ConvUnit(in_channels, out_channels, kernel, groups=groups, activation=nn.Identity())


def depthwise_unit(channels: int, kernel: int = 3) -> ConvUnit:
    """Return a `ConvUnit` that convolves each channel alone."""
    return ConvUnit(channels, channels, kernel, groups=channels)


class Bottleneck(nn.Module):
    """Two convolutions with an optional residual connection."""

    def __init__(
        self,
        channels: int,
        *,
        kernels: tuple[int, int] = (3, 3),
        expansion: float = 1.0,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.reduce = ConvUnit(channels, hidden, kernels[0])
        self.expand = ConvUnit(hidden, channels, kernels[1])
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(x))
        return x + y if self.shortcut else y


class CrossStage(nn.Module):
    """CSP stage with three 1x1 convolutions (arXiv 1911.11929): a deep path beside a short one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        shortcut: bool = True,
        *,
        kernels: tuple[int, int] = (1, 3),
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.deep_in = ConvUnit(in_channels, hidden)
        self.short_in = ConvUnit(in_channels, hidden)
        self.merge = ConvUnit(2 * hidden, out_channels)
        self.blocks = nn.Sequential(*(Bottleneck(hidden, kernels=kernels, shortcut=shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.merge(torch.cat((self.blocks(self.deep_in(x)), self.short_in(x)), 1))
        return y


class DenseStage(nn.Module):
    """Split in two, grow a chain from the second half, merge every link of it with one 1x1."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.split = ConvUnit(in_channels, 2 * hidden)
        self.merge = ConvUnit((2 + len(blocks)) * hidden, out_channels)
        self.blocks = nn.ModuleList(blocks)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        links = list(self.split(x).split((self.hidden, self.hidden), 1))
        for block in self.blocks:
            links.append(block(links[-1]))
        y: Tensor = self.merge(torch.cat(links, 1))
        return y


class PyramidPool(nn.Module):
    """Spatial pyramid pooling as three 5x5 max pools in a row: windows of 5, 9 and 13."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvUnit(in_channels, hidden)
        self.merge = ConvUnit(4 * hidden, out_channels)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.reduce(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        y: Tensor = self.merge(torch.cat(levels, 1))
        return y


class UpsampleCat(nn.Module):
    """Double height and width (nearest), then append a skip connection's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((self.upsample(x), skip), 1)
