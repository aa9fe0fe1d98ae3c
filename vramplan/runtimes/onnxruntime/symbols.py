"""Which dimensions a session knows before it runs: what its planner compares when it lets results share a buffer.

A dimension is a number, the name that an input gives it, or open. The planner takes two shapes for equal when every
dimension is the same number or the same name (``SameShape`` in allocation_planner.cc); an open one equals nothing. Inference
follows numbers through Shape, Gather and Concat into a Reshape, but no names, and gives up on Expand and on Range: what
follows is open. That is why a transformer that was exported with an open batch shares no buffers, and a
convolutional network does.

The rules are those of ONNX's shape inference, for the ops that networks are made of; others keep their shape when it is
their first input's, are known when all of their inputs are, and are open otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vramplan.graph import Node, Tensor

Dim: TypeAlias = int | str | None
Dims: TypeAlias = tuple[Dim, ...]
Known: TypeAlias = Mapping[str, Dims | None]

_SHAPED_BY = {"Expand": 1, "Tile": 1, "ConstantOfShape": 0, "Slice": 1, "Pad": 1, "TopK": 1, "OneHot": 1}
"""Ops whose result has the shape that an input says, and which input."""

_BROADCAST = frozenset({
    "Add", "And", "BiasGelu", "BiasSoftmax", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
_WINDOWS = frozenset({"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"})
_REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
})  # fmt: skip


def known_dims(
    nodes: Sequence[Node], tensors: Mapping[str, Tensor], constants: Collection[str], inputs: Mapping[str, Dims | None]
) -> dict[str, Dims | None]:
    """What is known of every tensor: its dimensions, or None where not even their number is. *nodes* are in order."""
    known: dict[str, Dims | None] = {name: tensors[name].shape for name in constants if name in tensors}
    known.update(inputs)
    values: dict[str, Dims] = {name: tuple(tensors[name].value or ()) for name in constants if tensors[name].value is not None}
    for node in nodes:
        for name in node.writes:
            op = _Op(node, tensors, known, values, frozenset(constants), tensors[name].shape)
            known[name] = _of(op)
            if (value := _value(op)) is not None:
                values[name] = value
    return known


@dataclass(frozen=True, slots=True)
class _Op:
    """One result of one node, and what is known of its inputs. ``shape`` is the result's actual one."""

    node: Node
    tensors: Mapping[str, Tensor]
    known: Known
    values: Mapping[str, Dims]
    constants: frozenset[str]
    shape: tuple[int, ...] | None

    def dims(self, index: int) -> Dims | None:
        """Of an input."""
        return self.known.get(self.name(index))

    def name(self, index: int) -> str:
        return self.node.inputs[index] if index < len(self.node.inputs) else ""

    def is_constant(self, index: int) -> bool:
        return not self.name(index) or self.name(index) in self.constants

    def number(self, name: str, default: int) -> int:
        value = self.node.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def numbers(self, name: str, index: int) -> tuple[int, ...] | None:
        """An attribute's, or those of a constant input."""
        found = self.node.attributes.get(name)
        if isinstance(found, tuple):
            return tuple(item for item in found if isinstance(item, int))
        tensor = self.tensors.get(self.name(index))
        return tensor.value if tensor is not None and self.is_constant(index) else None

    def is_all_known(self) -> bool:
        return all(_is_number(self.known.get(name)) for name in self.node.reads)


def _of(op: _Op) -> Dims | None:
    if op.shape is None:
        return None
    if op.is_all_known() and all(op.is_constant(index) for index in _shape_inputs(op)):
        return op.shape
    found = _rule(op)
    if found is None:
        return None
    # what the rules call a number is the actual one
    return (
        tuple((actual if isinstance(dim, int) else dim) for dim, actual in zip(found, op.shape, strict=False))
        if len(found) == len(op.shape)
        else None
    )


def _shape_inputs(op: _Op) -> Iterable[int]:
    if op.node.op == "Reshape" and not _is_number(op.values.get(op.name(1))):
        yield 1
    index = _SHAPED_BY.get(op.node.op)
    if index is not None:
        yield index
    if op.node.op == "Resize":
        yield from (2, 3)


