"""Detection heads in the form they are exported for inference: boxes decoded, classes as sigmoids."""

import torch
from torch import Tensor, nn

from .layers import ConvUnit, depthwise_unit

Levels = tuple[Tensor, Tensor, Tensor]
STRIDES = (8.0, 16.0, 32.0)
DISTANCE_BINS = 16


def cell_indices(feature: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the column and the row number of every cell, each 1x1xHxW and counted from one; typed like `feature`.

    Running sums over ones: their shapes follow from the feature map's, also in an exported graph,
    where ONNX shape inference cannot see how long a `Range` is.
    """
    ones = torch.ones(1, 1, height, width, dtype=feature.dtype, device=feature.device)
    return ones.cumsum(3), ones.cumsum(2)


def grid_points(features: Levels) -> tuple[Tensor, Tensor]:
    """Return all cell centres (1x2xA, in cells) and the stride of each (1x1xA, in pixels)."""
    centres, strides = [], []
    for feature, stride in zip(features, STRIDES, strict=True):
        columns, rows = cell_indices(feature, feature.shape[2], feature.shape[3])
        centres.append(torch.cat((columns, rows), 1).flatten(2) - 0.5)
        strides.append(torch.full_like(columns, stride).flatten(2))
    return torch.cat(centres, 2), torch.cat(strides, 2)


class ExpectedDistance(nn.Module):
    """Turn a distribution over 16 bins into its mean (arXiv 2006.04388), as a fixed 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(DISTANCE_BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data.copy_(torch.arange(float(DISTANCE_BINS)).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map Bx64xA logits to Bx4xA distances."""
        bins = x.view(x.shape[0], 4, DISTANCE_BINS, x.shape[2]).transpose(1, 2).softmax(1)
        mean: Tensor = self.conv(bins).view(x.shape[0], 4, x.shape[2])
        return mean


def _box_branch(in_channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(in_channels, hidden, 3),
        ConvUnit(hidden, hidden, 3),
        nn.Conv2d(hidden, 4 * DISTANCE_BINS, 1),
    )


def _class_branch(in_channels: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(in_channels, hidden, 3),
        ConvUnit(hidden, hidden, 3),
        nn.Conv2d(hidden, classes, 1),
    )


def _light_class_branch(in_channels: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        depthwise_unit(in_channels),
        ConvUnit(in_channels, hidden),
        depthwise_unit(hidden),
        ConvUnit(hidden, hidden),
        nn.Conv2d(hidden, classes, 1),
    )


class AnchorFreeHead(nn.Module):
    """Decoupled head of YOLOv8 and YOLO11: Bx(4 + classes)xA, boxes as xywh in pixels.

    `light` replaces the 3x3 convolutions of the class branch by depthwise separable ones (YOLO11).
    """

    def __init__(self, channels: tuple[int, int, int], classes: int, *, light: bool = False) -> None:
        super().__init__()
        box_hidden = max(16, channels[0] // 4, 4 * DISTANCE_BINS)
        class_hidden = max(channels[0], min(classes, 100))
        branch = _light_class_branch if light else _class_branch
        self.classes = classes
        self.boxes = nn.ModuleList(_box_branch(c, box_hidden) for c in channels)
        self.scores = nn.ModuleList(branch(c, class_hidden, classes) for c in channels)
        self.distance = ExpectedDistance()

    def forward(self, features: Levels) -> Tensor:
        maps = [
            torch.cat((box(feature), score(feature)), 1)
            for box, score, feature in zip(self.boxes, self.scores, features, strict=True)
        ]
        centres, strides = grid_points(features)
        flat = torch.cat([level.flatten(2) for level in maps], 2)
        boxes, scores = torch.split(flat, [4 * DISTANCE_BINS, self.classes], 1)
        pixels = corners_to_centre(self.distance(boxes), centres) * strides
        return torch.cat((pixels, scores.sigmoid()), 1)


def corners_to_centre(distances: Tensor, centres: Tensor) -> Tensor:
    """Turn left, top, right, bottom distances from a point (Bx4xA) into centre x, y, width, height."""
    before, after = torch.split(distances, 2, 1)
    top_left, bottom_right = centres - before, centres + after
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), 1)


class AnchorHead(nn.Module):
    """Anchor-based head of YOLOv5: Bx(3 * cells)x(5 + classes), boxes as xywh in pixels.

    Anchor sizes are those published for COCO, in pixels.
    """

    anchors: Tensor

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.values = 5 + classes
        self.predict = nn.ModuleList(nn.Conv2d(c, 3 * self.values, 1) for c in channels)
        self.register_buffer("anchors", COCO_ANCHORS.reshape(3, 1, 3, 1, 1, 2).clone(), persistent=False)

    def forward(self, features: Levels) -> Tensor:
        cells = self.cells(features)
        return torch.cat([self.decode(level, index) for index, level in enumerate(cells)], 1)

    def cells(self, features: Levels) -> list[Tensor]:
        """Return the raw predictions of each level, Bx3xHxWx(5 + classes)."""
        raw = [predict(feature) for predict, feature in zip(self.predict, features, strict=True)]
        return [self._by_cell(level) for level in raw]

    def _by_cell(self, raw: Tensor) -> Tensor:
        batch, _, height, width = raw.shape
        return raw.view(batch, 3, self.values, height, width).permute(0, 1, 3, 4, 2).contiguous()

    def decode(self, cells: Tensor, level: int) -> Tensor:
        """Return one level's boxes and scores, Bx(3HW)x(5 + classes)."""
        batch, _, height, width, _ = cells.shape
        offset, size, rest = torch.split(cells.sigmoid(), [2, 2, self.values - 4], 4)
        columns, rows = cell_indices(cells, height, width)
        centre = (offset * 2 + (torch.stack((columns, rows), 4) - 1.5)) * STRIDES[level]
        extent = (size * 2) ** 2 * self.anchors[level]
        return torch.cat((centre, extent, rest), 4).view(batch, 3 * height * width, self.values)


COCO_ANCHORS = torch.tensor(
    (
        ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
        ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
        ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
    )
)
