"""GoogLeNet (arXiv 1409.4842) as first released: local response norm, no batch norm, no side classifiers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Widths = tuple[int, int, int, int, int, int]
# 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection: table 1 of the paper
STAGES: tuple[tuple[Widths, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class _LocalNorm(torch.autograd.Function):
    """Local response norm that is exported as one LRN node instead of its ten-odd steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("LRN", x, size_i=5, alpha_f=1e-4, beta_f=0.75, bias_f=1.0).setType(x.type())


class LocalNorm(nn.Module):
    """Divide each value by the energy of its five neighbouring channels."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _LocalNorm.apply(x)  # type: ignore[no-untyped-call]
        return y


def conv_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """Return convolution with bias and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four parallel branches, concatenated."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        self.one = conv_relu(in_channels, one, 1)
        self.three = nn.Sequential(conv_relu(in_channels, three_in, 1), conv_relu(three_in, three, 3, 1, 1))
        self.five = nn.Sequential(conv_relu(in_channels, five_in, 1), conv_relu(five_in, five, 5, 1, 2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_relu(in_channels, pooled, 1))
        self.out_channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pooled(x)), 1)


def halve() -> nn.MaxPool2d:
    """Return the 3x3 stride 2 pool that rounds its output size up, as Caffe does."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class GoogLeNet(nn.Module):
    """Stem, nine inception modules, 7x7 average pool, classifier with softmax; 224x224 images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv_relu(3, 64, 7, 2, 3),
            halve(),
            LocalNorm(),
            conv_relu(64, 64, 1),
            conv_relu(64, 192, 3, 1, 1),
            LocalNorm(),
        ]
        channels = 192
        for stage in STAGES:
            layers.append(halve())
            for widths in stage:
                block = Inception(channels, widths)
                layers.append(block)
                channels = block.out_channels
        self.features = nn.Sequential(*layers, nn.AvgPool2d(7, 1))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits.softmax(1)


def googlenet(classes: int = 1000) -> nn.Module:
    """Return GoogLeNet in eval mode."""
    return GoogLeNet(classes).eval()
