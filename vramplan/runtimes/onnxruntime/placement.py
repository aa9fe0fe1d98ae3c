"""Which nodes run on the CPU, and which of their results have to be copied to the GPU.

Source: onnxruntime/core/framework/fallback_cpu_capability.cc (small integer subgraphs behind Shape stay on the CPU, where their
results are needed) and docs/OperatorKernels.md (ops for which the CUDA provider has no kernel).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
"""They read a tensor's shape only, and leave it on the CPU."""

SHAPE_COUNT = 64
"""Integers up to this many are shapes and indices, which kernels take from the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``host`` names the tensors that live on the CPU; ``fallen`` counts the ops without a CUDA kernel.

    ``copies`` are results of the CPU that kernels on the GPU read: they get a buffer there. ``leaving_bytes`` is what goes the
    other way at each run.
    """

    host: frozenset[str]
    copies: frozenset[str]
    fallen: Mapping[str, int]
    leaving_bytes: int

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
    host: set[str] = set()
    known = set(constants)
    fallen: Counter[str] = Counter()
    leaving: set[str] = set()
    for node in nodes:
        if node.op in NO_CUDA_KERNEL and node.domain in ("", "ai.onnx"):
            fallen[node.op] += 1
            leaving.update(name for name in node.reads if name not in host and name not in known)
            host.update(node.writes)
        elif node.op in SHAPE_OPS or _is_shape_work(node, tensors, host, known):
            host.update(node.writes)
    read = {name for node in nodes if not host.intersection(node.writes) for name in node.reads}
    return Placement(
        host=frozenset(host),
        copies=frozenset(name for name in host & read if not _is_small(tensors[name])),
        fallen=dict(fallen),
        leaving_bytes=sum(tensors[name].size_bytes for name in leaving),
    )


def _is_shape_work(node: Node, tensors: Mapping[str, Tensor], host: Collection[str], constants: Collection[str]) -> bool:
    """Whether *node* only reckons with small integers that are on the CPU already."""
    reads = [name for name in node.reads if name not in constants]
    return bool(reads) and all(name in host for name in reads) and _are_small(tensors, node.writes)


def _are_small(tensors: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    return all(_is_small(tensors[name]) for name in names)


def _is_small(tensor: Tensor) -> bool:
    return not tensor.dtype.is_float and tensor.count <= SHAPE_COUNT
