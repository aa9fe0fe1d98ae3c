"""Computes small constants: the sizes that exporters derive from other sizes inside the graph.

Shape → Gather → Mul → Concat → Reshape and their like are arithmetic on a handful of integers. onnx's own data
propagation stops at Div, Where, Range and a dozen other operators that every exporter uses; here they are numpy calls.
Only values of at most `MAX_COUNT` elements are computed, and the result's shape is inferred first, so nothing in a file
can make a computation large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vramplan.dtypes import DType
from vramplan.sources.onnx_facts import Call, Fact
from vramplan.sources.onnx_tree import Values
from vramplan.sources.onnx_types import DTYPES

MAX_COUNT = 128

NUMPY_TYPES = {
    DType.FLOAT32: np.float32, DType.FLOAT64: np.float64, DType.FLOAT16: np.float16, DType.INT64: np.int64,
    DType.INT32: np.int32, DType.INT16: np.int16, DType.INT8: np.int8, DType.UINT64: np.uint64, DType.UINT32: np.uint32,
    DType.UINT16: np.uint16, DType.UINT8: np.uint8, DType.BOOL: np.bool_,
}  # fmt: skip


def evaluate(call: Call, outputs: list[Fact]) -> list[Values] | None:
    """The elements of a call's outputs, when they are few and follow from elements that are known; else None.

    *outputs* are the facts that shape inference found. What the operators mean:
    https://github.com/onnx/onnx/blob/main/docs/Operators.md.
    """
    function = _FUNCTIONS.get(call.op)
    if function is None or call.domain or not all(_is_small(fact) for fact in outputs):
        return None
    if call.op not in _NEEDS_NO_VALUES and not all(fact is None or fact.value is not None for fact in call.inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            results = function(call)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError, KeyError):
        return None
    results = results if isinstance(results, list) else [results]
    if any(np.shape(result) != fact.known for result, fact in zip(results, outputs, strict=False)):
        return None
    with np.errstate(all="ignore"):
        return [np.asarray(result).astype(NUMPY_TYPES[fact.dtype]) for result, fact in zip(results, outputs, strict=False)]


def _is_small(fact: Fact) -> bool:
    count = fact.count
    return count is not None and count <= MAX_COUNT and fact.dtype in NUMPY_TYPES and fact.items is None


def _values(call: Call) -> list[Values]:
    return [fact.value for fact in call.inputs if fact is not None and fact.value is not None]


def _shape(call: Call) -> Values:
    dims = _present(call.input(0)).known or ()
    start, end = call.integer("start", 0), call.attributes.get("end")
    return np.array(dims[start : end if isinstance(end, int) else None], dtype=np.int64)


def _size(call: Call) -> Values:
    return np.array(math.prod(_present(call.input(0)).known or ()), dtype=np.int64)


def _cast(call: Call) -> Values:
    return np.asarray(_values(call)[0].astype(NUMPY_TYPES[DTYPES[call.integer("to", 0)]]))


def _divide(call: Call) -> Values:
    left, right = _values(call)
    if left.dtype.kind == "f":
        return np.asarray(left / right)
    # ONNX divides integers as C does, towards zero; numpy rounds down.
    quotient = np.abs(left) // np.abs(right)
    return np.where((left < 0) != (right < 0), -quotient, quotient)


def _modulo(call: Call) -> Values:
    left, right = _values(call)
    return np.asarray(np.fmod(left, right) if call.integer("fmod", 0) else np.mod(left, right))


def _slice(call: Call) -> Values:
    data = _data(call)
    starts, ends = (_present(call.sizes(index, name)) for index, name in ((1, "starts"), (2, "ends")))
    axes = call.sizes(3, "axes") or tuple(range(len(starts)))
    steps = call.sizes(4, "steps") or (1,) * len(starts)
    where = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = data.shape[axis]
        # An end before the first element, going backwards, is None to Python.
        where[axis] = slice(start, None if step < 0 and end < -size else end, step)
    return data[tuple(where)]


def _squeeze(call: Call) -> Values:
    axes = call.sizes(1, "axes")
    return np.asarray(np.squeeze(_data(call), axis=axes or None))


def _unsqueeze(call: Call) -> Values:
    return np.expand_dims(_data(call), _present(call.sizes(1, "axes")))


def _reshape(call: Call) -> Values:
    data, sizes = _data(call), _present(call.sizes(1, "shape"))
    copies = not call.integer("allowzero", 0)
    return data.reshape([data.shape[axis] if size == 0 and copies else size for axis, size in enumerate(sizes)])


def _filled(call: Call) -> Values:
    fill = call.tensors.get("value")
    element = fill.value.reshape(-1)[0] if fill is not None and fill.value is not None else np.float32(0)
    return np.asarray(np.full(_few(_values(call)[0].tolist()), element))


def _split(call: Call) -> list[Values]:
    data, axis = _data(call), call.integer("axis", 0)
    sizes = call.sizes(1, "split")
    if sizes is None:
        each = -(-data.shape[axis] // call.output_count)
        return np.split(data, range(each, each * call.output_count, each), axis)
    return np.split(data, np.cumsum(sizes)[:-1], axis)


def _expand(call: Call) -> Values:
    data, sizes = _values(call)
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(sizes.tolist())))


def _range(call: Call) -> Values:
    start, limit, delta = (item.reshape(()).item() for item in _values(call))
    _few([math.ceil((float(limit) - float(start)) / float(delta))])
    return np.arange(start, limit, delta)


def _tile(call: Call) -> Values:
    data, repeats = _values(call)
    _few([data.size, *repeats.tolist()])
    return np.tile(data, repeats.tolist())


def _few(dims: list[int]) -> list[int]:
    """*dims*, when they are a small shape. What C++ inferred may have overflowed, so it is not believed here."""
    if math.prod(max(dim, 1) for dim in dims) > MAX_COUNT:
        raise ValueError("too many elements")
    return dims


def _reduce(reduction: Callable[..., Any]) -> Callable[[Call], Values]:
    def reduced(call: Call) -> Values:
        data, axes = _data(call), call.sizes(1, "axes")
        if axes is None and call.integer("noop_with_empty_axes", 0):
            return data
        return np.asarray(reduction(data, axis=axes or None, keepdims=bool(call.integer("keepdims", 1))))

    return reduced


def _scatter_rows(call: Call) -> Values:
    data, indices, updates = _values(call)
    out = data.copy()
    out[tuple(np.moveaxis(indices, -1, 0))] = updates
    return np.asarray(out)


def _clip(call: Call) -> Values:
    low, high = (None if fact is None else fact.value for fact in (call.input(1), call.input(2)))
    return np.asarray(np.clip(_values(call)[0], low, high))


def _data(call: Call) -> Values:
    """The elements of the first input."""
    return _values(call)[0] if call.inputs and call.inputs[0] is not None else _present(None)


def _present(value: Any) -> Any:
    """*value*, which the caller knows to be there; `evaluate` gives up on the ValueError."""
    if value is None:
        raise ValueError("an input is absent")
    return value


def _elementwise(function: Callable[..., Any]) -> Callable[[Call], Values]:
    return lambda call: np.asarray(function(*_values(call)))


def _folded(function: Callable[..., Any]) -> Callable[[Call], Values]:
    def folded(call: Call) -> Values:
        first, *others = _values(call)
        for other in others:
            first = function(first, other)
        return np.asarray(first)

    return folded


_NEEDS_NO_VALUES = frozenset({"Shape", "Size"})

_FUNCTIONS: dict[str, Callable[[Call], Values | list[Values]]] = {
    "Shape": _shape, "Size": _size, "Cast": _cast, "Div": _divide, "Mod": _modulo, "Slice": _slice, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Reshape": _reshape, "ConstantOfShape": _filled, "Split": _split, "Expand": _expand,
    "ScatterND": _scatter_rows, "Clip": _clip, "Range": _range, "Tile": _tile,
    "Gather": lambda call: np.take(_values(call)[0], _values(call)[1], axis=call.integer("axis", 0)),
    "Concat": lambda call: np.concatenate(_values(call), axis=call.integer("axis", 0)),
    "Transpose": lambda call: np.transpose(_values(call)[0], call.integers("perm")),
    "CumSum": lambda call: np.cumsum(_values(call)[0], axis=int(_values(call)[1].reshape(())[()])),
    "NonZero": lambda call: np.array(np.nonzero(_values(call)[0])),
    "Identity": lambda call: _values(call)[0],
    "Where": _elementwise(np.where),
    "Add": _elementwise(np.add), "Sub": _elementwise(np.subtract), "Mul": _elementwise(np.multiply),
    "Pow": _elementwise(np.power), "Neg": _elementwise(np.negative), "Abs": _elementwise(np.abs),
    "Sign": _elementwise(np.sign), "Floor": _elementwise(np.floor), "Ceil": _elementwise(np.ceil),
    "Round": _elementwise(np.rint), "Sqrt": _elementwise(np.sqrt), "Reciprocal": _elementwise(np.reciprocal),
    "Equal": _elementwise(np.equal), "Greater": _elementwise(np.greater), "Less": _elementwise(np.less),
    "GreaterOrEqual": _elementwise(np.greater_equal), "LessOrEqual": _elementwise(np.less_equal),
    "And": _elementwise(np.logical_and), "Or": _elementwise(np.logical_or), "Xor": _elementwise(np.logical_xor),
    "Not": _elementwise(np.logical_not),
    "Min": _folded(np.minimum), "Max": _folded(np.maximum), "Sum": _folded(np.add),
    "ReduceProd": _reduce(np.prod), "ReduceSum": _reduce(np.sum), "ReduceMax": _reduce(np.max), "ReduceMin": _reduce(np.min),
}  # fmt: skip
