"""MobileNetV2 (arXiv 1801.04381) at width 1.0."""

from torch import Tensor, nn

STAGES = (
    # (expansion, channels, blocks, stride), table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_relu6(in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel by a 3x3, narrow by a 1x1 without activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: float) -> None:
        super().__init__()
        hidden = round(in_channels * expansion)
        widen = [] if expansion == 1 else [conv_relu6(in_channels, hidden, 1)]
        self.path = nn.Sequential(
            *widen,
            conv_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.path(x)
        return x + y if self.shortcut else y


def feature_layers() -> list[nn.Module]:
    """Return the 19 layers up to the 1280-channel feature map."""
    layers: list[nn.Module] = [conv_relu6(3, 32, 3, 2)]
    channels = 32
    for expansion, width, blocks, stride in STAGES:
        for index in range(blocks):
            layers.append(InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
            channels = width
    layers.append(conv_relu6(channels, 1280, 1))
    return layers


class MobileNetV2(nn.Module):
    """Features, global average pool and classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*feature_layers())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """Return MobileNetV2 in eval mode."""
    return MobileNetV2(classes).eval()
