"""What onnx's shape inference cannot be trusted with.

Its C++ code divides by strides, indexes by axes and loops over counts that a file gives, and not every release checks
them first. Each rule here stands for inputs on which some release crashed, hung or ran out of memory (found by calling
every operator of onnx 1.17 and 1.23 with random attributes, shapes and elements). A node that fails a rule makes no
sense, so nothing is lost by not asking: its outputs are unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from vramplan.sources.onnx_facts import Call
from vramplan.sources.onnx_types import MAX_RANK

_MAX_LIST = 4096
_LARGE = 1 << 31

_COUNTS = frozenset({"group", "blocksize", "num_outputs", "num_heads", "hidden_size"})
_AXES = frozenset({"axis", "axes", "batch_axis", "time_axis", "batch_dims", "perm", "start", "end"})
_MAX_BLOCK = 1 << 15

# The length of this input is the rank of the output, and C++ makes that many dimensions whatever it is.
_SHAPE_INPUT = {"Expand": 1, "ConstantOfShape": 0, "Reshape": 1, "Tile": 1, "Col2Im": 1, "AffineGrid": 1, "CenterCropPad": 1}

# Operators that slide a window, and which input holds its weights.
_WINDOWS = {
    "Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3, "DeformConv": 1, "AveragePool": None, "MaxPool": None,
    "LpPool": None,
}  # fmt: skip
_PER_AXIS = ("strides", "dilations", "kernel_shape")


def is_safe(call: Call) -> bool:
    """Whether onnx's inference may be asked about *call*."""
    check = _CHECKS.get(call.op)
    return _has_sane_attributes(call) and _has_sane_rank(call) and (check is None or check(call))


def _has_sane_attributes(call: Call) -> bool:
    for name, value in call.attributes.items():
        if isinstance(value, int):
            if name in _COUNTS and not 1 <= value <= _LARGE:
                return False
            if name in _AXES and abs(value) > MAX_RANK:
                return False
        elif isinstance(value, tuple) and len(value) > _MAX_LIST:
            return False
    return True


def _has_sane_rank(call: Call) -> bool:
    shape = call.input(_SHAPE_INPUT[call.op]) if call.op in _SHAPE_INPUT else None
    return shape is None or all(dim is None or dim <= MAX_RANK for dim in shape.dims or ())


def _check_window(call: Call) -> bool:
    """Windows have one size, stride and dilation for each spatial axis, all positive."""
    data, index = call.input(0), _WINDOWS[call.op]
    weights = None if index is None else call.input(index)
    if data is None or data.dims is None or len(data.dims) < 3:
        return False
    spatial = len(data.dims) - 2
    if index is not None and (weights is None or weights.dims is None or len(weights.dims) != len(data.dims)):
        return False
    for name in _PER_AXIS:
        sizes = call.integers(name)
        if sizes is not None and (len(sizes) != spatial or not all(1 <= size <= _LARGE for size in sizes)):
            return False
    lengths = {"pads": {2 * spatial}, "output_padding": {spatial}, "output_shape": {spatial, spatial + 2}}
    for name, allowed in lengths.items():
        sizes = call.integers(name)
        if sizes is not None and (len(sizes) not in allowed or any(abs(size) > _LARGE for size in sizes)):
            return False
    return True


def _check_regions(call: Call) -> bool:
    """Regions of images are pooled to two sizes."""
    data, regions, pooled = call.input(0), call.input(1), call.integers("pooled_shape")
    ranks = [None if fact is None or fact.dims is None else len(fact.dims) for fact in (data, regions)]
    return ranks == [4, 2] and pooled is not None and len(pooled) == 2


def _check_recurrent(call: Call) -> bool:
    """RNN, LSTM and GRU take three inputs of rank 3 before any others."""
    return all(fact is not None and fact.dims is not None and len(fact.dims) == 3 for fact in call.inputs[:3])


def _check_one_hot(call: Call) -> bool:
    """The depth is one number, and the new axis is within the result."""
    indices, depth, values = (call.input(index) for index in range(3))
    if indices is None or indices.dims is None or depth is None or values is None:
        return False
    rank = len(indices.dims) + 1
    return depth.count == 1 and -rank <= call.integer("axis", -1) < rank


def _check_split(call: Call) -> bool:
    """A split makes as many pieces as it has outputs, whatever it says."""
    return call.integer("num_outputs", call.output_count) == call.output_count


def _check_normalization(call: Call) -> bool:
    first = call.input(0)
    return first is not None and first.dims is not None and -len(first.dims) <= call.integer("axis", -1) < len(first.dims)


def _check_block(call: Call) -> bool:
    return call.integer("blocksize", 1) <= _MAX_BLOCK


_CHECKS: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(_WINDOWS, _check_window),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), _check_recurrent),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _check_normalization),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _check_block),
    "MaxRoiPool": _check_regions,
    "MaxUnpool": lambda _: False,
    "OneHot": _check_one_hot,
    "Split": _check_split,
}
