"""A model with zeros for its weights: what a runtime is given that is only asked what it makes of the graph.

The structure of a file has no large values (`protobuf_scan`). Here each of them becomes external data in one file of zeros, as
long as the largest needs, which takes no room on a disk that knows holes. So a runtime reads none of the user's weights, needs
none of their files, and follows no path that a stranger's model names.

Half precision becomes single: the CPU has hardly any kernels for it, and what has no kernel does not fuse. A cast between the
two is an op that nothing fuses with, meanwhile.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import onnx
from onnx import numpy_helper

from vramplan.dtypes import DType
from vramplan.sources.onnx_types import DTYPES, expected_bytes

ZEROS = "zeros"
"""The name of the file beside the model."""

CAST = "Atan"
"""What stands in for a cast: one float in, one out."""

_A, _T = onnx.AttributeProto, onnx.TensorProto
MEANT = (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715, 1.702)
"""Numbers in the patterns of Gelu and its like, which half precision rounds."""

_HALF = frozenset({_T.FLOAT16, _T.BFLOAT16})
_VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hollow:
    """``model_bytes`` wants ``zeros_bytes`` of zeros beside it; all that is hollow together has ``total_bytes``.

    ``is_altered``: some of it may have said shapes, or something stands in for a cast. Where a runtime stumbles then, it says
    nothing about the user's model.
    """

    model_bytes: bytes
    zeros_bytes: int
    total_bytes: int
    is_altered: bool


def hollow(structure: bytes) -> Hollow | None:
    """The model of *structure*, a serialized ``ModelProto`` without large values.

    None where a value cannot be left to a file, or a cast to single precision be told.
    """
    model = onnx.ModelProto.FromString(structure)
    bodies = [*_graphs(model.graph), *(inner for function in model.functions for inner in _graphs(function))]
    for graph in bodies[: len(bodies) - len(model.functions)]:
        _lift_constants(graph)
    has_half = _has_half(bodies)
    if not _can_be_hollow(bodies) or (has_half and not _widen(bodies, _types(model))):
        return None
    hollows = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer if _is_hollow(tensor)]
    dtypes = [DTYPES.get(tensor.data_type, DType.STRING) for tensor in hollows]
    if DType.STRING in dtypes:
        return None
    sizes = [expected_bytes(dtype, list(tensor.dims)) for dtype, tensor in zip(dtypes, hollows, strict=True)]
    for tensor, size_bytes in zip(hollows, sizes, strict=True):
        _point(tensor, size_bytes)
    return Hollow(
        model_bytes=model.SerializeToString(),
        zeros_bytes=max(sizes, default=0),
        total_bytes=sum(sizes),
        is_altered=has_half or not all(dtype.is_float for dtype in dtypes),
    )


def _graphs(graph: Any) -> Iterator[Any]:
    """*graph* and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.type == _A.GRAPH else ()), *attribute.graphs):
                yield from _graphs(inner)


def _lift_constants(graph: Any) -> None:
    """Constant nodes without their values become initializers, which may be external."""
    for node in list(graph.node):
        hollows = [tensor for tensor in _tensors(node) if _is_hollow(tensor)]
        if node.op_type == "Constant" and len(hollows) == 1 and len(node.output) == 1 and hasattr(graph, "initializer"):
            graph.initializer.add().CopyFrom(hollows[0])
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _can_be_hollow(bodies: list[Any]) -> bool:
    """Whether all that lacks its values is an initializer."""
    has_hollow_attribute = any(_is_hollow(tensor) for body in bodies for node in body.node for tensor in _tensors(node))
    return not has_hollow_attribute and not any(getattr(body, "sparse_initializer", ()) for body in bodies)


def _tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.type == _A.TENSOR:
            yield attribute.t
        yield from attribute.tensors


def _is_hollow(tensor: Any) -> bool:
    """Whether it should have values and has none here; also where they lie in a file."""
    is_external = tensor.data_location == _T.EXTERNAL
    return 0 not in tensor.dims and (is_external or not any(len(getattr(tensor, name)) for name in _VALUES))


def _point(tensor: Any, size_bytes: int) -> None:
    tensor.data_location = _T.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", ZEROS), ("offset", "0"), ("length", str(size_bytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _has_half(bodies: list[Any]) -> bool:
    values = (value.type.tensor_type.elem_type for body in bodies for value in _described(body))
    tensors = (tensor.data_type for body in bodies for tensor in _all_tensors(body))
    types = (item.i for body in bodies for node in body.node for item in node.attribute if item.name in ("to", "dtype"))
    return not _HALF.isdisjoint((*values, *tensors, *types))


def _widen(bodies: list[Any], types: Mapping[str, int]) -> bool:
    """Make half precision single; False, and nothing to be used, where a cast is of who knows what."""
    constants = {tensor.name for body in bodies for tensor in getattr(body, "initializer", ())}
    constants.update(node.output[0] for body in bodies for node in body.node if node.op_type == "Constant")
    for body in bodies:
        for node in body.node:
            if node.op_type == "Cast" and not _widen_cast(node, types, constants):
                return False
            for attribute in node.attribute:
                if attribute.name == "dtype" and attribute.i in _HALF:
                    attribute.i = _T.FLOAT
        for value in _described(body):
            if value.type.tensor_type.elem_type in _HALF:
                value.type.tensor_type.elem_type = _T.FLOAT
        for tensor in _all_tensors(body):
            if tensor.data_type in _HALF:
                _widen_tensor(tensor)
    return True


def _widen_cast(node: Any, types: Mapping[str, int], constants: Collection[str]) -> bool:
    """A cast between half and single precision would be none, and vanish: `CAST` stands in for it, but not for a
    constant's, which is folded anyway.
    """
    target = next((attribute for attribute in node.attribute if attribute.name == "to"), None)
    if target is None or target.i not in (_T.FLOAT, *_HALF):
        return True
    source = types.get(node.input[0])
    if source is None:
        return False
    if source in (_T.FLOAT, *_HALF) and source != target.i and node.input[0] not in constants:
        node.op_type = CAST
        del node.attribute[:]
    else:
        target.i = _T.FLOAT
    return True


def _types(model: Any) -> dict[str, int]:
    """Element types by name, as far as they are declared or follow."""
    with contextlib.suppress(Exception):  # a model that cannot be inferred is not refused for it
        model = onnx.shape_inference.infer_shapes(model)
    found: dict[str, int] = {}
    for body in _graphs(model.graph):
        found.update((value.name, value.type.tensor_type.elem_type) for value in _described(body))
        found.update((tensor.name, tensor.data_type) for tensor in body.initializer)
    return {name: kind for name, kind in found.items() if kind}


def _widen_tensor(tensor: Any) -> None:
    if _is_hollow(tensor):
        tensor.data_type = _T.FLOAT
        return
    values = numpy_helper.to_array(tensor)
    wide = values.astype("float32")
    if values.size == 1:  # what a fusion looks for, it looks for exactly
        meant = next((number for number in MEANT if values.dtype.type(number) == values.reshape(-1)[0]), None)
        wide = wide if meant is None else numpy.full_like(wide, meant)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _described(body: Any) -> Iterator[Any]:
    """Values whose types are written down; those of a function's inputs are not."""
    yield from body.value_info
    if isinstance(body, onnx.GraphProto):
        yield from (*body.input, *body.output)


def _all_tensors(body: Any) -> Iterator[Any]:
    yield from getattr(body, "initializer", ())
    for node in body.node:
        yield from _tensors(node)
