"""A precision policy over a graph: the element type of every tensor, and what the policy leaves wider.

A policy converts real floating-point tensors only; integers, booleans, shapes and indices stay what they are. What stays
wider than the policy's name suggests is returned as `Kept` rows, so that a report can say how much and why.

Rules
    fp32, fp16, bf16    every float tensor takes the type, inputs and outputs included (what a half-precision export does)
    int8, fp8           results of ops that have 8-bit kernels, when every reader has one too; weights of convolutions and
                        matrix products, with a float32 scale per output channel (int8) or per tensor (fp8); the rest is
                        float16, and graph inputs and outputs keep their declared type, as TensorRT leaves them
    int4                weights of matrix products only, two to a byte, with a float16 scale per 128 input elements;
                        everything else float16 (TensorRT has no 4-bit convolution)
    as-is               the file's own types
    autocast-fp16, -bf16  PyTorch's automatic mixed precision, for modules only
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from vramplan.dtypes import DType
from vramplan.errors import UsageError, close_matches
from vramplan.graph import Graph, Node, Tensor


class Granularity(Enum):
    """How many scales a quantised weight has."""

    TENSOR = "per tensor"
    CHANNEL = "per output channel"
    GROUP = "per 128 elements of a column"


GROUP_SIZE = 128
"""Elements that share an int4 scale: the block size TensorRT Model Optimizer and AWQ use by default."""

GEMMS = frozenset({"MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
MOVES = frozenset({
    "Concat", "DepthToSpace", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad",
    "QuantizeLinear", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    "Upsample",
})  # fmt: skip
SIMPLE = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "Max",
    "Min", "Mul", "PRelu", "Relu", "Sigmoid", "Swish",
})  # fmt: skip
EIGHT_BIT = GEMMS | CONVOLUTIONS | MOVES | SIMPLE
FLOAT_ONLY = frozenset({"NonMaxSuppression", "Range", "RoiAlign"})
"""ONNX defines these for float32 only (or without 16-bit kernels in any GPU runtime)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named rule for element types.

    ``float_type`` is the type of ordinary float tensors (None: as declared); ``weight_type`` and ``activation_type``
    replace it where ops in ``weight_ops`` and 8-bit kernels allow. ``autocast_type`` is the narrow type of PyTorch's automatic
    mixed precision: weights stay as they are, and casts come and go.
    """

    name: str
    float_type: DType | None = None
    weight_type: DType | None = None
    weight_ops: frozenset[str] = frozenset()
    activation_type: DType | None = None
    granularity: Granularity = Granularity.TENSOR
    keeps_io: bool = False
    autocast_type: DType | None = None

    def promised_bits(self, *, is_weight: bool) -> int:
        """The width the policy's name promises for a weight, or for a result."""
        promised = (self.weight_type if is_weight else self.activation_type) or self.float_type
        return promised.bits if promised else 0


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(name="as-is"),
        Policy(name="fp32", float_type=DType.FLOAT32),
        Policy(name="fp16", float_type=DType.FLOAT16),
        Policy(name="bf16", float_type=DType.BFLOAT16),
        Policy(name="fp8", float_type=DType.FLOAT16, weight_type=DType.FLOAT8_E4M3FN, weight_ops=GEMMS | CONVOLUTIONS,
               activation_type=DType.FLOAT8_E4M3FN, keeps_io=True),
        Policy(name="int8", float_type=DType.FLOAT16, weight_type=DType.INT8, weight_ops=GEMMS | CONVOLUTIONS,
               activation_type=DType.INT8, granularity=Granularity.CHANNEL, keeps_io=True),
        Policy(name="int4", float_type=DType.FLOAT16, weight_type=DType.INT4, weight_ops=GEMMS,
               granularity=Granularity.GROUP),
        Policy(name="autocast-fp16", autocast_type=DType.FLOAT16),
        Policy(name="autocast-bf16", autocast_type=DType.BFLOAT16),
    )
}  # fmt: skip

NARROWER = {"as-is": ("fp16", "int8"), "fp32": ("fp16", "int8"), "fp16": ("int8",), "bf16": ("int8", "fp8")}
"""The policies to try next when something has to be smaller or faster, the least change first."""

ALIASES = {
    "float32": "fp32", "float": "fp32", "tf32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "float8": "fp8", "asis": "as-is", "native": "as-is",
}  # fmt: skip


def find_policy(name: str) -> Policy:
    """The policy called *name* or one of its aliases (``half`` = ``float16`` = ``fp16``). UsageError for anything else."""
    word = name.strip().lower()
    word = ALIASES.get(word, word)
    if word not in POLICIES:
        raise UsageError(f"unknown precision {name[:80]!r}", hint=close_matches(word, POLICIES))
    return POLICIES[word]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Tensors of one op that a policy leaves in a wider type, and the reason."""

    op: str
    dtype: DType
    reason: str
    tensor_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A graph after a policy. ``scales`` gives, for each quantised weight, the tensor of its scales.

    ``wide_graph`` is the graph with no result narrower than the policy's float type: what an 8-bit engine falls back to
    where 16-bit kernels are faster. Without 8-bit results it is ``graph`` itself.
    """

    graph: Graph
    wide_graph: Graph
    policy: Policy
    kept: tuple[Kept, ...]
    scales: dict[str, Tensor]


