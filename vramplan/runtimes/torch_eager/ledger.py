"""When storages live: every allocation a traced program makes, written down as it happens.

A storage is held from the op that made it until Python lets go of it, which a weak reference tells at that very moment. That is
what the caching allocator on a device sees too: eager PyTorch frees when the last reference dies, not at the last use.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch

from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role


class Held(NamedTuple):
    """A buffer as the ledger knows it: bytes requested, what it is for, which op made it, in which module."""

    size_bytes: int
    role: Role
    name: str
    path: str


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a storage that knows which buffer it is."""

    __slots__ = ("index", "key")

    index: int
    key: int


class Ledger:
    """Buffers and events in the order in which they happen.

    ``hold`` and ``free`` write scratch down by hand; ``watch`` follows a tensor's storage until it dies.
    """

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.events: list[Event] = []
        self.ops: list[str] = ["load"]
        self.phases: list[Phase] = []
        self._watched: dict[int, Any] = {}

    def op(self, name: str) -> None:
        """Everything from now on belongs to the op called *name*."""
        self.ops.append(name)

    def hold(self, size_bytes: int, role: Role, name: str, path: str = "") -> int:
        """Hold bytes from now on; the index to free them by. No bytes are no allocation, and their index is -1."""
        if size_bytes <= 0:
            return -1
        index = len(self.held)
        self.held.append(Held(size_bytes, role, name, path))
        self.events.append(Event(Action.HOLD, index, len(self.ops) - 1))
        return index

    def hold_doubtful(self, size_bytes: int, name: str, path: str = "") -> int:
        """Scratch whose nominal size may be nothing although it can be more: it keeps its place in the program."""
        if size_bytes > 0:
            return self.hold(size_bytes, Role.WORKSPACE, name, path)
        self.held.append(Held(0, Role.WORKSPACE, name, path))
        self.events.append(Event(Action.HOLD, len(self.held) - 1, len(self.ops) - 1))
        return len(self.held) - 1

    def free(self, index: int) -> None:
        """Let bytes go."""
        if index >= 0:
            self.events.append(Event(Action.FREE, index, len(self.ops) - 1))

    def watch(self, tensor: torch.Tensor, role: Role, name: str, path: str = "") -> bool:
        """Hold the storage of *tensor* until it dies. False when it is watched already: the tensor is a view."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched:
            return False
        watch = _Watch(storage, self._gone)
        watch.key = key
        watch.index = self.hold(storage.nbytes(), role, name, path)
        self._watched[key] = watch
        return True

    def ignore(self, tensor: torch.Tensor) -> None:
        """The storage of *tensor* takes no bytes of its own."""
        storage = tensor.untyped_storage()
        watch = _Watch(storage, self._gone)
        watch.key, watch.index = storage._cdata, -1
        self._watched[watch.key] = watch

    def phase(self, name: str) -> None:
        """Close a phase: everything since the last one."""
        self.phases.append(Phase(name, self.phases[-1].stop if self.phases else 0, len(self.events)))

    def forget_last(self) -> list[int]:
        """Strike what died since the last phase was closed from the record, and return it: the results that were let go."""
        stop = self.phases[-1].stop
        gone = [event.buffer_index for event in self.events[stop:]]
        del self.events[stop:]
        for index in gone:
            if self.held[index].role is Role.ACTIVATION:
                self.held[index] = self.held[index]._replace(role=Role.OUTPUT)
        return gone

    def close(self) -> None:
        """Stop watching: what dies from now on belongs to no phase."""
        self._watched.clear()

    def program(self) -> MemoryProgram:
        """The finished program."""
        return MemoryProgram(
            buffers=tuple(
                Buffer(name=item.name, role=item.role, size_bytes=item.size_bytes, path=item.path) for item in self.held
            ),
            events=tuple(self.events),
            ops=tuple(self.ops),
            phases=tuple(self.phases),
        )

    def _gone(self, watch: Any) -> None:
        known = self._watched.pop(watch.key, None)
        if known is not None:
            self.free(known.index)
