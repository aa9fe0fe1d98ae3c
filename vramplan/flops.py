"""How much work a graph is: floating-point operations and bytes moved, op by op.

Two kinds of work are kept apart, because different units of a GPU do them:

``matrix``    multiply-adds of convolutions, matrix products, attention and recurrent cells, two operations each. Published
              GFLOPs count these (ResNet-50: 8.18 G = 2 x 4.09 G multiply-adds); bias and activations are left out.
``vector``    everything else that computes: one operation for each element a pointwise op writes or a reduction reads,
              one for each element of a pooling window, five for each element of a softmax or normalisation (two
              passes of sum and square, one scale).

An op that only moves data has no operations and still moves bytes. An op that is not in the tables, or whose shapes are not
known, is named in `Work.unknown`, never counted as zero work in silence.

Sources: the operator definitions of ONNX 1.17 and of ONNX Runtime's contributed ops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vramplan.graph import Graph, Node, Tensor

Tensors = Mapping[str, Tensor]

VECTOR_PASSES = 5
"""Operations for each element of an op that normalises: sum, square, sum of squares, subtract, scale."""

POINTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Bernoulli", "BiasAdd",
    "BiasGelu", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "CumSum", "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp",
    "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu",
    "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QLinearAdd",
    "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuantizeLinear", "QuickGelu", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
    "RotaryEmbedding",
})  # fmt: skip

REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Multinomial", "NonMaxSuppression", "NonZero",
    "QLinearGlobalAveragePool", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "TopK", "Unique",
})  # fmt: skip

NORMALISATIONS = frozenset({
    "EmbedLayerNormalization", "GroupNorm", "GroupNormalization", "Hardmax", "InstanceNormalization", "LRN",
    "LayerNormalization", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Softmax",
})  # fmt: skip

POOLING = frozenset({"AveragePool", "LpPool", "MaxPool", "QLinearAveragePool"})

SAMPLING = {"GridSample": 8, "Resize": 8, "RoiAlign": 32, "Upsample": 8, "MaxRoiPool": 4, "Col2Im": 1}
"""Operations for each element written: bilinear interpolation is four multiply-adds, RoiAlign averages four samples."""

MOVES = frozenset({
    "CenterCropPad", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Flatten",
    "Gather", "GatherElements", "GatherND", "Identity", "MaxUnpool", "OneHot", "Optional", "OptionalGetElement", "Pad",
    "QLinearConcat", "Range", "Reshape", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "Shape", "Size",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OpWork:
    """The work of one node at the graph's shapes: operations of both kinds, and bytes read and written.

    Invariant: no count is negative.
    """

    name: str
    op: str
    matrix_flops: int
    vector_flops: int
    moved_bytes: int

    def __post_init__(self) -> None:
        if min(self.matrix_flops, self.vector_flops, self.moved_bytes) < 0:
            raise ValueError(f"negative work: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of a whole graph. ``unknown`` names the ops that could not be counted, with how often they occur."""

    ops: tuple[OpWork, ...]
    unknown: tuple[str, ...]

    @property
    def matrix_flops(self) -> int:
        """Two operations for each multiply-add: what published GFLOPs mean."""
        return sum(op.matrix_flops for op in self.ops)

    @property
    def vector_flops(self) -> int:
        """Operations of pointwise ops, reductions, pooling and normalisation."""
        return sum(op.vector_flops for op in self.ops)

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written when every op is a launch of its own."""
        return sum(op.moved_bytes for op in self.ops)


class UncountedError(Exception):
    """The operations of a node cannot be counted: its op is not in the tables, or a shape is not known."""


def count_work(graph: Graph) -> Work:
    """Count every node of *graph* at its nominal shapes. A whole batch is counted, not one frame of it."""
    ops, unknown = [], Counter[str]()
    for node in graph.nodes:
        try:
            matrix, vector = count_node(node, graph.tensors)
        except UncountedError:
            unknown[f"{node.domain}.{node.op}" if node.domain else node.op] += 1
            matrix = vector = 0
        moved = moved_bytes(node, graph.tensors)
        ops.append(OpWork(name=node.name, op=node.op, matrix_flops=matrix, vector_flops=vector, moved_bytes=moved))
    named = (f"{op} × {count}" if count > 1 else op for op, count in sorted(unknown.items()))
    return Work(ops=tuple(ops), unknown=tuple(named))


def count_node(node: Node, tensors: Tensors) -> tuple[int, int]:
    """(matrix, vector) operations of *node*; `UncountedError` when they cannot be counted."""
    if node.op in _MATRIX:
        return _MATRIX[node.op](node, tensors), 0
    if node.op in _VECTOR:
        return 0, _VECTOR[node.op](node, tensors)
    raise UncountedError(node.op)


def moved_bytes(node: Node, tensors: Tensors) -> int:
    """Bytes *node* reads and writes, each tensor once; nothing for a tensor that inference gave up on at its low limit."""
    return sum(tensors[name].size_bytes for name in dict.fromkeys((*node.reads, *node.writes)))


def _nothing(_: Node, __: Tensors) -> int:
    return 0


def _reduced(node: Node, tensors: Tensors) -> int:
    return _tensor(node.inputs[0], tensors).count


def _normalised(node: Node, tensors: Tensors) -> int:
    return VECTOR_PASSES * _tensor(node.inputs[0], tensors).count


def _sampled(node: Node, tensors: Tensors) -> int:
    return SAMPLING[node.op] * _written(node, tensors)


def _pooled(node: Node, tensors: Tensors) -> int:
    return math.prod(_integers(node, "kernel_shape")) * _tensor(node.writes[0], tensors).count


def _tensor(name: str, tensors: Tensors) -> Tensor:
    if tensors[name].shape is None:
        raise UncountedError(name)
    return tensors[name]


def _shape(node: Node, index: int, tensors: Tensors) -> tuple[int, ...]:
    """The shape of input number *index*, which must be present and known."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    shape = tensors[name].shape if name else None
    if shape is None:
        raise UncountedError(node.op)
    return shape


