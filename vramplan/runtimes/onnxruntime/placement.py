"""Which nodes run on the CPU, which tensors live there, and which of their results have to be copied to the GPU.

Source: onnxruntime/core/framework/fallback_cpu_capability.cc. A node whose kernel for CUDA exists is still put on the CPU
when it works on what is there already: one of its inputs is a result on the CPU, and each of the others is one too, or a small
constant, or an input of the graph; none is of half precision; and none of the results on the CPU is one that the CUDA kernel
would read there anyway (`HOST_INPUTS`). So the arithmetic behind a Shape runs on the CPU, floats included, and the Expand or
Range that it is for does not. On the 22 guided models of the benchmark this puts every node where ONNX Runtime 1.30 had it.
Ops without a kernel for CUDA: docs/OperatorKernels.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vramplan.graph import Node, Tensor

NO_CUDA_KERNEL = frozenset({
    "Bernoulli", "BitShift", "Celu", "Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "EyeLike",
    "Hardmax", "LpPool", "MaxRoiPool", "MaxUnpool", "Mean", "MeanVarianceNormalization", "MelWeightMatrix", "Mish",
    "Multinomial", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "STFT", "StringConcat", "StringNormalizer",
    "StringSplit", "TfIdfVectorizer", "Unique",
})  # fmt: skip
"""Ops without a kernel for CUDA in ONNX Runtime 1.2x, as far as they occur in models of images and text."""

SHAPE_OPS = frozenset({"Shape", "Size"})
"""They read a tensor's shape only: their CUDA kernels leave it on the CPU."""

SMALL_COUNT = 100
"""``kSmallInitializerThreshold``: constants up to this many elements keep nothing off the CPU."""

HOST_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2), "ConstantOfShape": (0,), "CumSum": (1,), "Dropout": (1, 2), "Expand": (1,), "If": (0,), "Loop": (0, 1),
    "NonMaxSuppression": (2, 3, 4), "OneHot": (1,), "Pad": (1, 2, 3), "Range": (0, 1, 2), "ReduceL1": (1,), "ReduceL2": (1,),
    "ReduceLogSumExp": (1,), "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceSum": (1,),
    "ReduceSumSquare": (1,), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,),
    "Tile": (1,), "TopK": (1,), "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
"""Inputs that a CUDA kernel reads on the CPU, by op (``InputMemoryType(OrtMemTypeCPUInput)`` in core/providers/cuda)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``host`` names the results that live on the CPU; ``fallen`` counts the ops without a CUDA kernel.

    ``weights`` are the constants that a kernel on the GPU reads there. ``copies`` are results of the CPU that kernels on the
    GPU read: they get a buffer there. ``leaving_bytes`` is what goes the other way at each run.
    """

    host: frozenset[str]
    weights: frozenset[str]
    copies: frozenset[str]
    fallen: Mapping[str, int]
    leaving_bytes: int

    def copied_for(self, node: Node) -> frozenset[str]:
        """The copies that *node* reads."""
        return self.copies & device_reads(node) if not self.host.issuperset(node.writes) else frozenset()

    @property
    def notes(self) -> Iterator[str]:
        """Which ops fell back to the CPU, and what that copies."""
        if self.fallen:
            ops = ", ".join(f"{op} × {count}" if count > 1 else op for op, count in sorted(self.fallen.items()))
            yield (
                f"ONNX Runtime has no CUDA kernel for {ops}: they run on the CPU, and each run copies {self.leaving_bytes}"
                f" bytes to it and {len(self.copies)} results back, which are held on the GPU beside the others"
            )


def place(nodes: Sequence[Node], tensors: Mapping[str, Tensor], constants: Collection[str]) -> Placement:
    """Where each node of *nodes* (in execution order) runs."""
    work = _Places(tensors, frozenset(constants), frozenset(name for node in nodes for name in node.writes))
    for node in nodes:
        work.place(node)
    needed = frozenset(name for node in work.on_gpu for name in device_reads(node))
    return Placement(
        host=frozenset(work.host),
        weights=needed & work.constants,
        copies=frozenset(work.host) & needed,
        fallen=dict(work.fallen),
        leaving_bytes=sum(tensors[name].size_bytes for name in work.leaving),
    )


def device_reads(node: Node) -> set[str]:
    """What the CUDA kernel of *node* reads on the GPU."""
    if node.op in SHAPE_OPS:
        return set()
    kept = HOST_INPUTS.get(node.op, ())
    read_there = {name for index, name in enumerate(node.inputs) if name and index not in kept}
    return read_there | (set(node.reads) - set(node.inputs))


class _Places:
    """What lives on the CPU so far."""

    def __init__(self, tensors: Mapping[str, Tensor], constants: frozenset[str], written: frozenset[str]) -> None:
        self.tensors, self.constants, self.written = tensors, constants, written
        self.host: set[str] = set()
        self.shapes: set[str] = set()
        self.leaving: set[str] = set()
        self.fallen: Counter[str] = Counter()
        self.on_gpu: list[Node] = []

    def place(self, node: Node) -> None:
        if node.op in NO_CUDA_KERNEL and node.domain in ("", "ai.onnx"):
            self.fallen[node.op] += 1
            self.leaving.update(name for name in node.reads if name not in self.host and name not in self.constants)
            self.host.update(node.writes)
        elif node.op in SHAPE_OPS or self._is_host_work(node):
            self.host.update(node.writes)
            self.shapes.update(node.writes)
        else:
            self.on_gpu.append(node)

    def _is_host_work(self, node: Node) -> bool:
        """``GetCpuPreferredNodes``: whether *node* only works on what is on the CPU, and the GPU would not read it there."""
        kept = HOST_INPUTS.get(node.op, ())
        found = [(index, name) for index, name in enumerate(node.inputs) if name and not self._is_no_hindrance(name)]
        is_half = any(self.tensors[name].dtype.is_float and self.tensors[name].dtype.bits == 16 for name in node.reads)
        return bool(found) and not is_half and all(name in self.shapes and index not in kept for index, name in found)

    def _is_no_hindrance(self, name: str) -> bool:
        """A small constant, or an input of the graph."""
        if name in self.constants:
            return self.tensors[name].count <= SMALL_COUNT
        return name not in self.written
