"""Nodes that a session runs on the CPU because there is no CUDA kernel for them, and what has to be copied for each.

Tensors that such a node reads from the GPU go to the CPU at every run, and what the GPU needs of its results comes back and has
a buffer there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vramplan.runtimes.onnxruntime.placement import NO_CUDA_KERNEL
from vramplan.runtimes.onnxruntime.session import Prepared
from vramplan.runtimes.ops import STANDARD_DOMAINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """One node, with the names and bytes of the tensors that are copied to the CPU for it, and back to the GPU."""

    node: str
    op: str
    to_cpu: tuple[tuple[str, int], ...]
    to_gpu: tuple[tuple[str, int], ...]


def fallbacks(prepared: Prepared) -> Iterator[Fallback]:
    """In the order of execution."""
    tensors, host = prepared.rewritten.tensors, prepared.placement.host
    constants = frozenset(prepared.rewritten.initializers)
    for node in prepared.nodes:
        if node.op in NO_CUDA_KERNEL and node.domain in STANDARD_DOMAINS:
            leaving = dict.fromkeys(name for name in node.reads if name not in host and name not in constants)
            coming = [name for name in node.writes if name in prepared.placement.copies]
            yield Fallback(
                node=node.name or node.outputs[0],
                op=node.op,
                to_cpu=tuple((name, tensors[name].size_bytes) for name in leaving),
                to_gpu=tuple((name, tensors[name].size_bytes) for name in coming),
            )