def _written(node: Node, tensors: Tensors) -> int:
    return sum(_tensor(name, tensors).count for name in node.writes)


def _integer(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    return int(value) if isinstance(value, int | float) else default


def _integers(node: Node, name: str) -> tuple[int, ...]:
    value = node.attributes.get(name, ())
    if not isinstance(value, tuple):
        raise UncountedError(node.op)
    return tuple(int(item) for item in value)


def _convolution(node: Node, tensors: Tensors, *, weight_index: int = 1) -> int:
    """Every output element takes one multiply-add for each weight of its channel: (input channels / groups) x kernel."""
    return 2 * _tensor(node.writes[0], tensors).count * math.prod(_shape(node, weight_index, tensors)[1:])


def _convolution_transpose(node: Node, tensors: Tensors) -> int:
    """Every input element is multiplied with each weight of its channel: (output channels / groups) x kernel."""
    return 2 * math.prod(_shape(node, 0, tensors)) * math.prod(_shape(node, 1, tensors)[1:])


def _quantised_convolution(node: Node, tensors: Tensors) -> int:
    return _convolution(node, tensors, weight_index=3)


def _product(node: Node, tensors: Tensors) -> int:
    """Every output element is a dot product along the last axis of the first operand."""
    left = _shape(node, 0, tensors)
    inner = left[-2 if _integer(node, "transA", 0) and len(left) > 1 else -1] if left else 1
    return 2 * _tensor(node.writes[0], tensors).count * inner


def _einsum(node: Node, tensors: Tensors) -> int:
    """One multiply-add for each combination of index values. An ellipsis stands for all leading axes."""
    terms = str(node.attributes.get("equation", "")).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = _shape(node, index, tensors)
        labels = term.replace("...", "")
        if "..." in term:
            sizes["..."] = max(sizes.get("...", 1), math.prod(shape[: len(shape) - len(labels)]))
            shape = shape[len(shape) - len(labels) :]
        for label, size in zip(labels, shape, strict=False):
            sizes[label] = max(sizes.get(label, 1), size)
    return 2 * max(1, len(terms) - 1) * math.prod(sizes.values())


def _attention(node: Node, tensors: Tensors) -> int:
    """Scores and their product with the values; ONNX Runtime's ``Attention`` projects its input first.

    Queries are (batch, length, hidden), or (batch, heads, length, head size), and likewise keys and values.
    """
    if node.domain == "com.microsoft" and node.op == "Attention":
        batch, length, width = _shape(node, 0, tensors)
        projected = _shape(node, 1, tensors)[1]
        return 2 * batch * length * width * projected + 4 * batch * length * length * (projected // 3)
    query, key, value = (_shape(node, index, tensors) for index in range(3))
    rows, columns = math.prod(query[:-1]), key[-2]
    return 2 * rows * columns * (query[-1] + value[-1])


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(node: Node, tensors: Tensors) -> int:
    """At each step every gate multiplies the input and the previous state: X is (length, batch, width)."""
    length, batch, width = _shape(node, 0, tensors)
    directions, _, hidden = _shape(node, 2, tensors)
    return 2 * length * batch * directions * _GATES[node.op] * hidden * (width + hidden)


def _packed_product(node: Node, tensors: Tensors) -> int:
    """A product whose weights are packed below 8 bits: K and N are attributes."""
    rows = math.prod(_shape(node, 0, tensors)[:-1])
    return 2 * rows * _integer(node, "K", 0) * _integer(node, "N", 0)


_MATRIX: Mapping[str, Callable[[Node, Tensors], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "NhwcFusedConv", "NhwcConv", "DeformConv"), _convolution),
    "QLinearConv": _quantised_convolution,
    **dict.fromkeys(
        ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "QGemm", "FusedMatMul", "FusedGemm", "TransposeMatMul",
         "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _product),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
    **dict.fromkeys(_GATES, _recurrent),
    "ConvTranspose": _convolution_transpose,
    "Einsum": _einsum,
    "MatMulNBits": _packed_product,
}  # fmt: skip

_VECTOR: Mapping[str, Callable[[Node, Tensors], int]] = {
    **dict.fromkeys(POINTWISE, _written),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(NORMALISATIONS, _normalised),
    **dict.fromkeys(POOLING, _pooled),
    **dict.fromkeys(SAMPLING, _sampled),
    **dict.fromkeys(MOVES, _nothing),
}
