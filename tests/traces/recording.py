"""Reads a recording of PyTorch's CUDA caching allocator: what was asked for, and what its counters said.

A recording is the allocator's own history (``torch.cuda.memory._record_memory_history``) of loading a model, putting the input
on the device, one forward and more forwards that hold the previous output. An event is ``[action, place, bytes]``: ``alloc``
with the bytes asked for, ``free_requested`` followed by ``free``, ``segment_alloc`` with the bytes reserved.
``place`` numbers addresses in the order in which they first appear: events at one place are at one address of the device.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role

DATA = Path(__file__).parent / "data"

_ROLES = {"weights": Role.WEIGHT, "input": Role.INPUT}
_COUNTERS = ("events", "segments")


class Served(NamedTuple):
    """Where the device put something: the buffer (None for a segment), the place, and the bytes of the event."""

    buffer_index: int | None
    place: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded run.

    program  what was held and freed, in the phases weights, input, first and loop
    marks    by phase, PyTorch's counters at its end, in bytes
    segments by phase, how many segments there were at its end
    served   where each request and each segment came to lie, in order
    meta     model, dtype, batch, versions and device

    Invariant: marks and segments have the phases of the program.
    """

    program: MemoryProgram
    marks: dict[str, dict[str, int]]
    segments: dict[str, int]
    served: tuple[Served, ...]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        assert [*self.marks] == [*self.segments] == [phase.name for phase in self.program.phases]


def recordings() -> list[Path]:
    """All recordings, by name."""
    return sorted(DATA.glob("*.json.gz"))


def read_recording(path: Path) -> Recording:
    """Read a ``.json.gz`` recording. Its events must be those of one stream that gives no segment back."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    phases = content["phases"]
    builder, served, held, done = ProgramBuilder(), [], {}, 0
    for phase, mark in phases.items():
        for action, place, size_bytes in content["events"][done : mark["events"]]:
            _read(content["actions"][str(action)], Served(None, place, size_bytes), phase, builder, held, served)
        builder.phase(phase)
        done = mark["events"]
    assert done == len(content["events"])
    return Recording(
        program=builder.build(),
        marks={phase: {name: mark[name] for name in mark if name not in _COUNTERS} for phase, mark in phases.items()},
        segments={phase: mark["segments"] for phase, mark in phases.items()},
        served=tuple(served),
        meta={key: value for key, value in content.items() if key not in {"phases", "events", "actions"}},
    )


def _read(action: str, event: Served, phase: str, builder: ProgramBuilder, held: dict[int, int], served: list[Served]) -> None:
    if action == "segment_alloc":
        served.append(event)
    elif action == "alloc":
        assert event.place not in held
        buffer = Buffer(name=f"place {event.place}", role=_ROLES.get(phase, Role.ACTIVATION), size_bytes=event.size_bytes)
        held[event.place] = builder.hold(buffer)
        served.append(event._replace(buffer_index=held[event.place]))
    elif action == "free":
        builder.free(held.pop(event.place))
    else:
        assert action == "free_requested", action
        assert event.place in held
