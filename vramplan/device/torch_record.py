"""Records what PyTorch's allocator does for a model, op by op, as a `Recording`: the device's side of a traced program.

The allocator's own history says what was asked for and freed, in order; a dispatch mode says which op ran meanwhile. What an op
allocates and does not return is its workspace, also when it stays: cuBLAS keeps one for each stream.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vramplan.device.inside import Line
from vramplan.device.torch_device import DEVICE
from vramplan.device.torch_subject import Subject, counters
from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role
from vramplan.runtimes.torch_eager.steady import LOOP_COUNT
from vramplan.runtimes.torch_eager.trace import follow_calls
from vramplan.sources.recording import COUNTERS, RecordedModel, Recording, Segment, write_recording
from vramplan.sources.torch_trees import named_tensors

_MOST_ENTRIES = 4_000_000


class Entry(NamedTuple):
    """One line of the allocator's history."""

    action: str
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An op: its label, the numbers of the events while it ran, half-open, and where its results lie."""

    label: str
    start: int
    stop: int
    results: frozenset[int]


@dataclass(slots=True, kw_only=True)
class Notes:
    """What is noted while the model runs, by event number: ends of phases, and the results of each forward."""

    ends: list[tuple[str, int]] = field(default_factory=list)
    marks: dict[str, dict[str, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    inputs_start: int = 0
    outputs: list[tuple[int, frozenset[int]]] = field(default_factory=list)


def copy_of(subject: Subject) -> Subject | None:
    """The same model again, on the host, as fresh as the first; None when it cannot be copied."""
    try:
        model = replace(subject.model, module=copy.deepcopy(subject.module), sha256=str)  # the other's would keep it alive
        return replace(subject, model=model)
    except (RuntimeError, TypeError, copy.Error):
        return None


def record(subject: Subject, path: str, line: Line, environment: Mapping[str, str], batch: int | None) -> None:
    """Run *subject* in a fresh allocator and write its recording to *path*. The measured one must be gone."""
    if left_bytes := _clean():
        line.tell(note=f"not recorded: {left_bytes:,} bytes of the measured run stayed on the device")
        return
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=_MOST_ENTRIES)
    recorder, notes, first = Recorder(), Notes(), _events_so_far()
    try:
        _run(subject, recorder, notes)
        snapshot = torch.cuda.memory._snapshot()
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    history = _until([Entry(item["action"], item["addr"], item["size"]) for item in snapshot["device_traces"][0]], notes, first)
    reader = _Reader(recorder.calls, notes, first)
    recording = Recording(
        program=reader.program(history),
        environment=dict(environment),
        model=RecordedModel(
            name=subject.model.name,
            precision=subject.policy.name,
            batch=batch,
            memory_format="channels_last" if subject.channels_last else "contiguous",
        ),
        marks=notes.marks,
        segments=reader.segments(history),
    )
    write_recording(Path(path), recording, force=True)
    line.tell(recorded=True)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which events of the allocator's history belong to which op; ``path`` is the module that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.path = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the op, and note what it allocated, when anything of it is on the device."""
        start = _events_so_far()
        out = func(*args, **(kwargs or {}))
        results = _places(out)
        if results or _places((args, kwargs)):
            name = func._schema.name.partition("::")[2]
            label = f"{self.path} {name}" if self.path else name
            self.calls.append(Call(label=label, start=start, stop=_events_so_far(), results=results))
        return out


def _run(subject: Subject, recorder: Recorder, notes: Notes) -> None:
    """Load, first run and loop, as they were measured."""
    module = subject.move()
    tensors = [*module.named_buffers(remove_duplicate=False), *module.named_parameters(remove_duplicate=False)]
    notes.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors}
    notes.inputs_start = _events_so_far()
    args, kwargs = subject.move_inputs()
    values = ((args, kwargs),) if kwargs else args
    inputs = named_tensors("input", values)
    notes.names |= {tensor.untyped_storage().data_ptr(): name for name, tensor in inputs}
    _close(notes, "load")
    out = None
    for phase, count in (("first_run", 1), ("steady", LOOP_COUNT)):
        for _ in range(count):
            with follow_calls(recorder, module), recorder:
                out = subject.forward(args, kwargs)
            notes.outputs.append((_events_so_far(), _places(out)))
        _close(notes, phase)


def _close(notes: Notes, phase: str) -> None:
    torch.cuda.synchronize()
    notes.ends.append((phase, _events_so_far()))
    counted = counters()
    notes.marks[phase] = {name: counted[name] for name in COUNTERS}
    torch.cuda.reset_peak_memory_stats(DEVICE)


