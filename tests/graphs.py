"""Small graphs for tests, written as one line a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vramplan.dtypes import DType
from vramplan.graph import Attribute, Graph, Node, Tensor

Shape = tuple[int, ...]


def graph(
    inputs: Mapping[str, Shape],
    nodes: Sequence[tuple[str, str, Mapping[str, Shape]] | tuple[str, str, Mapping[str, Shape], Mapping[str, Attribute]]],
    outputs: str,
    weights: Mapping[str, Shape] | None = None,
    values: Mapping[str, tuple[int, ...]] | None = None,
    dtype: DType = DType.FLOAT32,
) -> Graph:
    """``nodes`` are (op, "input names", {output name: shape}[, attributes]); node names are the op and its position."""
    shapes = {**inputs, **(weights or {})}
    made = []
    for index, (op, reads, writes, *attributes) in enumerate(nodes):
        shapes.update(writes)
        made.append(
            Node(
                name=f"{op}_{index}",
                op=op,
                inputs=tuple("" if name == "-" else name for name in reads.split()),
                outputs=tuple(writes),
                attributes=attributes[0] if attributes else {},
            )
        )
    tensors = {name: Tensor(name=name, dtype=dtype, shape=shape) for name, shape in shapes.items()}
    for name, value in (values or {}).items():
        tensors[name] = Tensor(name=name, dtype=DType.INT64, shape=(len(value),), value=value)
    return Graph(
        name="test",
        tensors=tensors,
        nodes=tuple(made),
        inputs=tuple(inputs),
        outputs=tuple(outputs.split()),
        weights=(*(weights or {}), *(values or {})),
    )


IMAGE = (1, 8, 16, 16)
KERNEL = (8, 8, 3, 3)


def silu(source: str, target: str, shape: Shape = IMAGE) -> list[tuple[str, str, Mapping[str, Shape]]]:
    """x * sigmoid(x), as exporters write it."""
    return [("Sigmoid", source, {f"{target}_gate": shape}), ("Mul", f"{source} {target}_gate", {target: shape})]
