"""An ONNX model as a tree of plain objects: bodies of operations, some of which hold further bodies.

This is what `onnx_parse` makes of a file once, and what `onnx_flatten` walks for every binding of the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from vramplan.dtypes import DType
from vramplan.graph import Attribute

Dims = tuple[int | str, ...]
FunctionKey = tuple[str, str, str]
Values = npt.NDArray[Any]

ANY_DIM = "?"
"""A dimension that the file leaves open without naming it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A value as the file declares it: an input, an output, or a hint about a value in between.

    ``dims`` holds a number, the name of a dynamic dimension, or `ANY_DIM`; it is None when not even the rank is known.
    ``container`` is ``sequence``, ``optional`` or another word when the value is not a plain tensor.
    """

    name: str
    dtype: DType
    dims: Dims | None
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """An initializer or a Constant node. ``value`` is there when it is small.

    Invariant: value, if any, has the shape dims.
    """

    name: str
    dtype: DType
    dims: tuple[int, ...]
    value: Values | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.value.shape != self.dims:
            raise ValueError(f"constant {self.name!r} has shape {self.dims}, its values {self.value.shape}")

    @property
    def size_bytes(self) -> int:
        """Packed size."""
        count = 1
        for dim in self.dims:
            count *= dim
        return self.dtype.storage_bytes(count)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """One node as it stands in the file. ``proto`` is the message itself without its graphs, for onnx's inference.

    ``captures`` are the outer values that its bodies read; ``references`` maps an attribute to the attribute of the
    enclosing function that it stands for.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    tensors: Mapping[str, Constant] = field(default_factory=dict)
    bodies: Mapping[str, Body] = field(default_factory=dict)
    captures: frozenset[str] = frozenset()
    references: Mapping[str, str] = field(default_factory=dict)
    overload: str = ""
    proto: Any

    @property
    def function_key(self) -> FunctionKey:
        """Which local function it calls, if there is one of that name."""
        return self.domain, self.op, self.overload

    @property
    def reads(self) -> frozenset[str]:
        """Every value it needs before it can run."""
        return self.captures.union(name for name in self.inputs if name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """A graph: the main one, a branch, the inside of a loop, or a function.

    Invariant: operations are in an order in which they can run, and each name is written once.
    """

    name: str
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    constants: Mapping[str, Constant]
    operations: tuple[Operation, ...]
    hints: Mapping[str, Declared]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Function:
    """A function that the file defines itself. ``defaults`` are the attributes a caller may leave out."""

    body: Body
    opsets: Mapping[str, int]
    defaults: Mapping[str, Any]
    key: FunctionKey


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """A whole model, read and checked."""

    body: Body
    functions: Mapping[FunctionKey, Function]
    opsets: Mapping[str, int]
    producer: str
    notes: tuple[str, ...] = ()
