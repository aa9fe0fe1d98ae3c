"""YOLOv8 for other tasks (instance masks, image classification) and YOLOv5 with its raw outputs."""

import torch
from torch import Tensor, nn

from .heads import AnchorFreeHead, AnchorHead, Levels
from .layers import ConvUnit
from .necks import PathAggregation, neck_channels
from .yolov5 import SCALES as V5_SCALES
from .yolov5 import YoloV5
from .yolov8 import SCALES, Backbone, Scale, dense_stage

MASKS = 32


class Prototypes(nn.Module):
    """Make 32 mask prototypes at twice the finest level's resolution."""

    def __init__(self, in_channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvUnit(in_channels, hidden, 3),
            nn.ConvTranspose2d(hidden, hidden, 2, 2),
            ConvUnit(hidden, hidden, 3),
            ConvUnit(hidden, MASKS),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class YoloV8Segmenter(nn.Module):
    """Returns Bx(4 + classes + 32)xA predictions and Bx32x(H/4)x(W/4) prototypes."""

    def __init__(self, scale: Scale, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(scale)
        channels, depth = self.backbone.channels, scale.repeats(3)
        stages = [dense_stage(a, b, depth, False) for a, b in neck_channels(channels)]
        self.neck = PathAggregation(channels, stages)
        self.head = AnchorFreeHead(channels, classes)
        self.prototypes = Prototypes(channels[0], scale.channels(256))
        hidden = max(channels[0] // 4, MASKS)
        self.coefficients = nn.ModuleList(
            nn.Sequential(ConvUnit(c, hidden, 3), ConvUnit(hidden, hidden, 3), nn.Conv2d(hidden, MASKS, 1)) for c in channels
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.neck(self.backbone(images))
        prototypes: Tensor = self.prototypes(features[0])
        masks = [branch(level).flatten(2) for branch, level in zip(self.coefficients, features, strict=True)]
        return torch.cat((self.head(features), torch.cat(masks, 2)), 1), prototypes


def yolov8s_seg(classes: int = 80) -> nn.Module:
    """Return YOLOv8 small with masks, in eval mode."""
    return YoloV8Segmenter(SCALES["s"], classes).eval()


def yolov8m_seg(classes: int = 80) -> nn.Module:
    """Return YOLOv8 medium with masks, in eval mode."""
    return YoloV8Segmenter(SCALES["m"], classes).eval()


class YoloV8Classifier(nn.Module):
    """Backbone without its pyramid pool, a 1x1 to 1280 channels, global pool, softmax classifier."""

    def __init__(self, scale: Scale, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(scale, pool=False)
        self.widen = ConvUnit(self.backbone.channels[2], 1280)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        coarse = self.widen(self.backbone(images)[2])
        logits: Tensor = self.classifier(self.pool(coarse).flatten(1))
        return logits.softmax(1)


def yolov8s_cls(classes: int = 1000) -> nn.Module:
    """Return the YOLOv8 small classifier in eval mode."""
    return YoloV8Classifier(SCALES["s"], classes).eval()


class RawYoloV5(YoloV5):
    """YOLOv5 that also returns the three raw maps, as release 7.0 exports it: four outputs."""

    head: AnchorHead

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        features: Levels = self.neck(self.backbone(images))
        cells = self.head.cells(features)
        decoded = [self.head.decode(level, index) for index, level in enumerate(cells)]
        return torch.cat(decoded, 1), *cells


def yolov5s_raw(classes: int = 80) -> nn.Module:
    """Return YOLOv5 small with four outputs, in eval mode."""
    return RawYoloV5(V5_SCALES["s"], AnchorHead, classes).eval()


class YoloV5Trunk(YoloV5):
    """YOLOv5 up to its three raw convolution outputs, for a plug-in that decodes them."""

    head: AnchorHead

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        features: Levels = self.neck(self.backbone(images))
        return tuple(conv(level) for conv, level in zip(self.head.predict, features, strict=True))


def yolov5n_trunk(classes: int = 80) -> nn.Module:
    """Return YOLOv5 nano without decoding, in eval mode."""
    return YoloV5Trunk(V5_SCALES["n"], AnchorHead, classes).eval()
