"""Shape rules of our own, for what onnx's inference leaves open or cannot be trusted with.

Three kinds: operators whose output size depends on data (sized at the largest, with the smallest beside it), sequences
and optionals, and a few operators whose C++ inference crashes or never returns on hostile input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from vramplan.dtypes import DType
from vramplan.sources.onnx_facts import Call, Fact, Shape, at_most, unknown
from vramplan.sources.onnx_types import DTYPES

Rule = Callable[[Call], list[Fact] | None]


def own_rule(call: Call) -> list[Fact] | None:
    """The facts of a call's outputs by a rule of this module; None when there is none, or it does not apply."""
    rule = _RULES.get(call.op) if call.domain == "" else None
    return None if rule is None else rule(call)


def completed(call: Call, fact: Fact) -> Fact:
    """*fact*, an output that inference left open, with what the operator's inputs say about its size."""
    first = call.input(0)
    if fact.known is not None or fact.items is not None or first is None or call.domain:
        return fact
    dims, input_dims = fact.dims or (), first.dims or ()
    if call.op in _NO_LARGER_THAN_INPUT and dims and len(dims) == len(input_dims):
        largest = tuple(given if dim is None else dim for dim, given in zip(dims, input_dims, strict=True))
        return at_most(fact.dtype, largest, tuple(0 if dim is None else dim for dim in dims))
    if call.op in _SAME_COUNT:
        count, low = first.count, (first.low or first).count
        limits = first.limits if count is None or low is None else (min(count, low), max(count, low))
        return replace(fact, limits=limits)
    return fact


def _nonzero(call: Call) -> list[Fact] | None:
    data = call.input(0)
    if data is None or data.known is None or data.value is not None:
        return None
    rank = len(data.known)
    return [at_most(DType.INT64, (rank, math.prod(data.known)), (rank, 0))]


def _non_max_suppression(call: Call) -> list[Fact] | None:
    """At most ``max_output_boxes_per_class`` boxes for each class of each image, three indices each."""
    boxes, scores = call.input(0), call.input(1)
    if boxes is None or scores is None or boxes.known is None or scores.known is None or len(scores.known) != 3:
        return None
    images, classes, candidates = scores.known
    wanted = call.sizes(2, "max_output_boxes_per_class")
    each = candidates if wanted is None and call.input(2) is not None else min(candidates, max((wanted or (0,))[0], 0))
    return [at_most(DType.INT64, (images * classes * each, 3), (0, 3))]


def _unique(call: Call) -> list[Fact] | None:
    data = call.input(0)
    if data is None or data.known is None:
        return None
    axis = call.attributes.get("axis")
    count = math.prod(data.known)
    largest: tuple[int, ...] = (count,)
    smallest: tuple[int, ...] = (0,)
    if isinstance(axis, int) and -len(data.known) <= axis < len(data.known):
        axis %= len(data.known)
        count, largest = data.known[axis], data.known
        smallest = (*data.known[:axis], 0, *data.known[axis + 1 :])
    indices = at_most(DType.INT64, (count,), (0,))
    inverse = Fact(dtype=DType.INT64, dims=(count,))
    return [at_most(data.dtype, largest, smallest), indices, inverse, indices]


def _compress(call: Call) -> list[Fact] | None:
    data, condition = call.input(0), call.input(1)
    if data is None or condition is None or data.known is None or condition.known is None:
        return None
    axis = call.attributes.get("axis")
    if not isinstance(axis, int):
        return [at_most(data.dtype, (min(math.prod(condition.known), math.prod(data.known)),), (0,))]
    if not -len(data.known) <= axis < len(data.known):
        return None
    axis %= len(data.known)
    before, after = data.known[:axis], data.known[axis + 1 :]
    return [at_most(data.dtype, (*before, min(math.prod(condition.known), data.known[axis]), *after), (*before, 0, *after))]


def _gather_rows(call: Call) -> list[Fact] | None:
    """GatherND; its C++ inference reads beyond its arrays when the last dimension of the indices is out of range."""
    data, indices = call.input(0), call.input(1)
    if data is None or indices is None:
        return [unknown(DType.FLOAT32)]
    if data.dims is None or not indices.dims or indices.dims[-1] is None:
        return [unknown(data.dtype)]
    taken = call.integer("batch_dims", 0) + indices.dims[-1]
    if not 0 <= taken <= len(data.dims):
        return [unknown(data.dtype)]
    return [Fact(dtype=data.dtype, dims=(*indices.dims[:-1], *data.dims[taken:]))]


