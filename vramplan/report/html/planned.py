"""Inside the one block that ONNX Runtime takes for all results of a run: where each of them lies.

The block is planned from what the first run asked for (`vramplan.runtimes.onnxruntime.pattern`), so the first run, replayed
through the planner, gives the offsets, and its ops say when each result is held in a later run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from vramplan.program import Action, MemoryProgram, Phase, Role
from vramplan.report.html.places import Place
from vramplan.runtimes.onnxruntime.pattern import ALIGNMENT_BYTES, Pattern
from vramplan.runtimes.onnxruntime.session import PATTERN


@dataclass(slots=True)
class _Result:
    """A result of the first run: its offset in the block, and the ops, counted from the run's first, that hold it."""

    buffer_index: int
    offset: int
    first_op: int
    last_op: int


def planned_places(program: MemoryProgram, runs: Collection[str], places: Sequence[Place]) -> dict[Place, tuple[Place, ...]]:
    """The results inside each of *places* that is such a block, as a run without one led to it.

    A block that no run explains stays shut. A run with a block has few steps: results that come and go between two of them are
    left out.
    """
    blocks = [place for place in places if program.buffers[place.buffer_index].name == PATTERN]
    if not blocks:
        return {}
    by_size = dict(_traced(program, phase) for phase in program.phases if phase.name in runs)
    planned = [(block, by_size.get(program.buffers[block.buffer_index].size_bytes)) for block in blocks]
    return {block: tuple(_opened(program, block, results)) for block, results in planned if results}


def _traced(program: MemoryProgram, run: Phase) -> tuple[int, list[_Result]]:
    """A run through the planner: the size of the block that it leads to, and its results. A run with a block has none."""
    events = program.events[run.start : run.stop]
    first_op = events[0].op_index if events else 0
    pattern, found = Pattern(), dict[int, _Result]()
    for action, index, op_index in events:
        buffer = program.buffers[index]
        if buffer.role is not Role.ACTIVATION or buffer.name == PATTERN:
            continue
        if action is Action.HOLD:
            offset = pattern.hold(str(index), buffer.size_bytes)
            found[index] = _Result(index, offset, op_index - first_op, len(program.ops))
        elif index in found:
            pattern.free(str(index))
            found[index].last_op = op_index - first_op
    return pattern.size_bytes, list(found.values())


def _opened(program: MemoryProgram, block: Place, results: Sequence[_Result]) -> Iterator[Place]:
    ops = [event.op_index for event in program.events[block.start : block.stop]]
    for result in results:
        start = block.start + bisect_left(ops, ops[0] + result.first_op)
        stop = block.start + bisect_left(ops, ops[0] + result.last_op + 1)
        size = -(-program.buffers[result.buffer_index].size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if size and start < stop:
            yield Place(result.buffer_index, block.address + result.offset, size, start, stop)
