"""The networks of the recorded traces, in the structure in which they were recorded.

A recording shows in what order a program makes and drops tensors, so a trace can only equal it if Python drops them in the same
places. These have the layers of `vramplan.models` in another frame: a ResNet that drops its last map before the classifier, a
vision transformer around `nn.MultiheadAttention`, and a YOLOv8 whose layers stand in one list and whose head keeps its grid.
"""

import torch
from torch import Tensor, nn
from vramplan.models.folding import fold_batch_norm
from vramplan.models.heads import STRIDES, AnchorFreeHead
from vramplan.models.layers import ConvUnit, PyramidPool
from vramplan.models.resnet import ResNet
from vramplan.models.yolov8 import SCALES, dense_stage


class DroppingResNet(ResNet):
    """Lets go of the last feature map once it is pooled."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = self.pool(x).flatten(1)
        return self.classifier(x)


def resnet50() -> nn.Module:
    """Return ResNet-50 in eval mode."""
    with torch.device("meta"):
        return DroppingResNet((3, 4, 6, 3), 1000, bottleneck=True).eval()


class EncoderBlock(nn.Module):
    """Pre-norm transformer block; in eval mode its attention is one fused op."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm_in(tokens)
        x, _ = self.attention(x, x, x, need_weights=False)
        x = x + tokens
        y = self.norm_out(x)
        y = self.mlp(y)
        return x + y


class Encoder(nn.Module):
    """Positions, blocks, a last norm."""

    def __init__(self, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.positions
        return self.norm(self.blocks(tokens))


class VisionTransformer(nn.Module):
    """Patches of one strided convolution, a class token, an encoder, a linear head on the class token."""

    def __init__(self, patch: int, image: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.encoder = Encoder((image // patch) ** 2 + 1, width, depth, heads)
        self.head = nn.Linear(width, classes)
        self.token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).permute(0, 2, 1)
        x = torch.cat((self.token.expand(len(images), -1, -1), x), 1)
        x = self.encoder(x)
        x = x[:, 0]
        return self.head(x)


def vit_b_16() -> nn.Module:
    """Return ViT-B/16 for 224x224 images in eval mode."""
    with torch.device("meta"):
        return VisionTransformer(patch=16, image=224, width=768, depth=12, heads=12, classes=1000).eval()


class Concat(nn.Module):
    """Append the channels of several maps."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)


class RememberingHead(AnchorFreeHead):
    """Boxes of all levels, then classes of all levels; the grid is made once; the raw maps are returned beside the result."""

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__(channels, classes)
        self.register_buffer("strides", torch.tensor(STRIDES, device="cpu"))
        self.register_buffer("centres", None)
        self.register_buffer("steps", None)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, dict[str, Tensor | list[Tensor]]]:
        boxes = torch.cat([branch(x).flatten(2) for branch, x in zip(self.boxes, features, strict=True)], -1)
        scores = torch.cat([branch(x).flatten(2) for branch, x in zip(self.scores, features, strict=True)], -1)
        maps = {"boxes": boxes, "scores": scores, "features": features}
        return self.decoded(maps), maps

    def decoded(self, maps: dict) -> Tensor:
        if self.centres is None:
            self.centres, self.steps = (x.transpose(0, 1) for x in _grid(maps["features"], self.strides.tolist()))
        pixels = self.placed(self.distance(maps["boxes"]), self.centres.unsqueeze(0)) * self.steps
        return torch.cat((pixels, maps["scores"].sigmoid()), 1)

    def placed(self, distances: Tensor, centres: Tensor) -> Tensor:
        return _centred(distances, centres)

    def remember(self, points: int) -> None:
        """Have the grid of *points* cells already, as after a first call."""
        self.centres, self.steps = (torch.empty(points, count, device="meta").transpose(0, 1) for count in (2, 1))


def _grid(features: list[Tensor], strides: list[float]) -> tuple[Tensor, Tensor]:
    """Cell centres (Ax2) and strides (Ax1) of all levels."""
    centres, steps = [], []
    like = {"dtype": features[0].dtype, "device": features[0].device}
    for feature, stride in zip(features, strides, strict=True):
        height, width = feature.shape[2:]
        columns = torch.arange(width, **like) + 0.5
        rows = torch.arange(height, **like) + 0.5
        rows, columns = torch.meshgrid(rows, columns, indexing="ij")
        centres.append(torch.stack((columns, rows), -1).view(-1, 2))
        steps.append(torch.full((height * width, 1), stride, **like))
    return torch.cat(centres), torch.cat(steps)


def _centred(distances: Tensor, centres: Tensor) -> Tensor:
    before, after = distances.chunk(2, 1)
    top_left = centres - before
    bottom_right = centres + after
    centre = (top_left + bottom_right) / 2
    size = bottom_right - top_left
    return torch.cat((centre, size), 1)


class LayerList(nn.Module):
    """Layers in one list: each takes the last result, or the kept results that it names (None: the last)."""

    def __init__(self, steps: list[tuple[nn.Module, tuple[int | None, ...]]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in steps)
        self.sources = [sources for _, sources in steps]
        self.kept = {index for sources in self.sources for index in sources}

    def forward(self, x):
        results = []
        for index, (layer, sources) in enumerate(zip(self.layers, self.sources, strict=True)):
            if sources:
                x = [x if source is None else results[source] for source in sources]
            x = layer(x)
            results.append(x if index in self.kept else None)
        return x


def yolov8s() -> nn.Module:
    """Return YOLOv8 small in eval mode: batch norms folded, activations into new tensors."""
    with torch.device("meta"):
        model = LayerList(_yolov8s_layers())
        model = fold_batch_norm(model)
    for part in model.modules():
        if isinstance(part, nn.SiLU):
            part.inplace = False
    return model


def _yolov8s_layers() -> list[tuple[nn.Module, tuple[int | None, ...]]]:
    a, b, c, d, e = (SCALES["s"].channels(base) for base in (64, 128, 256, 512, 1024))
    short, deep = SCALES["s"].repeats(3), SCALES["s"].repeats(6)
    return [
        (ConvUnit(3, a, 3, 2), ()),
        (ConvUnit(a, b, 3, 2), ()),
        (dense_stage(b, b, short, True), ()),
        (ConvUnit(b, c, 3, 2), ()),
        (dense_stage(c, c, deep, True), ()),
        (ConvUnit(c, d, 3, 2), ()),
        (dense_stage(d, d, deep, True), ()),
        (ConvUnit(d, e, 3, 2), ()),
        (dense_stage(e, e, short, True), ()),
        (PyramidPool(e, e), ()),
        (nn.Upsample(scale_factor=2), ()),
        (Concat(), (None, 6)),
        (dense_stage(e + d, d, short, False), ()),
        (nn.Upsample(scale_factor=2), ()),
        (Concat(), (None, 4)),
        (dense_stage(d + c, c, short, False), ()),
        (ConvUnit(c, c, 3, 2), ()),
        (Concat(), (None, 12)),
        (dense_stage(c + d, d, short, False), ()),
        (ConvUnit(d, d, 3, 2), ()),
        (Concat(), (None, 9)),
        (dense_stage(d + e, e, short, False), ()),
        (RememberingHead((c, d, e), 80), (15, 18, 21)),
    ]
