"""What is held after each step, by role: every step of a short program, of a long one the steps that shape the picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vramplan.program import Action, MemoryProgram, Role

MAX_POINTS = 20_000
_KEPT_PER_BUCKET = 4
"""The first, the last, the highest and the lowest step of each stretch."""


def kept_steps(held_bytes: Sequence[int], peak_step: int, limit: int = MAX_POINTS) -> list[int]:
    """The steps to draw, at most *limit* of them: the peak always, and of each stretch its ends, top and bottom."""
    count = len(held_bytes)
    if count <= limit:
        return list(range(count))
    buckets = max((limit - 1) // _KEPT_PER_BUCKET, 1)
    kept = {peak_step}
    for start, stop in pairwise(count * bucket // buckets for bucket in range(buckets + 1)):
        steps = range(start, stop)
        kept.update((start, stop - 1, max(steps, key=held_bytes.__getitem__), min(steps, key=held_bytes.__getitem__)))
    return sorted(kept)


def timeline(program: MemoryProgram, reserved_bytes: Sequence[int] | None, peak_step: int) -> dict[str, Any]:
    """Columns, a number for each drawn step.

    ``step``, ``op``, the bytes of each role and ``reserved`` are differences to the row before: they add up to the numbers.
    ``event`` is the buffer that the step holds, counted from 1, negative where it lets it go.
    """
    held = list(program.live_bytes())
    steps = kept_steps([sum(pair) for pair in zip(held, reserved_bytes or held, strict=True)], peak_step)
    by_role = _by_role(program)
    columns: dict[str, Any] = {
        "step": _differences(steps),
        "op": _differences([program.events[step].op_index for step in steps]),
        "event": [_event(program, step) for step in steps],
        "roles": {role.value: _differences([by_role[role][step] for step in steps]) for role in Role},
        "reserved": None if reserved_bytes is None else _differences([reserved_bytes[step] for step in steps]),
    }
    return columns


def _by_role(program: MemoryProgram) -> dict[Role, list[int]]:
    held = dict.fromkeys(Role, 0)
    columns: dict[Role, list[int]] = {role: [] for role in Role}
    for event in program.events:
        buffer = program.buffers[event.buffer_index]
        held[buffer.role] += buffer.size_bytes if event.action is Action.HOLD else -buffer.size_bytes
        for role, size_bytes in held.items():
            columns[role].append(size_bytes)
    return columns


def _event(program: MemoryProgram, step: int) -> int:
    event = program.events[step]
    return event.buffer_index + 1 if event.action is Action.HOLD else -event.buffer_index - 1


def _differences(numbers: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise((0, *numbers))]
