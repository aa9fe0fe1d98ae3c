"""When memory is held: a straight list of "hold these bytes" and "let these bytes go".

Every runtime model, every trace of a module and every recording from a real GPU is a `MemoryProgram`; every allocator
replays one. A comparison of prediction and measurement is a comparison of two programs.

::

    events   hold a   hold b   free a   hold c   free b
    step        0        1        2        3        4       lifetimes: a [0, 2)  b [1, 4)  c [3, end)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import pairwise
from typing import NamedTuple


class Role(StrEnum):
    """What bytes are for; it decides which part of the budget they count in."""

    WEIGHT = "weight"
    INPUT = "input"
    ACTIVATION = "activation"
    OUTPUT = "output"
    WORKSPACE = "workspace"


class Action(Enum):
    """What an event does to its buffer."""

    HOLD = "hold"
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """Bytes that are requested once and let go at most once. ``path`` says where they come from in the user's model.

    ``is_on_stream``: the request names the stream of its run; an arena that knows streams serves others from other chunks.
    Invariant: size_bytes >= 0.
    """

    name: str
    role: Role
    size_bytes: int
    path: str = ""
    is_on_stream: bool = True

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise ValueError(f"buffer {self.name!r} has a negative size: {self.size_bytes}")


class Event(NamedTuple):
    """One step: hold or free buffer number ``buffer_index`` while op number ``op_index`` runs."""

    action: Action
    buffer_index: int
    op_index: int


class Phase(NamedTuple):
    """A named stretch of events, half-open: ``[start, stop)``."""

    name: str
    start: int
    stop: int


class Lifetime(NamedTuple):
    """The steps at which a buffer is held, half-open: ``[start, stop)``."""

    start: int
    stop: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are held at some step."""
        return self.start < other.stop and other.start < self.stop


class Peak(NamedTuple):
    """The first step with the largest live set."""

    step: int
    op_index: int
    live_bytes: int
    live: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProgram:
    """Buffers, and the order in which they are held and freed.

    ``ops`` names what runs (index 0 is usually loading); an event's ``op_index`` points into it. A buffer that is never
    freed is held to the end.

    Invariant: a buffer is held exactly once and freed at most once, after it was held; phases tile the events in order.
    """

    buffers: tuple[Buffer, ...]
    events: tuple[Event, ...]
    ops: tuple[str, ...]
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        _check_events(self)
        _check_phases(self)

    def lifetimes(self) -> tuple[Lifetime, ...]:
        """When each buffer is held, in the order of ``buffers``."""
        starts, stops = [0] * len(self.buffers), [len(self.events)] * len(self.buffers)
        for step, event in enumerate(self.events):
            (starts if event.action is Action.HOLD else stops)[event.buffer_index] = step
        return tuple(map(Lifetime, starts, stops))

    def live_bytes(self) -> Iterator[int]:
        """Bytes requested and not yet freed, after each event."""
        live = 0
        for event in self.events:
            size = self.buffers[event.buffer_index].size_bytes
            live += size if event.action is Action.HOLD else -size
            yield live

    def peak(self, phase: str | None = None) -> Peak:
        """The first step at which most bytes are live, over the whole program or one phase. Empty programs peak at 0."""
        start, stop = (0, len(self.events)) if phase is None else self.phase(phase)[1:]
        best = max(((live, -step) for step, live in enumerate(self.live_bytes()) if start <= step < stop), default=None)
        if best is None:
            return Peak(step=start, op_index=0, live_bytes=0, live=())
        step = -best[1]
        return Peak(step=step, op_index=self.events[step].op_index, live_bytes=best[0], live=tuple(self.live_at(step)))

    def live_at(self, step: int) -> Iterator[int]:
        """Indices of the buffers held after event number *step*."""
        for index, lifetime in enumerate(self.lifetimes()):
            if lifetime.start <= step < lifetime.stop:
                yield index

    def phase(self, name: str) -> Phase:
        """The phase called *name*; KeyError when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise KeyError(name)


class ProgramBuilder:
    """Writes a `MemoryProgram` down, event by event.

    Buffers are named by the index that `hold` returns; `phase` closes the stretch since the last one.
    """

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._events: list[Event] = []
        self._ops: list[str] = ["load"]
        self._phases: list[Phase] = []

    def op(self, name: str) -> None:
        """Everything held or freed from now on belongs to the op called *name*."""
        self._ops.append(name)

    def hold(self, buffer: Buffer) -> int:
        """Hold *buffer* from now on; returns its index."""
        self._buffers.append(buffer)
        self._events.append(Event(Action.HOLD, len(self._buffers) - 1, len(self._ops) - 1))
        return len(self._buffers) - 1

    def free(self, *indices: int) -> None:
        """Let buffers go."""
        self._events.extend(Event(Action.FREE, index, len(self._ops) - 1) for index in indices)

    def phase(self, name: str) -> None:
        """Close a phase: everything since the last one."""
        start = self._phases[-1].stop if self._phases else 0
        self._phases.append(Phase(name, start, len(self._events)))

    def build(self) -> MemoryProgram:
        """The finished program. Events after the last closed phase are an error."""
        return MemoryProgram(
            buffers=tuple(self._buffers), events=tuple(self._events), ops=tuple(self._ops), phases=tuple(self._phases)
        )


def _check_events(program: MemoryProgram) -> None:
    fresh, held, gone = 0, 1, 2
    state = bytearray(len(program.buffers))
    expected = {Action.HOLD: fresh, Action.FREE: held}
    for step, (action, index, op_index) in enumerate(program.events):
        if not 0 <= index < len(state) or not 0 <= op_index < len(program.ops):
            raise ValueError(f"step {step} points outside the program: buffer {index}, op {op_index}")
        if state[index] != expected[action]:
            raise ValueError(f"step {step} cannot {action.value} buffer {index} ({program.buffers[index].name!r})")
        state[index] = held if action is Action.HOLD else gone
    if fresh in state:
        raise ValueError(f"buffer {state.index(fresh)} ({program.buffers[state.index(fresh)].name!r}) is never held")


def _check_phases(program: MemoryProgram) -> None:
    edges: Iterable[Phase] = (Phase("", 0, 0), *program.phases, Phase("", len(program.events), len(program.events)))
    for before, after in pairwise(edges):
        if before.stop != after.start or after.stop < after.start:
            raise ValueError(f"phases do not tile the {len(program.events)} events: {before} then {after}")
