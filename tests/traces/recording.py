"""The recorded runs of `tests/traces/data`, and where the device put what they asked for.

Their buffers are called after places: numbers of addresses in the order in which they first appear, so that buffers at one
place were at one address of the device. A segment begins where the request is put for which it was reserved.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vramplan.program import Action
from vramplan.sources.recording import Recording

DATA = Path(__file__).parent / "data"


class Served(NamedTuple):
    """Where the device put something: the buffer (None for a segment), the place, and the bytes of the event."""

    buffer_index: int | None
    place: int
    size_bytes: int


def recordings() -> list[Path]:
    """All recordings, by name."""
    return sorted(DATA.glob("*.json.gz"))


def served(recording: Recording) -> Iterator[Served]:
    """Where each request and each segment came to lie, in order."""
    reserved = {segment.event_index: segment.size_bytes for segment in recording.segments}
    for step, (action, index, _) in enumerate(recording.program.events):
        if action is Action.HOLD:
            buffer = recording.program.buffers[index]
            place = int(buffer.name.removeprefix("place "))
            if step in reserved:
                yield Served(None, place, reserved[step])
            yield Served(index, place, buffer.size_bytes)


def segment_count(recording: Recording, phase: str) -> int:
    """How many segments there were at the end of a phase."""
    stop = recording.program.phase(phase).stop
    return sum(segment.event_index < stop for segment in recording.segments)