def _rule(op: _Op) -> Dims | None:
    """The dimensions by the op's own rule."""
    name = op.node.op
    if name in _BROADCAST:
        return _broadcast([op.known.get(read) for read in op.node.reads])
    if name in _WINDOWS:
        return _window(op)
    if name in _REDUCTIONS:
        return _reduced(op)
    if rule := _RULES.get(name):
        return rule(op)
    first = op.dims(0)
    tensor = op.tensors.get(op.name(0))
    return first if first is not None and tensor is not None and tensor.shape == op.shape else None


def _broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(_joined(dims) for dims in zip(*padded, strict=True))


def _joined(dims: Sequence[Dim]) -> Dim:
    """Of dimensions that are broadcast: a number above 1 decides, else what is the same in all that are not 1."""
    numbers = [dim for dim in dims if isinstance(dim, int) and dim != 1]
    if numbers:
        return numbers[0]
    others = {dim for dim in dims if dim != 1}
    return others.pop() if len(others) == 1 else (None if others else 1)


def _window(op: _Op) -> Dims | None:
    """Batch from the input, channels from the weight, sides where the input's are known."""
    x, weight = op.dims(0), op.dims(1)
    if x is None or op.shape is None or len(x) != len(op.shape):
        return None
    channels: Dim = op.shape[1] if weight is not None and isinstance(weight[0], int) else x[1]
    return (x[0], channels, *(side if isinstance(side, int) else None for side in x[2:]))


def _reduced(op: _Op) -> Dims | None:
    x, axes = op.dims(0), op.numbers("axes", 1)
    if op.node.op.startswith("Arg"):
        axes = (op.number("axis", 0),)
    if x is None or axes is None:
        return None
    gone = {axis % len(x) for axis in axes} or set(range(len(x)))
    if op.number("keepdims", 1):
        return tuple(1 if axis in gone else dim for axis, dim in enumerate(x))
    return tuple(dim for axis, dim in enumerate(x) if axis not in gone)


def _reshape(op: _Op) -> Dims | None:
    """A 0 copies, a -1 is known where all that is not copied is."""
    x, target = op.dims(0), op.values.get(op.name(1))
    if target is None or x is None:
        return None
    copied = {axis for axis, size in enumerate(target) if size == 0 and axis < len(x)}
    rest = [dim for axis, dim in enumerate(x) if axis not in copied]
    is_rest_known = all(isinstance(dim, int) for dim in (*rest, *target))
    found: list[Dim] = []
    for axis, size in enumerate(target):
        if axis in copied:
            found.append(x[axis])
        else:
            found.append(size if size != -1 or is_rest_known else None)
    return tuple(found)


def _value(op: _Op) -> Dims | None:
    """The elements of a shape, or of a part of one, as far as they are numbers: names are not followed."""
    name, first = op.node.op, op.values.get(op.name(0))
    if name == "Shape" and not (op.number("start", 0) or op.number("end", 0)):
        dims = op.dims(0)
        return None if dims is None else tuple(dim if isinstance(dim, int) else None for dim in dims)
    if name in ("Cast", "Identity", "Squeeze", "Unsqueeze"):
        return first
    if name == "Concat":
        parts = [op.values.get(read) for read in op.node.reads]
        return tuple(dim for part in parts for dim in part or ()) if None not in parts else None
    indices = op.values.get(op.name(1))
    if name == "Gather" and first is not None and indices is not None:
        places = [index for index in indices if isinstance(index, int) and -len(first) <= index < len(first)]
        return tuple(first[place] for place in places) if len(places) == len(indices) else None
    return None


def _flatten(op: _Op) -> Dims | None:
    x, axis = op.dims(0), op.number("axis", 1)
    return None if x is None else (_product(x[:axis]), _product(x[axis:]))


def _product(dims: Dims) -> Dim:
    if len(dims) == 1:
        return dims[0]
    return 1 if all(isinstance(dim, int) for dim in dims) else None


