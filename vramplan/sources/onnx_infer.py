"""The outputs of one operation: element types, shapes, and the elements of small constants.

onnx's own inference is asked one node at a time, with the sizes that `onnx_values` has computed. So a value that only
becomes known halfway through the graph helps all that follows, an error names its node, and the C++ code never sees a
whole hostile graph. Cost is linear in nodes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import onnx
from onnx.shape_inference import InferenceError, infer_node_outputs

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.sources.onnx_contrib import contrib_rule
from vramplan.sources.onnx_facts import Call, Fact, Shape, unknown
from vramplan.sources.onnx_guards import is_safe
from vramplan.sources.onnx_rules import completed, own_rule
from vramplan.sources.onnx_types import DTYPES, MAX_DIM, NUMBERS, check_dims, printable, show
from vramplan.sources.onnx_values import evaluate

# These never look at the elements of their inputs, so the elements need not be handed over. They are most of a graph.
_BLIND = frozenset(
    {"Conv", "Relu", "Sigmoid", "Add", "Sub", "Mul", "Div", "Concat", "MatMul", "Gemm", "MaxPool", "Transpose", "Gather",
     "Cast", "QuantizeLinear", "DequantizeLinear", "Softmax", "LayerNormalization", "Clip", "Where", "Equal", "Pow", "Sqrt"}
)  # fmt: skip


def infer(call: Call) -> list[Fact]:
    """What is known about each output of *call*; nothing is left out, unknown is said as such.

    Raises `ModelError` when the operation cannot run on shapes like these, or an output is larger than any memory.
    """
    largest = _infer_once(call)
    if any(fact is not None and fact.low is not None for fact in call.inputs):
        smallest_call = replace(call, inputs=tuple(fact and (fact.low or fact) for fact in call.inputs))
        smallest = _infer_once(smallest_call)
        largest = [_with_low(high, low) for high, low in zip(largest, smallest, strict=True)]
    return largest


def _with_low(high: Fact, low: Fact) -> Fact:
    """Both cases of a size that depends on data, in one fact."""
    low = low.low or low
    same_value = high.value is low.value or (
        high.value is not None and low.value is not None and high.value.tolist() == low.value.tolist()
    )
    if high.low is None and high.dims == low.dims and same_value:
        return high
    return replace(high, low=low)


def _infer_once(call: Call) -> list[Fact]:
    found = own_rule(call) or contrib_rule(call, _by_schema) or _by_schema(call)
    fallback = unknown(_guess_dtype(call))
    facts = [found[index] if index < len(found) else fallback for index in range(call.output_count)]
    if not all(fact is None or fact.is_certain for fact in call.inputs):
        facts = [replace(fact, dims=_possible(fact.dims)) if fact.dims else fact for fact in facts]
    facts = [completed(call, fact) for fact in facts]
    for fact in facts:
        check_dims(call.name, fact.dtype, fact.dims or (), what=f"{call.where}: an output of node")
    if call.op == "Reshape" and call.domain == "":
        _check_reshape(call, facts[0])
    values = evaluate(call, facts)
    if values is None:
        return facts
    return [replace(fact, value=value) for fact, value in zip(facts, values, strict=False)] + facts[len(values) :]


def _possible(dims: Shape) -> Shape:
    """*dims* without those that no tensor can have: the smallest case of a size may be too small for what reads it."""
    return tuple(dim if dim is not None and 0 <= dim <= MAX_DIM else None for dim in dims)


def _by_schema(call: Call) -> list[Fact]:
    """What onnx's inference for the operator says; empty when there is no such operator or it gives up."""
    schema = _schema(call.op, call.domain, call.opset)
    if schema is None or not is_safe(call) or any(fact is not None and fact.items is not None for fact in call.inputs):
        return []
    names = list(call.proto.input)
    given = {name: fact for name, fact in zip(names, call.inputs, strict=False) if name and fact is not None}
    types = {name: _type(fact.dtype, fact.dims) for name, fact in given.items()}
    elements = {} if call.op in _BLIND else {name: _tensor(fact) for name, fact in given.items() if fact.value is not None}
    try:
        outputs = infer_node_outputs(schema, call.proto, types, elements)
    except InferenceError as error:
        if "[ShapeInferenceError]" in str(error) and all(fact is None or fact.is_certain for fact in call.inputs):
            raise _misfit(call, str(error)) from None
        return []
    except Exception:
        # Whatever else onnx raises for a node it dislikes: its size is not known.
        return []
    return [_fact(outputs[name]) if name in outputs else unknown(_guess_dtype(call)) for name in call.proto.output]


def _check_reshape(call: Call, output: Fact) -> None:
    """Inference lets a fixed shape pass that the input does not fill: a model exported for one size only."""
    data = call.input(0)
    if data is not None and data.is_certain and output.is_certain and data.count != output.count:
        raise _misfit(call, f"it makes shape {list(output.known or ())}")


def _misfit(call: Call, message: str) -> ModelError:
    reason = printable(message.rpartition("[ShapeInferenceError]")[2].strip().splitlines()[0])[:160]
    shapes = ", ".join("?" if fact is None or fact.known is None else str(list(fact.known)) for fact in call.inputs[:4])
    return ModelError(
        f"{call.where}: node {show(call.name)} ({call.op}) cannot run on inputs of shape {shapes[:200]}: {reason}",
        hint="Check the sizes given with --shape, --dim and -b: some models need multiples of 32, for example.",
    )


def _guess_dtype(call: Call) -> DType:
    """The element type of an output nobody describes: that of the first floating-point input."""
    dtypes = [fact.dtype for fact in call.inputs if fact is not None]
    return next((dtype for dtype in dtypes if dtype.is_float), dtypes[0] if dtypes else DType.FLOAT32)


@lru_cache(maxsize=4096)
def _schema(op: str, domain: str, opset: int) -> Any:
    """The newest definition of an operator that is not newer than *opset*; None when there is none."""
    newest = onnx.defs.onnx_opset_version() if domain == "" else opset
    try:
        return onnx.defs.get_schema(op, max(1, min(opset, newest)), domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=8192)
def _type(dtype: DType, dims: Shape | None) -> Any:
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = NUMBERS[dtype]
    if dims is not None:
        shape = proto.tensor_type.shape
        shape.SetInParent()
        for dim in dims:
            message = shape.dim.add()
            if dim is not None:
                message.dim_value = dim
    return proto


def _tensor(fact: Fact) -> Any:
    if fact.value is None:
        raise ValueError("a tensor without elements")
    return onnx.TensorProto(dims=fact.value.shape, data_type=NUMBERS[fact.dtype], raw_data=fact.value.tobytes())


def _fact(proto: Any) -> Fact:
    tensor = proto.tensor_type
    dtype = DTYPES.get(tensor.elem_type, DType.FLOAT32)
    if proto.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return unknown(dtype)
    return Fact(dtype=dtype, dims=tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim))