def apply_policy(graph: Graph, policy: Policy) -> Converted:
    """Convert *graph*: the same nodes, every tensor with the type it has under *policy*."""
    if policy.autocast_type is not None:
        raise UsageError(
            f"precision {policy.name} is PyTorch's automatic mixed precision: a graph has none",
            hint="Use it with --runtime torch.",
        )
    if policy.float_type is None:
        return Converted(graph=graph, wide_graph=graph, policy=policy, kept=(), scales={})
    quantised, scales = _quantised_weights(graph, policy)
    narrow = _narrow_activations(graph, policy)
    pinned = _float_only(graph)
    weights, tensors, wide = set(graph.weights), {}, set()
    for name, tensor in graph.tensors.items():
        dtype = tensor.dtype
        if name in quantised and policy.weight_type is not None:
            dtype = policy.weight_type
        elif dtype.is_float and name not in pinned and not (policy.keeps_io and name in {*graph.inputs, *graph.outputs}):
            dtype = policy.activation_type if name in narrow and policy.activation_type else policy.float_type
        if dtype.is_float and dtype.bits > policy.promised_bits(is_weight=name in weights):
            wide.add(name)
        tensors[name] = tensor if dtype is tensor.dtype else replace(tensor, dtype=dtype)
    converted = wide_graph = replace(graph, tensors=tensors)
    if narrow:
        widened = {name: replace(tensors[name], dtype=policy.float_type) for name in narrow}
        wide_graph = replace(graph, tensors={**tensors, **widened})
    return Converted(
        graph=converted, wide_graph=wide_graph, policy=policy, kept=tuple(_kept(converted, policy, wide, pinned)), scales=scales
    )


def _quantised_weights(graph: Graph, policy: Policy) -> tuple[set[str], dict[str, Tensor]]:
    """Weights that take the policy's weight type, and their scales: the second operand of an op in ``weight_ops``."""
    if policy.weight_type is None:
        return set(), {}
    weights = {name for name in graph.weights if graph.tensors[name].dtype.is_float}
    elsewhere, scales = set(), {}
    for node in graph.nodes:
        for index, name in enumerate(node.inputs):
            if name in weights and not (index == 1 and node.op in policy.weight_ops):
                elsewhere.add(name)
        if node.op in policy.weight_ops and len(node.inputs) > 1 and node.inputs[1] in weights:
            tensor = graph.tensors[node.inputs[1]]
            scales[tensor.name] = _scales(tensor, node, policy)
    chosen = {name: scale for name, scale in scales.items() if name not in elsewhere}
    return set(chosen), chosen


def _scales(weight: Tensor, node: Node, policy: Policy) -> Tensor:
    shape = weight.shape or (weight.count,)
    is_first = node.op == "Conv" or bool(node.attributes.get("transB")) or len(shape) == 1
    channels = shape[0] if is_first else shape[-1 if node.op in GEMMS else 1]
    count = {
        Granularity.TENSOR: 1,
        Granularity.CHANNEL: channels,
        Granularity.GROUP: channels * math.ceil(weight.count / max(channels, 1) / GROUP_SIZE),
    }[policy.granularity]
    dtype = DType.FLOAT16 if policy.granularity is Granularity.GROUP else DType.FLOAT32
    return Tensor(name=f"{weight.name}.scale", dtype=dtype, shape=(count,))


def _narrow_activations(graph: Graph, policy: Policy) -> set[str]:
    """Results that can be 8 bits wide: written by an op with 8-bit kernels, and read by nothing else."""
    if policy.activation_type is None:
        return set()
    narrow = {name for node in graph.nodes if node.op in EIGHT_BIT for name in node.writes}
    for node in graph.nodes:
        if node.op not in EIGHT_BIT:
            narrow.difference_update(node.reads)
    return {name for name in narrow.difference(graph.outputs) if graph.tensors[name].dtype.is_float}


def _float_only(graph: Graph) -> set[str]:
    """Float tensors of ops that exist in float32 only, and the float parameters of Resize (regions, scales)."""
    pinned: set[str] = set()
    for node in graph.nodes:
        if node.op in FLOAT_ONLY:
            pinned.update(node.reads, node.writes)
        elif node.op in {"Resize", "Upsample"}:
            pinned.update(name for name in node.inputs[1:] if name)
    return {name for name in pinned if graph.tensors[name].dtype is DType.FLOAT32}


def _kept(graph: Graph, policy: Policy, wide: set[str], pinned: set[str]) -> Iterable[Kept]:
    """One row per op and reason, largest first."""
    owner: dict[str, str] = {name: node.op for node in reversed(graph.nodes) for name in node.reads}
    owner.update({name: node.op for node in graph.nodes for name in node.writes})
    groups: dict[tuple[str, DType, str], list[int]] = defaultdict(list)
    for name in wide & owner.keys():
        tensor = graph.tensors[name]
        groups[owner[name], tensor.dtype, _reason(graph, policy, name, owner[name], pinned)].append(tensor.size_bytes)
    rows = (
        Kept(op=op, dtype=dtype, reason=reason, tensor_count=len(sizes), size_bytes=sum(sizes))
        for (op, dtype, reason), sizes in groups.items()
    )
    return sorted(rows, key=lambda row: (-row.size_bytes, row.op, row.reason))


def _reason(graph: Graph, policy: Policy, name: str, op: str, pinned: set[str]) -> str:
    if name in pinned:
        return "defined for float32 only"
    if name in graph.inputs or name in graph.outputs:
        return "graph input or output"
    if name in set(graph.weights):
        return "bias, norm or constant" if op in policy.weight_ops else "weight of an op the policy does not quantise"
    return "no 8-bit kernel" if op not in EIGHT_BIT else "read by an op without 8-bit kernel"
