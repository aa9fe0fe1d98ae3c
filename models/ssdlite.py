"""SSDLite on MobileNetV2 (arXiv 1801.04381, section 6.2) for 300x300 images: six maps, 3,000 boxes."""

import torch
from torch import Tensor, nn

from .mobilenet import InvertedResidual, feature_layers

MAP_CHANNELS = (576, 1280, 512, 256, 256, 64)
MAP_CELLS = (19, 10, 5, 3, 2, 1)
BOXES_PER_CELL = 6
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a depthwise 3x3 with batch norm and ReLU, then a 1x1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def predictors(values: int) -> nn.ModuleList:
    """Return one predictor a map; the last map has a single cell and takes a plain 1x1."""
    heads: list[nn.Module] = [separable(c, BOXES_PER_CELL * values) for c in MAP_CHANNELS[:-1]]
    return nn.ModuleList([*heads, nn.Conv2d(MAP_CHANNELS[-1], BOXES_PER_CELL * values, 1)])


class SsdLite(nn.Module):
    """Returns class probabilities (Bx3000xclasses) and box corners (Bx3000x4)."""

    priors: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers = feature_layers()
        tapped = list(layers[14].get_submodule("path").children())
        self.early = nn.Sequential(*layers[:14], tapped[0])
        self.late = nn.Sequential(*tapped[1:], *layers[15:])
        specs = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
        self.extras = nn.ModuleList(InvertedResidual(a, b, 2, ratio) for a, b, ratio in specs)
        self.scores, self.offsets = predictors(classes), predictors(4)
        boxes = BOXES_PER_CELL * sum(side * side for side in MAP_CELLS)
        self.classes = classes
        self.register_buffer("priors", torch.rand(1, boxes, 4), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self._maps(images)
        scores = [_rows(f(x), self.classes) for f, x in zip(self.scores, maps, strict=True)]
        offsets = [_rows(f(x), 4) for f, x in zip(self.offsets, maps, strict=True)]
        return torch.cat(scores, 1).softmax(2), self._corners(torch.cat(offsets, 1))

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the six maps; the finest is the widened tensor inside the 15th layer."""
        maps = [self.early(images)]
        for extra in (self.late, *self.extras):
            maps.append(extra(maps[-1]))
        return maps

    def _corners(self, offsets: Tensor) -> Tensor:
        centre = offsets[..., :2] * CENTRE_VARIANCE * self.priors[..., 2:] + self.priors[..., :2]
        size = (offsets[..., 2:] * SIZE_VARIANCE).exp() * self.priors[..., 2:]
        return torch.cat((centre - size / 2, centre + size / 2), 2)


def _rows(raw: Tensor, values: int) -> Tensor:
    """Turn Bx(6 * values)xHxW into Bx(6HW)xvalues."""
    return raw.permute(0, 2, 3, 1).contiguous().view(raw.shape[0], -1, values)


def ssdlite_mobilenet_v2(classes: int = 21) -> nn.Module:
    """Return SSDLite on MobileNetV2 in eval mode; prior boxes are random, which changes no shape."""
    return SsdLite(classes).eval()
