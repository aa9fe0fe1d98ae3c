"""A small recording made by hand, for tests of the format and of its replay.

::

    load       hold weight 3 MiB
    first_run  hold a 1000 B, hold scratch 100 B, free scratch, hold b 5000 B, free a
    steady     hold c 5000 B, free b
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role
from vramplan.sources.recording import RecordedModel, Recording, Segment
from vramplan.units import MIB

HOLD, FREE = Action.HOLD, Action.FREE

PROGRAM = MemoryProgram(
    buffers=(
        Buffer(name="conv.weight", role=Role.WEIGHT, size_bytes=3 * MIB, path="conv"),
        Buffer(name="conv conv2d", role=Role.ACTIVATION, size_bytes=1000, path="conv"),
        Buffer(name="conv cuDNN workspace", role=Role.WORKSPACE, size_bytes=100, path="conv"),
        Buffer(name="add", role=Role.OUTPUT, size_bytes=5000),
        Buffer(name="add", role=Role.OUTPUT, size_bytes=5000),
    ),
    events=(
        Event(HOLD, 0, 0),
        Event(HOLD, 1, 1),
        Event(HOLD, 2, 1),
        Event(FREE, 2, 1),
        Event(HOLD, 3, 2),
        Event(FREE, 1, 2),
        Event(HOLD, 4, 3),
        Event(FREE, 3, 3),
    ),
    ops=("load", "conv conv2d", "add", "add"),
    phases=(Phase("load", 0, 1), Phase("first_run", 1, 6), Phase("steady", 6, 8)),
)

# Requests round up to 512 B; the weight gets a segment of 20 MiB, all others one of 2 MiB.
MARKS = {
    "load": {
        "requested_bytes": 3 * MIB,
        "allocated_bytes": 3 * MIB,
        "allocated_peak_bytes": 3 * MIB,
        "reserved_peak_bytes": 20 * MIB,
    },
    "first_run": {
        "requested_peak_bytes": 3 * MIB + 1000 + 5000,
        "allocated_peak_bytes": 3 * MIB + 1024 + 5120,
        "reserved_peak_bytes": 22 * MIB,
    },
    "steady": {"allocated_bytes": 3 * MIB + 5120, "allocated_peak_bytes": 3 * MIB + 2 * 5120, "reserved_peak_bytes": 22 * MIB},
}

RECORDING = Recording(
    program=PROGRAM,
    environment={"gpu": "NVIDIA H200", "driver": "580.159", "torch": "2.11.0+cu130"},
    model=RecordedModel(name="toy", precision="fp16", batch=8, memory_format="contiguous"),
    marks=MARKS,
    segments=(Segment(0, 1, 20 * MIB), Segment(1, 0, 2 * MIB)),
)


def changed(**fields: Any) -> Recording:
    """The recording with other fields."""
    return replace(RECORDING, **fields)
