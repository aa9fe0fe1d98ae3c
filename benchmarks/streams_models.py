"""Detectors that are not built in, drawn from public descriptions as they are deployed: YOLOv6 with its branches merged.

A graph of convolutions is enough to count work. Each is checked against its published operations (`test_streams_published`).
Sources: the YOLOv6 paper (arXiv 2209.02976), sections 2.1 to 2.3, and the model table of its README.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vramplan.dtypes import DType
from vramplan.graph import Attribute, Graph, Node, Tensor

Shape = tuple[int, int, int, int]


class Sketch:
    """A graph that grows one layer at a time; layers are named by the tensor they write."""

    def __init__(self, size_px: int, *, activation: str) -> None:
        self.activation = activation
        self.tensors = {"images": _tensor("images", (1, 3, size_px, size_px))}
        self.nodes: list[Node] = []
        self.weights: list[str] = []

    def shape(self, name: str) -> Shape:
        """Batch, channels, height, width."""
        batch, channels, height, width = self.tensors[name].shape or ()
        return batch, channels, height, width

    def op(self, op: str, reads: Sequence[str], shape: Shape, **attributes: Attribute) -> str:
        """One node; returns the tensor it writes."""
        name = f"{op}_{len(self.nodes)}"
        self.tensors[name] = _tensor(name, shape)
        self.nodes.append(Node(name=name, op=op, inputs=tuple(reads), outputs=(name,), attributes=attributes))
        return name

    def weight(self, shape: Shape) -> str:
        """A weight of that shape."""
        name = f"weight_{len(self.weights)}"
        self.tensors[name] = _tensor(name, shape)
        self.weights.append(name)
        return name

    def conv(self, x: str, channels: int, kernel: int = 1, stride: int = 1, *, acts: bool = True) -> str:
        """A convolution with its activation."""
        _, inputs, height, width = self.shape(x)
        out = (1, channels, height // stride, width // stride)
        y = self.op("Conv", [x, self.weight((channels, inputs, kernel, kernel))], out, kernel_shape=(kernel, kernel))
        if not acts:
            return y
        if self.activation == "Relu":
            return self.op("Relu", [y], out)
        return self.op("Mul", [y, self.op("Sigmoid", [y], out)], out)

    def upsample(self, x: str) -> str:
        """A transposed convolution that doubles both sides."""
        _, channels, height, width = self.shape(x)
        return self.op("ConvTranspose", [x, self.weight((channels, channels, 2, 2))], (1, channels, 2 * height, 2 * width))

    def concat(self, *parts: str) -> str:
        """Joined along the channels."""
        _, _, height, width = self.shape(parts[0])
        return self.op("Concat", parts, (1, sum(self.shape(part)[1] for part in parts), height, width), axis=1)

    def pool(self, x: str) -> str:
        """The 5 x 5 maximum of a pyramid pool."""
        return self.op("MaxPool", [x], self.shape(x), kernel_shape=(5, 5))

    def finish(self, outputs: Sequence[str]) -> Graph:
        """The graph."""
        return Graph(
            name="sketch",
            tensors=self.tensors,
            nodes=tuple(self.nodes),
            inputs=("images",),
            outputs=tuple(outputs),
            weights=tuple(self.weights),
        )


def _tensor(name: str, shape: Shape) -> Tensor:
    return Tensor(name=name, dtype=DType.FLOAT32, shape=shape)


def _chain(sketch: Sketch, x: str, channels: int, count: int) -> str:
    """*count* 3 x 3 convolutions: re-parameterised blocks after their branches are merged."""
    for _ in range(count):
        x = sketch.conv(x, channels, 3)
    return x


def _split_chain(share: float) -> Callable[[Sketch, str, int, int], str]:
    """The same in a cross-stage block of which a *share* of the channels passes through pairs with shortcuts."""

    def block(sketch: Sketch, x: str, channels: int, count: int) -> str:
        hidden = int(channels * share)
        y = sketch.conv(x, hidden)
        for _ in range(max(1, count // 2)):
            y = sketch.op("Add", [y, _chain(sketch, y, hidden, 2)], sketch.shape(y))
        return sketch.conv(sketch.concat(y, sketch.conv(x, hidden)), channels)

    return block


def _pyramid_pool(sketch: Sketch, x: str) -> str:
    channels = sketch.shape(x)[1]
    parts = [sketch.conv(x, channels // 2)]
    for _ in range(3):
        parts.append(sketch.pool(parts[-1]))
    return sketch.conv(sketch.concat(*parts), channels)


def yolov6(width: float, depth: float, *, share: float | None = None, activation: str = "Relu", box_bins: int = 1) -> Graph:
    """YOLOv6 at 640 px, release 2; *share* is None for the small sizes, which have plain chains."""
    sketch = Sketch(640, activation=activation)
    block = _chain if share is None else _split_chain(share)
    channels = [round(base * width) for base in (64, 128, 256, 512, 1024)]
    repeats = [max(1, round(count * depth)) for count in (6, 12, 18, 6)]
    x = sketch.conv("images", channels[0], 3, 2)
    levels = []
    for size, count in zip(channels[1:], repeats, strict=True):
        x = block(sketch, sketch.conv(x, size, 3, 2), size, count)
        levels.append(x)
    levels[-1] = _pyramid_pool(sketch, levels[-1])
    heads = _neck(sketch, levels[1:], width, max(1, round(12 * depth)), block)
    return sketch.finish([output for head in heads for output in _head(sketch, head, box_bins)])


def _neck(
    sketch: Sketch, levels: Sequence[str], width: float, repeats: int, block: Callable[[Sketch, str, int, int], str]
) -> tuple[str, str, str]:
    fine, middle, coarse = levels
    c128, c256, c512 = (round(base * width) for base in (128, 256, 512))
    top = sketch.conv(coarse, c256)
    down = block(sketch, sketch.concat(sketch.upsample(top), middle), c256, repeats)
    side = sketch.conv(down, c128)
    small = block(sketch, sketch.concat(sketch.upsample(side), fine), c128, repeats)
    medium = block(sketch, sketch.concat(sketch.conv(small, c128, 3, 2), side), c256, repeats)
    large = block(sketch, sketch.concat(sketch.conv(medium, c256, 3, 2), top), c512, repeats)
    return small, medium, large


def _head(sketch: Sketch, x: str, box_bins: int) -> tuple[str, str]:
    channels = sketch.shape(x)[1]
    stem = sketch.conv(x, channels)
    classes = sketch.conv(sketch.conv(stem, channels, 3), 80, acts=False)
    return classes, sketch.conv(sketch.conv(stem, channels, 3), 4 * box_bins, acts=False)


SKETCHES: dict[str, Callable[[], Graph]] = {
    "N": lambda: yolov6(0.25, 0.33),
    "T": lambda: yolov6(0.50, 0.25),
    "S": lambda: yolov6(0.50, 0.33),
    "M": lambda: yolov6(0.75, 0.60, share=2 / 3, box_bins=17),
    "L": lambda: yolov6(1.0, 1.0, share=0.5, activation="Silu", box_bins=17),
    "L-ReLU": lambda: yolov6(1.0, 1.0, share=0.5, box_bins=17),
}

PUBLISHED = {"N": (11.1, 4.3), "T": (36.7, 15.0), "S": (44.2, 17.2), "M": (82.2, 34.3), "L": (144.0, 58.5)}
"""GFLOPs and millions of parameters of release 2 (YOLOv6 README), to check the sketches against."""


def sketch_of(model: str) -> Graph | None:
    """The sketch behind a model's published name, whatever the release: YOLOv6 at 640 px; None for other models."""
    if not model.startswith("YOLOv6-"):
        return None
    size = model.removeprefix("YOLOv6-").removeprefix("3.0-").partition(" ")[0]
    return SKETCHES[size]() if size in SKETCHES else None
