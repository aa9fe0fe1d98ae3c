"""Shapes of the operators that ONNX Runtime adds to its own domain (``com.microsoft``), where they are simple.

Quantizers and graph optimizers write them into files. Definitions:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Operators not listed stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx

from vramplan.dtypes import DType
from vramplan.sources.onnx_facts import Call, Fact

Schema = Callable[[Call], list[Fact]]

_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})

_HOMELESS = frozenset({"SimplifiedLayerNormalization"})
"""Operators of its own that it writes into the standard domain."""
_OPSET = 13

# Every output has the shape and type of the first input.
_LIKE_INPUT = frozenset(
    {"Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasAdd", "FusedMul", "BiasDropout", "QLinearSigmoid", "QLinearLeakyRelu",
     "QLinearSoftmax", "RotaryEmbedding", "GroupNorm", "BiasSoftmax", "RestorePadding", "RelativePositionBias", "Inverse",
     "SimplifiedLayerNormalization"}
)  # fmt: skip

# The standard operator with the same shapes, and which inputs take part in it.
_STAND_INS: dict[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "QGemm": ("Gemm", (0, 3)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
}


def contrib_rule(call: Call, by_schema: Schema) -> list[Fact]:
    """The facts of a contributed operator's outputs; empty when it is none or is not listed here."""
    first = call.input(0)
    if first is None or (call.domain not in _DOMAINS and call.op not in _HOMELESS):
        return []
    rule = _RULES.get(call.op)
    if rule is not None:
        return rule(call, first)
    return _fused_matmul(call, by_schema) if call.op == "FusedMatMul" else _by_stand_in(call, by_schema)


def _like_input(_: Call, first: Fact) -> list[Fact]:
    return [first.without_value()]


def _skip_norm(_: Call, first: Fact) -> list[Fact]:
    """Normalized, mean, inverse deviation, and the sum that the next layer reads."""
    statistic = Fact(dtype=DType.FLOAT32, dims=None if first.dims is None else (*first.dims[:-1], 1))
    return [first, statistic, statistic, first]


def _few_bit_matmul(call: Call, first: Fact) -> list[Fact]:
    return [Fact(dtype=first.dtype, dims=(*first.dims[:-1], call.integer("N", 0) or None))] if first.dims else []


def _quantized(call: Call, first: Fact) -> list[Fact]:
    """QuantizeLinear takes its type from the zero point, DequantizeLinear from the scale."""
    source = call.input(2 if call.op == "QuantizeLinear" else 1)
    return [Fact(dtype=source.dtype if source is not None else DType.UINT8, dims=first.dims, low=first.low)]


def _quantized_concat(call: Call, _: Fact) -> list[Fact]:
    """Inputs come in threes after the output's scale and zero point: tensor, scale, zero point."""
    parts = [fact.known for fact in call.inputs[2::3] if fact is not None]
    zero_point, axis = call.input(1), call.integer("axis", 0)
    shapes = [part for part in parts if part is not None]
    if zero_point is None or not shapes or len(shapes) != len(parts) or not -len(shapes[0]) <= axis < len(shapes[0]):
        return []
    axis %= len(shapes[0])
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        return []
    size = sum(shape[axis] for shape in shapes)
    return [Fact(dtype=zero_point.dtype, dims=(*shapes[0][:axis], size, *shapes[0][axis + 1 :]))]


def _fused_matmul(call: Call, by_schema: Schema) -> list[Fact]:
    """MatMul whose batch dimensions may be moved behind the next one first, and whose last two may be swapped then."""
    sides = []
    for index, side in enumerate("AB"):
        fact = call.input(index)
        if fact is None:
            return []
        if call.integer(f"transBatch{side}", 0) and fact.dims is not None and len(fact.dims) > 2:
            fact = replace(fact, dims=(*fact.dims[1:-1], fact.dims[0], fact.dims[-1]), value=None)
        if call.integer(f"trans{side}", 0) and fact.dims is not None and len(fact.dims) > 1:
            fact = replace(fact, dims=(*fact.dims[:-2], fact.dims[-1], fact.dims[-2]), value=None)
        sides.append(fact)
    return _standard("MatMul", replace(call, inputs=tuple(sides)), by_schema)


def _by_stand_in(call: Call, by_schema: Schema) -> list[Fact]:
    op, indices = _STAND_INS.get(call.op, ("", ()))
    inputs = tuple(fact for index in indices if (fact := call.input(index)) is not None)
    if not op or not inputs:
        return []
    facts = _standard(op, replace(call, inputs=tuple(_as_float(fact) for fact in inputs)), by_schema)
    return [replace(fact, dtype=_output_dtype(call)) for fact in facts]


def _standard(op: str, call: Call, by_schema: Schema) -> list[Fact]:
    """The facts of standard operator *op* on the inputs of *call*, with the attributes that *op* knows."""
    known = onnx.defs.get_schema(op, _OPSET, "").attributes
    names = [f"input{index}" for index in range(len(call.inputs))]
    proto = onnx.NodeProto(op_type=op, input=names, output=["output"])
    proto.attribute.extend(attribute for attribute in call.proto.attribute if attribute.name in known)
    attributes = {name: value for name, value in call.attributes.items() if name in known}
    stand_in = replace(call, op=op, domain="", opset=_OPSET, attributes=attributes, proto=proto, output_count=1)
    return by_schema(stand_in)


def _as_float(fact: Fact) -> Fact:
    """Standard operators take no 8-bit integers; the shape is the same."""
    return replace(fact, dtype=DType.FLOAT32, value=None)


def _output_dtype(call: Call) -> DType:
    """Integer arithmetic that is scaled back in the same step gives floats; the rest keeps its first input's type."""
    first = call.input(0)
    if first is None or call.op in {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}:
        return DType.FLOAT32
    return DType.FLOAT32 if call.op == "QGemm" and call.input(8) is None else first.dtype


_RULES: dict[str, Callable[[Call, Fact], list[Fact]]] = {
    **dict.fromkeys(_LIKE_INPUT, _like_input),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm"), _skip_norm),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantized),
    "QLinearConcat": _quantized_concat,
    "MatMulNBits": _few_bit_matmul,
}