def _max_unpool(call: Call) -> list[Fact] | None:
    """MaxUnpool; its C++ inference reads beyond its arrays. Each axis is the one that MaxPool would have shrunk."""
    data, kernel, asked = call.input(0), call.integers("kernel_shape"), call.sizes(2, "")
    if data is None or data.known is None or kernel is None or len(data.known) != len(kernel) + 2:
        return [unknown(DType.FLOAT32 if data is None else data.dtype)]
    if asked is not None and len(asked) == len(data.known):
        return [Fact(dtype=data.dtype, dims=asked)]
    strides, pads = call.integers("strides") or (1,) * len(kernel), call.integers("pads") or (0,) * 2 * len(kernel)
    if len(strides) != len(kernel) or len(pads) != 2 * len(kernel):
        return [unknown(data.dtype)]
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    axes = zip(data.known[2:], kernel, strides, before, after, strict=True)
    sizes = ((size - 1) * stride + window - start - end for size, window, stride, start, end in axes)
    return [Fact(dtype=data.dtype, dims=(*data.known[:2], *sizes))]


def _einsum(call: Call) -> list[Fact] | None:
    """Einsum; its C++ inference does not return for some equations. Without an ellipsis it is a table of letters."""
    equation = str(call.attributes.get("equation", "")).replace(" ", "")
    first = next((fact for fact in call.inputs if fact is not None), None)
    if first is None:
        return [unknown(DType.FLOAT32)]
    left, arrow, right = equation.partition("->")
    sizes: dict[str, int | None] = {}
    for term, fact in zip(left.split(","), call.inputs, strict=False):
        letters, dims = _letters(term, fact)
        if letters is None:
            return [unknown(first.dtype)]
        for letter, dim in zip(letters, dims, strict=True):
            if sizes.get(letter) in {None, 1}:
                sizes[letter] = dim
    if not arrow:
        right = "..." + "".join(sorted(letter for letter in sizes if left.count(letter) == 1))
    out = list(right) if "..." not in right else _expanded(right, sizes)
    return [Fact(dtype=first.dtype, dims=tuple(sizes.get(letter) for letter in out))]


def _letters(term: str, fact: Fact | None) -> tuple[list[str] | None, Shape]:
    """The letters of one einsum term, those of an ellipsis as numbers counted from the right."""
    dims = fact.dims if fact is not None else None
    if dims is None:
        return None, ()
    before, dots, after = term.partition("...")
    hidden = len(dims) - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None, ()
    return [*before, *(f"~{index:02d}" for index in range(hidden, 0, -1)), *after], dims


def _expanded(right: str, sizes: dict[str, int | None]) -> list[str]:
    before, _, after = right.partition("...")
    return [*before, *sorted((letter for letter in sizes if letter.startswith("~")), reverse=True), *after]


def _split_to_sequence(call: Call) -> list[Fact] | None:
    data, axis = call.input(0), call.integer("axis", 0)
    if data is None or data.known is None or not -len(data.known) <= axis < len(data.known):
        return None
    axis %= len(data.known)
    size, given = data.known[axis], call.input(1)
    lengths = _split_lengths(size, given, call.sizes(1, ""))
    if lengths is None or len(lengths) > MAX_ITEMS:
        return [Fact(dtype=data.dtype, dims=None, limits=(math.prod(data.known),) * 2)]
    before, after = data.known[:axis], data.known[axis + 1 :]
    squeezed = given is None and not call.integer("keepdims", 1)
    items = (Fact(dtype=data.dtype, dims=(*before, *(() if squeezed else (length,)), *after)) for length in lengths)
    return [_sequence(data.dtype, items)]


def _split_lengths(size: int, given: Fact | None, lengths: tuple[int, ...] | None) -> list[int] | None:
    """The lengths of the pieces: one each, as listed, or equal ones with a shorter last; None when not known."""
    if given is None:
        return [1] * size if size <= MAX_ITEMS else None
    if not lengths:
        return None
    if given.dims:
        return [max(length, 0) for length in lengths]
    each = lengths[0]
    if each <= 0 or size // each > MAX_ITEMS:
        return None
    return [min(each, size - start) for start in range(0, size, each)]


def _sequence_construct(call: Call) -> list[Fact] | None:
    items = [fact for fact in call.inputs if fact is not None]
    return [_sequence(items[0].dtype, items)] if items else None


def _sequence_empty(call: Call) -> list[Fact] | None:
    return [_sequence(DTYPES.get(call.integer("dtype", 1), DType.FLOAT32), ())]


