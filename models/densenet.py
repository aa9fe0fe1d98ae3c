"""DenseNet-121 (arXiv 1608.06993): growth 32, bottleneck width 128, blocks of 6, 12, 24 and 16 layers."""

import torch
from torch import Tensor, nn

GROWTH = 32
DEPTHS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3 over everything the block has made so far."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, made: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu(self.norm1(torch.cat(made, 1))))
        y: Tensor = self.conv2(self.relu(self.norm2(x)))
        return y


class DenseBlock(nn.Module):
    """Layers that each read all earlier outputs; returns all of them."""

    def __init__(self, in_channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(in_channels + GROWTH * i) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for layer in self.layers:
            made.append(layer(made))
        return torch.cat(made, 1)


def transition(channels: int) -> nn.Sequential:
    """Return the layers that halve channels, height and width between two blocks."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


class DenseNet121(nn.Module):
    """Stem, four dense blocks with transitions between them, global pool, classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        layers: list[nn.Module] = [stem]
        channels = 64
        for index, depth in enumerate(DEPTHS):
            layers.append(DenseBlock(channels, depth))
            channels += depth * GROWTH
            if index < 3:
                layers.append(transition(channels))
                channels //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def densenet121(classes: int = 1000) -> nn.Module:
    """Return DenseNet-121 in eval mode."""
    return DenseNet121(classes).eval()
