"""What is known about one value of a graph while it is walked, and about one operation on such values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from vramplan.dtypes import DType
from vramplan.graph import Attribute
from vramplan.sources.onnx_tree import Constant, Values

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fact:
    """What is known about a value.

    ``dims`` has None for a dimension that is not known, and is None when not even the rank is. Where the size depends on
    the data, the fact itself is the largest case and ``low`` the smallest. ``value`` holds the elements of small
    constants, ``items`` the members of a sequence, ``limits`` the fewest and most elements when ``dims`` cannot say.
    """

    dtype: DType
    dims: Shape | None
    value: Values | None = None
    low: Fact | None = None
    items: tuple[Fact, ...] | None = None
    limits: tuple[int, int] | None = None

    @property
    def known(self) -> tuple[int, ...] | None:
        """The dimensions, if all of them are known."""
        return None if self.dims is None or None in self.dims else cast("tuple[int, ...]", self.dims)

    @property
    def count(self) -> int | None:
        """Elements of the largest case, over all items of a sequence; None when unknown."""
        if self.items is not None:
            counts = [item.count for item in self.items]
            return None if None in counts else sum(count or 0 for count in counts)
        known = self.known
        return None if known is None else math.prod(known)

    @property
    def is_certain(self) -> bool:
        """Whether the dimensions are known and do not depend on data."""
        return self.low is None and self.known is not None

    def without_value(self) -> Fact:
        """The same, with elements that may differ."""
        return replace(self, value=None) if self.value is not None else self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One operation on values of which the facts are known. An absent optional input is None; *where* names the model."""

    where: str
    name: str
    op: str
    domain: str
    opset: int
    inputs: tuple[Fact | None, ...]
    output_count: int
    attributes: Mapping[str, Attribute]
    tensors: Mapping[str, Constant] = field(default_factory=dict)
    proto: Any

    def input(self, index: int) -> Fact | None:
        """Input number *index*; None when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list-of-integers attribute; None when it is absent."""
        value = self.attributes.get(name)
        if not isinstance(value, tuple):
            return None
        whole = tuple(item for item in value if isinstance(item, int))
        return whole if len(whole) == len(value) else None

    def sizes(self, index: int, attribute: str) -> tuple[int, ...] | None:
        """Integers that older opsets keep in an attribute and newer ones in an input; None when they are not known."""
        given = self.input(index)
        if given is None:
            return self.integers(attribute)
        if given.value is None or given.value.dtype.kind not in "iu":
            return None
        return tuple(int(item) for item in given.value.reshape(-1))

    def position(self, index: int) -> int | None:
        """The single integer that an input holds; None when it is not known."""
        sizes = self.sizes(index, "")
        return sizes[0] if sizes else None


def unknown(dtype: DType) -> Fact:
    """Nothing but an element type."""
    return Fact(dtype=dtype, dims=None)


def at_most(dtype: DType, largest: Shape, smallest: Shape) -> Fact:
    """A shape that depends on data, between two limits."""
    return Fact(dtype=dtype, dims=largest, low=Fact(dtype=dtype, dims=smallest))
