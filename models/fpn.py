"""Feature pyramid (arXiv 1612.03144) on ResNet-50 with a region proposal head: Mask R-CNN's shared trunk."""

from torch import Tensor, nn
from torch.nn import functional

from .resnet import ResNet

PYRAMID = 256
ANCHORS = 3
MAPS = ("p2", "p3", "p4", "p5", "p6")
OUTPUT_NAMES = (*MAPS, *(f"{level}_{part}" for level in MAPS for part in ("objectness", "offsets")))


class ProposalTrunk(nn.Module):
    """Returns the pyramid's five maps, then objectness and box offsets of each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet((3, 4, 6, 3), 1, bottleneck=True, stride_on_first=True)
        del self.backbone.classifier, self.backbone.pool
        self.lateral = nn.ModuleList(nn.Conv2d(c, PYRAMID, 1) for c in (256, 512, 1024, 2048))
        self.smooth = nn.ModuleList(nn.Conv2d(PYRAMID, PYRAMID, 3, padding=1) for _ in range(4))
        self.shared = nn.Conv2d(PYRAMID, PYRAMID, 3, padding=1)
        self.objectness = nn.Conv2d(PYRAMID, ANCHORS, 1)
        self.offsets = nn.Conv2d(PYRAMID, 4 * ANCHORS, 1)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return maps at 1/4, 1/8, 1/16, 1/32 and 1/64 of the image, finest first."""
        levels = self.backbone.features(images)
        merged = [self.lateral[3](levels[3])]
        for index in (2, 1, 0):
            above = functional.interpolate(merged[0], scale_factor=2.0, mode="nearest")
            merged.insert(0, self.lateral[index](levels[index]) + above)
        maps = [conv(level) for conv, level in zip(self.smooth, merged, strict=True)]
        return [*maps, functional.max_pool2d(maps[3], 1, 2)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.pyramid(images)
        shared = [self.shared(level).relu() for level in maps]
        heads = [head(level) for level in shared for head in (self.objectness, self.offsets)]
        return (*maps, *heads)


def mask_rcnn_trunk() -> nn.Module:
    """Return ResNet-50, feature pyramid and proposal head in eval mode."""
    return ProposalTrunk().eval()
