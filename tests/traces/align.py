"""A recording and a trace, step by step: where do they first differ, apart from the workspace of convolutions?

Each convolution has a place in the trace where its workspace would stand. There, and nowhere else, the recording may hold one
allocation of any size that is freed at once. Every other event has to be there in both, in the same order, with the same size.
A free counts as equal when it frees the very allocation that the other one frees, not just one of the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vramplan.program import Action, MemoryProgram, Role


class Step(NamedTuple):
    """An allocation, or the free of the one that got the same ``key`` last."""

    is_alloc: bool
    key: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{'allocate' if self.is_alloc else 'free'} {self.size_bytes:,} bytes"


class Traced(NamedTuple):
    """A step of ours with the op that takes it; ``is_place`` where the workspace of a convolution may stand."""

    step: Step
    op: str
    is_place: bool


def recorded_phase(program: MemoryProgram, name: str) -> list[Step]:
    """What a phase of a recording allocates and frees."""
    _, start, stop = program.phase(name)
    return [
        Step(action is Action.HOLD, index, program.buffers[index].size_bytes) for action, index, _ in program.events[start:stop]
    ]


def traced_phase(program: MemoryProgram, name: str) -> list[Traced]:
    """What a phase of a trace holds and frees; a convolution's workspace is a place, not a step, and it has to be empty."""
    _, start, stop = program.phase(name)
    steps = []
    for action, index, op_index in program.events[start:stop]:
        buffer = program.buffers[index]
        is_place = buffer.role is Role.WORKSPACE and buffer.name.endswith("cuDNN workspace")
        if is_place and buffer.size_bytes:
            raise ValueError(f"{buffer.name} has a size; trace with a target that leaves workspaces at zero")
        if is_place and action is Action.FREE:
            continue
        steps.append(Traced(Step(action is Action.HOLD, index, buffer.size_bytes), program.ops[op_index], is_place))
    return steps


def first_difference(ours: Sequence[Traced], theirs: Sequence[Step]) -> str:
    """Say where *theirs* first differs from *ours*; empty when it does not.

    What is freed here but was allocated in an earlier phase is known by its size.
    """
    same, rest = _Pairs(), _Rest(theirs)
    for traced in ours:
        if traced.is_place:
            rest.skip_transient()
            continue
        real = rest.take()
        if real is None or not same.agree(traced.step, real):
            return f"step {rest.position}, {traced.op}: ours {traced.step}, theirs {real or 'end'}{_note(traced.step, real)}"
    real = rest.take()
    return "" if real is None else f"step {rest.position}, at the end: ours end, theirs {real}"


def workspaces(ours: Iterable[Traced], theirs: Sequence[Step]) -> Iterator[int]:
    """The sizes that the recording holds where convolutions may have workspace, for two lists that are equal apart from it."""
    rest = _Rest(theirs)
    for traced in ours:
        if not traced.is_place:
            rest.take()
        elif size_bytes := rest.skip_transient():
            yield size_bytes


class _Rest:
    """A recording, read from the start."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.position = -1

    def take(self) -> Step | None:
        self.position += 1
        return self.steps[self.position] if self.position < len(self.steps) else None

    def skip_transient(self) -> int:
        """Pass over one allocation that is freed at once; its size, 0 when there is none."""
        pair = self.steps[self.position + 1 : self.position + 3]
        if len(pair) == 2 and pair[0].is_alloc and not pair[1].is_alloc and pair[0].key == pair[1].key:
            self.position += 2
            return pair[0].size_bytes
        return 0


class _Pairs:
    """Which live allocation of the recording is which of ours."""

    def __init__(self) -> None:
        self.real: dict[int, int] = {}
        self.ours: dict[int, int] = {}

    def agree(self, ours: Step, theirs: Step) -> bool:
        """Whether both do the same."""
        if ours.is_alloc is not theirs.is_alloc or ours.size_bytes != theirs.size_bytes:
            return False
        if ours.is_alloc:
            self.real[ours.key], self.ours[theirs.key] = theirs.key, ours.key
            return True
        return self.real.pop(ours.key, theirs.key) == theirs.key and self.ours.pop(theirs.key, ours.key) == ours.key


def _note(ours: Step, theirs: Step | None) -> str:
    if theirs is not None and ours.size_bytes == theirs.size_bytes and ours.is_alloc == theirs.is_alloc:
        return " (another allocation)"
    return ""