def _sequence_insert(call: Call) -> list[Fact] | None:
    sequence, item = call.input(0), call.input(1)
    if sequence is None or item is None:
        return None
    if sequence.items is None or len(sequence.items) >= MAX_ITEMS:
        return [unknown(item.dtype)]
    position = call.position(2)
    place = len(sequence.items) if position is None else position
    return [_sequence(item.dtype, (*sequence.items[:place], item, *sequence.items[place:]))]


def _sequence_at(call: Call) -> list[Fact] | None:
    sequence, index = call.input(0), call.position(1)
    if sequence is None or not sequence.items:
        return None if sequence is None else [unknown(sequence.dtype)]
    if index is not None:
        return [sequence.items[index]] if -len(sequence.items) <= index < len(sequence.items) else [unknown(sequence.dtype)]
    if all(item.dims == sequence.items[0].dims for item in sequence.items):
        return [sequence.items[0].without_value()]
    by_size = sorted(sequence.items, key=lambda item: item.count or 0)
    return [replace(by_size[-1], value=None, low=by_size[0])]


def _sequence_erase(call: Call) -> list[Fact] | None:
    sequence, position = call.input(0), call.position(1)
    if sequence is None or not sequence.items:
        return None if sequence is None else [unknown(sequence.dtype)]
    index = -1 if position is None else position
    items = list(sequence.items)
    if -len(items) <= index < len(items):
        del items[index]
    return [_sequence(sequence.dtype, items)]


def _sequence_length(call: Call) -> list[Fact] | None:
    sequence = call.input(0)
    count = None if sequence is None or sequence.items is None else np.array(len(sequence.items), dtype=np.int64)
    return [Fact(dtype=DType.INT64, dims=(), value=count)]


def _concat_from_sequence(call: Call) -> list[Fact] | None:
    sequence, axis = call.input(0), call.integer("axis", 0)
    if sequence is None:
        return None
    shapes = [item.known for item in sequence.items or ()]
    first = shapes[0] if shapes else None
    if first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
        limits = sequence.limits
        count = sequence.count
        return [replace(unknown(sequence.dtype), limits=limits if count is None else (count, count))]
    is_new = bool(call.integer("new_axis", 0))
    rank = len(first) + is_new
    if not -rank <= axis < rank:
        return [unknown(sequence.dtype)]
    axis %= rank
    size = len(shapes) if is_new else sum(shape[axis] for shape in shapes if shape is not None)
    return [Fact(dtype=sequence.dtype, dims=(*first[:axis], size, *first[axis + (not is_new) :]))]


def _same(call: Call) -> list[Fact] | None:
    first = call.input(0)
    return None if first is None else [first]


def _scalar_bool(_: Call) -> list[Fact]:
    return [Fact(dtype=DType.BOOL, dims=())]


def _sequence(dtype: DType, items: Iterable[Fact]) -> Fact:
    members = tuple(items)
    return Fact(dtype=members[0].dtype if members else dtype, dims=None, items=members)


MAX_ITEMS = 4096

_NO_LARGER_THAN_INPUT = frozenset({"Slice", "TopK", "Compress", "CenterCropPad"})
_SAME_COUNT = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast", "Relu", "Sigmoid", "Tanh", "Gelu",
    "Softmax", "LeakyRelu", "Clip", "Sqrt", "Exp", "Log", "Erf", "Abs", "Neg", "Floor", "Ceil", "Round", "Not",
    "LayerNormalization", "BatchNormalization", "InstanceNormalization", "Elu", "Selu", "Softplus", "HardSigmoid",
    "HardSwish", "Mish", "PRelu", "QuantizeLinear", "DequantizeLinear", "Dropout", "CumSum", "Sin", "Cos", "Reciprocal",
    "LogSoftmax",
})  # fmt: skip

_RULES: dict[str, Rule] = {
    "NonZero": _nonzero, "NonMaxSuppression": _non_max_suppression, "Unique": _unique, "Compress": _compress,
    "GatherND": _gather_rows, "MaxUnpool": _max_unpool, "Einsum": _einsum, "SplitToSequence": _split_to_sequence,
    "SequenceConstruct": _sequence_construct, "SequenceEmpty": _sequence_empty, "SequenceInsert": _sequence_insert,
    "SequenceAt": _sequence_at, "SequenceErase": _sequence_erase, "SequenceLength": _sequence_length,
    "ConcatFromSequence": _concat_from_sequence, "Optional": _same, "OptionalGetElement": _same,
    "OptionalHasElement": _scalar_bool,
}  # fmt: skip
