"""What the walk knows about each operator: how it runs, and which are one operator under several names."""

from __future__ import annotations

from enum import Enum

from vramplan.graph import Node


class Kind(Enum):
    """What sort of kernel it is; it decides what may join it and how it reads its inputs."""

    CONVOLUTION = "convolution"
    POINTWISE = "pointwise"
    CONCAT = "concat"
    POOLING = "pooling"
    RESIZE = "resize"
    REGION = "region"


VIEWS = frozenset({
    "Dropout", "Flatten", "Identity", "Optional", "OptionalGetElement", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze",
})  # fmt: skip
"""Ops whose result is another way to look at their first input. Split and Slice are read in place, with strides."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "Gemm"})
POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"})
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"})
CLAMPS = frozenset({"Relu", "Clip"})
AFFINE = frozenset({"BatchNormalization", "Mul", "Add", "Sub", "Div", "Sum"})
POINTWISE = CLAMPS | AFFINE | {
    "Abs", "Acos", "Acosh", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "DequantizeLinear", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish",
    "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Neg", "Not", "Or",
    "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
}  # fmt: skip
RESIZES = frozenset({"Resize", "Upsample"})

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
CONTRIB_DOMAIN = "com.microsoft"
CONTRIB_PREFIXES = ("QLinear", "Fused", "Quick", "Fast", "Bias", "Q")
"""ONNX Runtime's own ops repeat a standard one with a prefix: QLinearAdd, FusedConv, FastGelu, QGemm."""


def standard_op(node: Node) -> str:
    """The ONNX op that does the same to memory, or the op itself: ``QLinearConv`` is a ``Conv``."""
    for prefix in CONTRIB_PREFIXES:
        rest = node.op.removeprefix(prefix)
        if rest != node.op and (rest in POINTWISE or rest in CONVOLUTIONS or rest in POOLING or rest in {"Concat", "MatMul"}):
            return rest
    return node.op


def is_known(node: Node) -> bool:
    """Whether the walk knows what *node* does to memory: ONNX's own ops, and contributed ones that repeat them."""
    return node.domain in STANDARD_DOMAINS or (node.domain == CONTRIB_DOMAIN and standard_op(node) != node.op)


def kind_of(node: Node) -> Kind:
    """How *node* runs by itself."""
    op = standard_op(node)
    for ops, kind in _KINDS.items():
        if op in ops:
            return kind
    return Kind.REGION


_KINDS = {
    CONVOLUTIONS: Kind.CONVOLUTION,
    POINTWISE: Kind.POINTWISE,
    POOLING: Kind.POOLING,
    RESIZES: Kind.RESIZE,
    frozenset({"Concat"}): Kind.CONCAT,
}
