"""What is computed: tensors and the nodes between them, with every shape that is known.

A `Graph` is flat. The source that read it has already inlined local functions and the bodies of control flow, bound
the dynamic dimensions and inferred shapes; what it could not infer is marked on the tensor, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vramplan.dtypes import DType

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A value that flows through a graph.

    ``shape`` is the nominal shape. A shape that depends on the data (NonZero, NMS) is the largest possible one, with
    ``low_count`` below its element count. ``shape`` is None when inference gave up; then ``low_count`` and
    ``high_count`` are the limits that replace it. ``value`` holds the elements of small integer constants.

    Invariant: dimensions are >= 0 and low_count <= count <= high_count.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] | None
    low_count: int | None = None
    high_count: int | None = None
    value: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.shape is not None and any(dim < 0 for dim in self.shape):
            raise ValueError(f"tensor {self.name!r} has a negative dimension: {self.shape}")
        if self.shape is None and (self.low_count is None or self.high_count is None):
            raise ValueError(f"tensor {self.name!r} has neither a shape nor limits")
        if not self.count_low <= self.count <= self.count_high:
            raise ValueError(f"tensor {self.name!r}: {self.count_low} <= {self.count} <= {self.count_high} does not hold")

    @property
    def count(self) -> int:
        """Elements at the nominal shape; for an unknown shape the upper limit, because unknown is never zero."""
        return math.prod(self.shape) if self.shape is not None else self.count_high

    @property
    def count_low(self) -> int:
        """The fewest elements there can be."""
        return self.low_count if self.low_count is not None else math.prod(self.shape or ())

    @property
    def count_high(self) -> int:
        """The most elements there can be."""
        return self.high_count if self.high_count is not None else math.prod(self.shape or ())

    @property
    def is_certain(self) -> bool:
        """Whether the size follows from shapes alone."""
        return self.shape is not None and self.count_low == self.count_high

    @property
    def size_bytes(self) -> int:
        """Packed size at the nominal shape."""
        return self.dtype.storage_bytes(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. An absent optional input or output is the empty string.

    Invariant: at least one output is named.
    """

    name: str
    op: str
    domain: str = ""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(self.outputs):
            raise ValueError(f"node {self.name!r} ({self.op}) has no output")

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that are present."""
        return self.inputs if "" not in self.inputs else tuple(name for name in self.inputs if name)

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs that are present."""
        return self.outputs if "" not in self.outputs else tuple(name for name in self.outputs if name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A whole model at one set of input shapes.

    ``nodes`` are in execution order. ``weights`` are the constants that live on the device as parameters; ``notes``
    are doubts that belong to the result (a smaller If branch left out, a shape that inference gave up on).

    Invariant: every name in inputs, outputs, weights and nodes is a key of ``tensors``, and a tensor is written once,
    before it is read.
    """

    name: str
    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        written = {*self.inputs, *self.weights}
        for node in self.nodes:
            for name in node.reads:
                if name not in written:
                    raise ValueError(f"node {node.name!r} ({node.op}) reads {name!r} before anything wrote it")
            for name in node.writes:
                if name in written:
                    raise ValueError(f"tensor {name!r} is written twice, the second time by node {node.name!r} ({node.op})")
                written.add(name)
        for name in self.outputs:
            if name not in written:
                raise ValueError(f"output {name!r} is written by nothing")
        for name in written:
            if name not in self.tensors:
                raise ValueError(f"tensor {name!r} is not described")

    def at_low(self) -> Graph:
        """The same graph with every uncertain tensor at its fewest elements; itself when all sizes are certain."""
        uncertain = {name: tensor for name, tensor in self.tensors.items() if not tensor.is_certain}
        if not uncertain:
            return self
        fewest = {name: Tensor(name=name, dtype=tensor.dtype, shape=(tensor.count_low,)) for name, tensor in uncertain.items()}
        return replace(self, tensors={**self.tensors, **fewest})

    @property
    def parameter_count(self) -> int:
        """Elements of the learned weights: no shapes and indices, no scalars, no scales of Resize and quantisers."""
        settings = {name for node in self.nodes if node.op in TAKES_SETTINGS for name in node.inputs[1:]}
        weights = (self.tensors[name] for name in self.weights if name not in settings)
        return sum(tensor.count for tensor in weights if tensor.shape and (tensor.dtype.is_float or tensor.dtype.bits <= 8))


TAKES_SETTINGS = frozenset({"Resize", "Upsample", "QuantizeLinear", "DequantizeLinear"})
"""Ops whose operands after the first say how, not what: scales, sizes, zero points."""