def _transpose(op: _Op) -> Dims | None:
    x, order = op.dims(0), op.numbers("perm", 9)
    if x is None:
        return None
    return tuple(x[axis] for axis in order) if order else x[::-1]


def _squeeze(op: _Op) -> Dims | None:
    x, axes = op.dims(0), op.numbers("axes", 1)
    if x is None or not axes:
        return None
    gone = {axis % len(x) for axis in axes}
    return tuple(dim for axis, dim in enumerate(x) if axis not in gone)


def _unsqueeze(op: _Op) -> Dims | None:
    x, axes = op.dims(0), op.numbers("axes", 1)
    if x is None or not axes:
        return None
    rank, rest = len(x) + len(axes), iter(x)
    new = {axis % rank for axis in axes}
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _concat(op: _Op) -> Dims | None:
    shapes = [op.known.get(name) for name in op.node.reads]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    axis = op.number("axis", 0) % len(known[0])
    merged: list[Dim] = []
    for place, dims in enumerate(zip(*known, strict=True)):
        if place == axis:
            merged.append(1 if all(isinstance(dim, int) for dim in dims) else None)
        else:
            merged.append(next((dim for dim in dims if isinstance(dim, int)), next((dim for dim in dims if dim), None)))
    return tuple(merged)


def _split(op: _Op) -> Dims | None:
    x = op.dims(0)
    axis = op.number("axis", 0)
    if x is None:
        return None
    is_known = op.is_constant(1) and isinstance(x[axis], int)
    return tuple((1 if is_known else None) if place == axis % len(x) else dim for place, dim in enumerate(x))


def _slice(op: _Op) -> Dims | None:
    x, axes = op.dims(0), op.numbers("axes", 3)
    if x is None:
        return None
    if not (op.is_constant(1) and op.is_constant(2)) or axes is None:
        return (None,) * len(x)
    cut = {axis % len(x) for axis in axes}
    return tuple(None if place in cut and not isinstance(dim, int) else dim for place, dim in enumerate(x))


def _gather(op: _Op) -> Dims | None:
    x, indices = op.dims(0), op.dims(1)
    if x is None or indices is None:
        return None
    axis = op.number("axis", 0) % len(x)
    return (*x[:axis], *indices, *x[axis + 1 :])


def _matmul(op: _Op) -> Dims | None:
    a, b = op.dims(0), op.dims(1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    rows = a[-1] if op.number("transA", 0) else a[-2]
    columns = b[-2] if op.number("transB", 0) else b[-1]
    batch = _broadcast([a[:-2], b[:-2]])
    return None if batch is None else (*batch, rows, columns)


def _resize(op: _Op) -> Dims | None:
    x = op.dims(0)
    if x is None or not (op.is_constant(2) and op.is_constant(3)):
        return None if x is None else (None,) * len(x)
    return tuple(dim if isinstance(dim, int) else None for dim in x)


def _pooled(op: _Op) -> Dims | None:
    x = op.dims(0)
    return None if x is None else (*x[:2], *(1 for _ in x[2:]))


def _padded(op: _Op) -> Dims | None:
    x = op.dims(0)
    return None if x is None or not op.is_constant(1) else tuple(dim if isinstance(dim, int) else None for dim in x)


def _open(_: _Op) -> Dims | None:
    return None


_RULES: Mapping[str, Callable[[_Op], Dims | None]] = {
    "Concat": _concat, "ConstantOfShape": _open, "Expand": _open, "Flatten": _flatten, "FusedMatMul": _matmul,
    "Gather": _gather, "Gemm": _matmul, "GlobalAveragePool": _pooled, "GlobalMaxPool": _pooled, "MatMul": _matmul,
    "Pad": _padded, "Range": _open,
    "Reshape": _reshape, "Resize": _resize, "Slice": _slice, "Split": _split, "Squeeze": _squeeze, "Tile": _open,
    "Transpose": _transpose, "Unsqueeze": _unsqueeze, "Upsample": _resize,
}  # fmt: skip


def _is_number(dims: Dims | None) -> bool:
    return dims is not None and all(isinstance(dim, int) for dim in dims)
