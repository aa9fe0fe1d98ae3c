"""What single nodes of an ONNX Runtime session ask for, predicted and measured, as two programs that `alignment` compares.

ONNX Runtime's statistics say, of each node, how much its results took and how much scratch it had. They name no order, so the
measured program has the order of the predicted one. Nothing up to the size of a chunk is compared: shapes and indices on the
CPU are among the statistics too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vramplan.alignment import op_requests
from vramplan.device.measurement import NodeReading
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role

CHUNK_BYTES = 256
"""The smallest chunk of an arena; sizes in the statistics are multiples of it."""

PHASE = "run1"
"""The run without a memory pattern."""


class Asked(NamedTuple):
    """Bytes of results and of scratch that a node asks for."""

    name: str
    result_bytes: int
    scratch_bytes: int


def node_programs(predicted: MemoryProgram, nodes: Sequence[NodeReading]) -> tuple[MemoryProgram, MemoryProgram]:
    """Both sides, node by node, in the phase `PHASE`."""
    ours = list(_predicted(predicted))
    theirs = list(_in_order(nodes, [asked.name for asked in ours]))
    return _program(ours), _program(theirs)


def _predicted(program: MemoryProgram) -> Iterator[Asked]:
    for op in op_requests(program, PHASE):
        results = scratch = 0
        for request, role in zip(op.requests, op.roles, strict=True):
            size = -(-request.size_bytes // CHUNK_BYTES) * CHUNK_BYTES
            results += size if role in (Role.ACTIVATION.value, Role.OUTPUT.value) else 0
            scratch += size if role == Role.WORKSPACE.value else 0
        yield Asked(op.name, results, scratch)


def _in_order(nodes: Iterable[NodeReading], names: Sequence[str]) -> Iterator[Asked]:
    """The measured nodes in the order of *names*; those of no such name come last."""
    places = {name: place for place, name in enumerate(names)}
    for node in sorted(nodes, key=lambda node: (places.get(node.name, len(places)), node.name)):
        yield Asked(node.name, node.result_bytes, node.scratch_bytes)


def _program(asked: Iterable[Asked]) -> MemoryProgram:
    """Each node's results and scratch; what is no larger than a chunk is left out."""
    builder = ProgramBuilder()
    for name, result_bytes, scratch_bytes in asked:
        builder.op(name)
        if result_bytes > CHUNK_BYTES:
            builder.hold(Buffer(name=name, role=Role.ACTIVATION, size_bytes=result_bytes, path=name))
        if scratch_bytes > CHUNK_BYTES:
            builder.free(builder.hold(Buffer(name=name, role=Role.WORKSPACE, size_bytes=scratch_bytes, path=name)))
    builder.phase(PHASE)
    return builder.build()
