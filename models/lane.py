"""Ultra-Fast-Lane-Detection, version 1 (arXiv 2004.11757), on ResNet-18: lanes as classification by row."""

from torch import Tensor, nn

from .resnet import resnet18

HIDDEN = 2048
POOLED_CHANNELS = 8


class LaneNet(nn.Module):
    """ResNet-18 features, a 1x1 to 8 channels, two linear layers: Bx(cells + 1)x(rows)x(lanes)."""

    def __init__(self, image_px: tuple[int, int], cells: int, rows: int, lanes: int) -> None:
        super().__init__()
        self.backbone = resnet18()
        del self.backbone.classifier, self.backbone.pool
        self.pool = nn.Conv2d(512, POOLED_CHANNELS, 1)
        flat = POOLED_CHANNELS * (image_px[0] // 32) * (image_px[1] // 32)
        self.output = (cells + 1, rows, lanes)
        self.classifier = nn.Sequential(nn.Linear(flat, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, (cells + 1) * rows * lanes))

    def forward(self, images: Tensor) -> Tensor:
        coarse = self.pool(self.backbone.features(images)[-1])
        logits: Tensor = self.classifier(coarse.flatten(1))
        return logits.view(-1, *self.output)


def ufld_culane() -> nn.Module:
    """Return the CULane variant in eval mode: 288x800 images, 200 cells, 18 rows, 4 lanes."""
    return LaneNet((288, 800), 200, 18, 4).eval()
