"""From facts to the tensors of a `Graph`; what is not certain is counted and named in its notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vramplan.dtypes import DType
from vramplan.graph import Node, Tensor
from vramplan.sources.onnx_facts import Fact
from vramplan.sources.onnx_tree import Constant
from vramplan.sources.onnx_types import show

_MAX_VALUE_COUNT = 64
_SHOWN = 3


def describe(
    facts: Mapping[str, Fact], nodes: Sequence[Node], ends: Iterable[str], weights: Mapping[str, Constant]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A tensor for every name that is used, and notes on those whose size is not certain.

    A size that nothing is known about lies between 0 and the largest tensor known in the graph, weights aside.
    """
    written = dict.fromkeys([*ends, *(name for node in nodes for name in node.writes)])
    counts = (facts[name].count for name in written if name not in weights)
    bound = max((count for count in counts if count is not None), default=0)
    tensors = {name: _tensor(name, facts[name], bound) for name in (*written, *weights)}
    return tensors, _notes([tensor for tensor in tensors.values() if not tensor.is_certain], bound)


def _tensor(name: str, fact: Fact, bound: int) -> Tensor:
    count, low = fact.count, fact.low
    if count is None:
        least, most = fact.limits or (0, bound)
        return Tensor(name=name, dtype=fact.dtype, shape=None, low_count=least, high_count=max(least, most))
    low_count = count if low is None else low.count or 0
    return Tensor(
        name=name,
        dtype=fact.dtype,
        shape=fact.known if fact.items is None else (count,),
        low_count=min(low_count, count) if low is not None else None,
        high_count=max(low_count, count) if low is not None else None,
        value=_value(fact),
    )


def _value(fact: Fact) -> tuple[int, ...] | None:
    """The elements of a small integer constant."""
    if fact.value is None or fact.low is not None or fact.value.size > _MAX_VALUE_COUNT or not _is_integer(fact.dtype):
        return None
    return tuple(int(element) for element in fact.value.reshape(-1))


def _is_integer(dtype: DType) -> bool:
    return dtype is DType.BOOL or "int" in dtype.value


def _notes(uncertain: Sequence[Tensor], bound: int) -> tuple[str, ...]:
    blank = [tensor for tensor in uncertain if tensor.shape is None and (tensor.low_count, tensor.high_count) == (0, bound)]
    limited = [tensor for tensor in uncertain if tensor.shape is not None and tensor.low_count != tensor.high_count]
    notes = []
    if blank:
        notes.append(
            f"the size of {_tensors(blank)} is not known; each is taken to lie between 0 and {bound:,} elements, "
            "the largest tensor known in the graph"
        )
    if limited:
        notes.append(f"the size of {_tensors(limited)} depends on the data; each is sized at its largest")
    return tuple(notes)


def _tensors(tensors: Sequence[Tensor]) -> str:
    names = ", ".join(show(tensor.name) for tensor in tensors[:_SHOWN])
    if len(tensors) == 1:
        return f"tensor {names}"
    return f"{len(tensors)} tensors ({names}{', …' if len(tensors) > _SHOWN else ''})"
