"""The work of one frame as a runtime does it: launches, operations, and bytes that travel.

`vramplan.flops` counts every op of a graph on its own. A runtime fuses them, so that most results never travel: here the
kernels of `vramplan.runtimes.fusion` are added up, each reading its inputs and weights once and writing its result once.
What is written straight into a concatenation is not copied; a compiled region counts the kernels inside it.

Matrix kernels take channels in rows of 64 bytes: 16, 32 or 64 channels of 32, 16 or 8 bits. A layer with fewer computes with
zeros, which is why small detectors gain less from 8 bits than large ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vramplan.flops import UncountedError, count_node
from vramplan.graph import Graph, Node
from vramplan.precision import Converted
from vramplan.runtimes.fusion import FusedGraph, Kernel
from vramplan.runtimes.lowering import concat_homes
from vramplan.runtimes.ops import Kind

EIGHT_BIT_OPS = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})

ROW_CHANNELS = {"fp32": 16, "fp16": 32, "bf16": 32, "fp8": 64, "int8": 64}
"""Channels in a row of 64 bytes: the step in which matrix kernels are taken to walk through them. It is an assumption, kept
because it explains published 8-bit speeds of narrow networks on cards left out of the fit (docs/accuracy-streams.md)."""

CONVOLUTION_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which operand of a convolution is its weight; the first two dimensions of a weight are channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameWork:
    """The work of one frame in a batch of one; in a larger batch the launches and the weights are shared.

    ``arithmetic`` is what the matrix kernels compute in: fp32, fp16, bf16, fp8 or int8. ``matrix_flops`` are operations as
    they compute them, zeros included. ``input_bytes`` and ``output_bytes`` are what one frame's bindings take. ``unknown``
    names ops that could not be counted. ``is_eager`` says that no engine runs it, but PyTorch, op by op.

    Invariant: no count is negative, and there is at least one launch.
    """

    arithmetic: str
    launch_count: int
    matrix_flops: int
    weight_bytes: int
    activation_bytes: int
    input_bytes: int
    output_bytes: int
    unknown: tuple[str, ...] = ()
    is_eager: bool = False

    def __post_init__(self) -> None:
        counts = (self.matrix_flops, self.weight_bytes, self.activation_bytes, self.input_bytes, self.output_bytes)
        if min(counts) < 0 or self.launch_count < 1:
            raise ValueError(f"not the work of a frame: {self}")


def frame_work(fused: FusedGraph, converted: Converted, *, batch: int = 1) -> FrameWork:
    """Add up the kernels of *fused*, whose graph holds *batch* frames, with the element types of *converted*."""
    graph = converted.graph
    kernels = list(_launches(fused))
    arithmetic = _arithmetic(converted)
    flops, unknown = _matrix_flops(kernels, graph, arithmetic)
    return FrameWork(
        arithmetic=arithmetic,
        launch_count=max(1, len(kernels)),
        matrix_flops=flops // batch,
        weight_bytes=_size(graph, _weights(kernels, fused)),
        activation_bytes=sum(_size(graph, reads) + _size(graph, writes) for reads, writes in _traffic(kernels, fused)) // batch,
        input_bytes=_size(graph, graph.inputs) // batch,
        output_bytes=_size(graph, graph.outputs) // batch,
        unknown=unknown,
    )


def _launches(fused: FusedGraph) -> Iterator[Kernel]:
    """The kernels that run, with regions taken apart; a concatenation that nothing is copied into is no launch."""
    homes = concat_homes(fused)
    for kernel in fused.kernels:
        if kernel.kind is not Kind.CONCAT or any(name not in homes for name in kernel.reads):
            yield from kernel.inner or (kernel,)


def _matrix_flops(kernels: Iterable[Kernel], graph: Graph, arithmetic: str) -> tuple[int, tuple[str, ...]]:
    """Operations of all convolutions and matrix products, and the ops that could not be counted."""
    flops, unknown = 0, dict[str, None]()
    for node in (node for kernel in kernels for node in kernel.nodes):
        try:
            flops += computed_flops(node, graph, arithmetic)
        except UncountedError:
            unknown[node.op] = None
    return flops, tuple(unknown)


def computed_flops(node: Node, graph: Graph, arithmetic: str) -> int:
    """The matrix operations of *node* as its kernel does them: both kinds of channels filled up to whole rows.

    In an 8-bit engine the builder times a 16-bit kernel too, at half the rate, and keeps the faster one. Grouped
    convolutions are counted as they are: their kernels do not multiply matrices.
    """
    flops = count_node(node, graph.tensors)[0]
    index = CONVOLUTION_WEIGHTS.get(node.op)
    if index is None or node.attributes.get("group", 1) != 1:
        return flops
    channels = (graph.tensors[node.inputs[index]].shape or ())[:2]
    filled = flops * _filled(channels, ROW_CHANNELS[arithmetic])
    if ROW_CHANNELS[arithmetic] == ROW_CHANNELS["int8"]:
        filled = min(filled, 2 * flops * _filled(channels, ROW_CHANNELS["fp16"]))
    return round(filled)


def _filled(channels: Iterable[int], row: int) -> float:
    """By how much the work grows when every count of *channels* is rounded up to whole rows."""
    return math.prod(math.ceil(count / row) * row / count for count in channels if count)


def _traffic(kernels: Iterable[Kernel], fused: FusedGraph) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What each kernel reads and writes; a concatenation only what it copies."""
    homes = concat_homes(fused)
    for kernel in kernels:
        copied = tuple(name for name in kernel.reads if name not in homes)
        yield (copied, copied) if kernel.kind is Kind.CONCAT else (kernel.reads, kernel.writes)


def _weights(kernels: Iterable[Kernel], fused: FusedGraph) -> set[str]:
    """The constants that kernels read, each once; a quantised weight is read before it is scaled."""
    constants = set(fused.constants)
    return {fused.root(name) for kernel in kernels for node in kernel.nodes for name in node.reads} & constants


def _size(graph: Graph, names: Iterable[str]) -> int:
    return sum(graph.tensors[name].size_bytes for name in names)


def _arithmetic(converted: Converted) -> str:
    """By the policy's 8-bit type, else by quantised ops of the file, else by the type most weights have."""
    policy = converted.policy
    if policy.activation_type is not None:
        return "fp8" if policy.activation_type.is_float else "int8"
    graph = converted.graph
    if policy.float_type is None and any(node.op in EIGHT_BIT_OPS for node in graph.nodes):
        return "int8"
    floats = [graph.tensors[name] for name in graph.weights if graph.tensors[name].dtype.is_float]
    largest = max(floats, key=lambda tensor: tensor.count, default=None)
    names = {"float16": "fp16", "bfloat16": "bf16"}
    kind = str(policy.float_type or (largest.dtype if largest else "float32"))
    return names.get(kind, "fp32")
