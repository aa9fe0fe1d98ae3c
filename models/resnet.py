"""ResNet (arXiv 1512.03385)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


class Shortcut(nn.Sequential):
    """A 1x1 projection with batch norm, for a residual block that changes shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """The shared part of both block kinds: relu(path(x) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, path: nn.Sequential) -> None:
        super().__init__()
        self.path = path
        self.relu = nn.ReLU(inplace=True)
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else Shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.path(x)
        out += x if self.shortcut is None else self.shortcut(x)
        y: Tensor = self.relu(out)
        return y


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def bottleneck_block(in_channels: int, width: int, stride: int, *, stride_on_first: bool = False) -> ResidualBlock:
    """Return the 1x1, 3x3, 1x1 block of ResNet-50 and deeper; it has 4 * width channels out.

    The stride is on the 3x3, or on the first 1x1 as in the paper's own release and in Detectron.
    """
    strides = (stride, 1) if stride_on_first else (1, stride)
    path = nn.Sequential(
        *_conv_norm(in_channels, width, 1, strides[0]),
        nn.ReLU(inplace=True),
        *_conv_norm(width, width, 3, strides[1]),
        nn.ReLU(inplace=True),
        *_conv_norm(width, 4 * width, 1),
    )
    return ResidualBlock(in_channels, 4 * width, stride, path)


def basic_block(in_channels: int, width: int, stride: int) -> ResidualBlock:
    """Return the two-convolution block of ResNet-18 and ResNet-34; it has `width` channels out."""
    path = nn.Sequential(*_conv_norm(in_channels, width, 3, stride), nn.ReLU(inplace=True), *_conv_norm(width, width, 3))
    return ResidualBlock(in_channels, width, stride, path)


class ResNet(nn.Module):
    """Stem, four stages (`features`), global average pool and classifier."""

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        classes: int,
        *,
        bottleneck: bool,
        stride_on_first: bool = False,
    ) -> None:
        super().__init__()
        block: Callable[[int, int, int], ResidualBlock] = basic_block
        if bottleneck:
            block = partial(bottleneck_block, stride_on_first=stride_on_first)
        growth = 4 if bottleneck else 1
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        stages, channels = [], 64
        for index, depth in enumerate(depths):
            width = 64 << index
            blocks = [block(channels, width, 1 if index == 0 else 2)]
            blocks += [block(width * growth, width, 1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width * growth
        self.stages = nn.ModuleList(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input size."""
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def resnet18(classes: int = 1000) -> ResNet:
    """Return ResNet-18 in eval mode."""
    return ResNet((2, 2, 2, 2), classes, bottleneck=False).eval()


def resnet50(classes: int = 1000) -> ResNet:
    """Return ResNet-50 in eval mode."""
    return ResNet((3, 4, 6, 3), classes, bottleneck=True).eval()