def _places(value: Any) -> frozenset[int]:
    """Addresses of the storages in *value* that are on the device."""
    tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor) and leaf.is_cuda)
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


class _Reader:
    """Puts the history, the ops and the notes together. Event numbers count allocations and frees since *first*."""

    def __init__(self, calls: list[Call], notes: Notes, first: int) -> None:
        self._calls, self._notes, self._first = calls, notes, first
        self._buffers: list[Buffer] = []
        self._alive: dict[int, int] = {}

    def program(self, history: list[Entry]) -> MemoryProgram:
        """The program that the device ran."""
        events: list[Event] = []
        ends = dict(self._notes.outputs)
        call = -1
        for number, entry in enumerate(_counted(history), self._first):
            self._mark_outputs(ends.get(number, frozenset()))
            while call + 1 < len(self._calls) and self._calls[call + 1].start <= number:
                call += 1
            if entry.action == "alloc":
                self._alive[entry.address] = len(self._buffers)
                self._buffers.append(self._buffer(entry, number, self._calls[call] if call >= 0 else None))
                events.append(Event(Action.HOLD, len(self._buffers) - 1, call + 1))
            elif entry.address in self._alive:
                index = self._alive.pop(entry.address)
                events.append(Event(Action.FREE, index, call + 1))
                if call < 0:  # a weight that was reordered on the device: what it came in
                    self._buffers[index] = replace(self._buffers[index], role=Role.WORKSPACE)
        self._mark_outputs(ends.get(self._first + len(events), frozenset()))
        return MemoryProgram(
            buffers=tuple(self._buffers),
            events=tuple(events),
            ops=("load", *(call.label for call in self._calls)),
            phases=tuple(self._phases()),
        )

    def segments(self, history: list[Entry]) -> tuple[Segment, ...]:
        """What was reserved, in order; nothing when some of it was given back, which a recording cannot say."""
        if any(entry.action == "segment_free" for entry in history):
            return ()
        reserved: list[tuple[int, Entry]] = []
        number = 0
        for entry in history:
            if entry.action == "segment_alloc":
                reserved.append((number, entry))
            number += entry.action in _COUNTED
        ranks = {entry.address: rank for rank, (_, entry) in enumerate(sorted(reserved, key=lambda pair: pair[1].address))}
        return tuple(Segment(at, ranks[entry.address], entry.size_bytes) for at, entry in reserved)

    def _buffer(self, entry: Entry, number: int, call: Call | None) -> Buffer:
        if call is None:
            role = Role.INPUT if number >= self._notes.inputs_start else Role.WEIGHT
            name = self._notes.names.get(entry.address, role.value)
            return Buffer(name=name, role=role, size_bytes=entry.size_bytes, path=name if role is Role.WEIGHT else "")
        is_inside = number < call.stop
        role = Role.WORKSPACE if is_inside and entry.address not in call.results else Role.ACTIVATION
        return Buffer(name=call.label, role=role, size_bytes=entry.size_bytes, path=call.label.rpartition(" ")[0])

    def _mark_outputs(self, places: frozenset[int]) -> None:
        for place in places:
            index = self._alive.get(place)
            if index is not None and self._buffers[index].role is Role.ACTIVATION:
                self._buffers[index] = replace(self._buffers[index], role=Role.OUTPUT)

    def _phases(self) -> list[Phase]:
        stops = [stop - self._first for _, stop in self._notes.ends]
        names = [name for name, _ in self._notes.ends]
        return [Phase(name, start, stop) for name, start, stop in zip(names, [0, *stops], stops, strict=False)]


_COUNTED = ("alloc", "free_completed")


def _until(history: list[Entry], notes: Notes, first: int) -> list[Entry]:
    """The history up to the end of the last phase: what dies afterwards belongs to none."""
    left = notes.ends[-1][1] - first
    for index, entry in enumerate(history):
        if not left:
            return history[:index]
        left -= entry.action in _COUNTED
    return history


def _counted(history: list[Entry]) -> list[Entry]:
    return [entry for entry in history if entry.action in _COUNTED]


def _events_so_far() -> int:
    """Allocations and frees since the process began, which is what the history holds."""
    stats = torch._C._cuda_memoryStats(0)["allocation"]["all"]
    return int(stats["allocated"]) + int(stats["freed"])


def _clean() -> int:
    """Give everything back to the driver; the bytes that stay, which should be none."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    return int(torch.cuda.memory_allocated(DEVICE))
