"""A run recorded on a real GPU, in a file of our own: a `MemoryProgram`, where it was recorded, and the allocator's counters.

The format is described in docs/reference/recording.md. A file may come from anybody: it is read within limits, and becomes a
`Recording` that holds its invariants, or one `ModelError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.errors import ModelError, UsageError, close_matches
from vramplan.files import write_atomically
from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role
from vramplan.sources.onnx_types import printable, show
from vramplan.strict_json import (
    MAX_TEXT_CHARS,
    check_keys,
    deflated,
    items_of,
    object_of,
    read_object,
    rows_of,
    shown,
    text_of,
    whole_of,
)

FORMAT = "vramplan-recording"
SCHEMA_VERSION = 1

MAX_FILE_BYTES = 128 << 20
MAX_EVENTS = 5_000_000
MAX_SEGMENTS = 65_000
MAX_SIZE_BYTES = 1 << 43
"""8 TiB in one buffer or segment is more than any GPU has."""

_MAX_LISTS = 2 * MAX_EVENTS + MAX_SEGMENTS + 10_000
"""A row for each event, buffer, segment and phase, and a few more."""

MAX_COUNTER_BYTES = 1 << 60
MAX_PHASES = 1_000

COUNTERS = tuple(f"{kind}{peak}_bytes" for kind in ("requested", "allocated", "reserved") for peak in ("", "_peak"))
"""What a mark may hold: PyTorch's counters at the end of a phase, and their peaks in it."""

_KEYS = ("format", "schema_version", "environment", "model", "ops", "buffers", "events", "phases", "marks", "segments")
_MODEL_KEYS = ("name", "precision", "batch", "memory_format")
_ACTIONS = (Action.HOLD, Action.FREE)


class Segment(NamedTuple):
    """Memory that the allocator reserved just before an event; ``address_rank`` is its position by address among all."""

    event_index: int
    address_rank: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedModel:
    """What ran: its name, precision (fp16, as-is), memory format, and batch (None: it has none, or nobody knows)."""

    name: str
    precision: str
    batch: int | None
    memory_format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded run.

    program      what was held and freed, in phases (PyTorch: load, first_run, steady)
    environment  where: gpu, driver, torch, cuda, cudnn, python, date, …; ``context_bytes`` is a number of bytes
    marks        by phase, those of `COUNTERS` that were read at its end, in bytes
    segments     what the allocator reserved, in order; empty when that is not known

    Invariant: there is an op; phases have different names; marks are of these phases, and not below what the events hold;
    segments are in the order of events, and their ranks are 0, 1, 2, … in some order.
    """

    program: MemoryProgram
    environment: Mapping[str, str]
    model: RecordedModel
    marks: Mapping[str, Mapping[str, int]]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.program.ops:
            raise ValueError("ops is empty; an event belongs to an op, be it called load")
        names = [phase.name for phase in self.program.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases: {show(max(names, key=names.count))} is there twice")
        told = self.environment.get("context_bytes", "0")
        if not (told.isascii() and told.isdigit() and len(told) < 20 and int(told) <= MAX_COUNTER_BYTES):
            raise ValueError(f"environment.context_bytes is {show(told)}, not a number of bytes in digits")
        _check_segments(self)
        _check_marks(self)

    @property
    def context_bytes(self) -> int | None:
        """What the process took beside the allocator, where its environment says so."""
        told = self.environment.get("context_bytes")
        return None if told is None else int(told)


def read_recording(path: Path) -> Recording:
    """Read a ``.json`` or ``.json.gz`` recording, told apart by its first bytes. ModelError when it is none."""
    try:
        return _recording(read_object(path, max_bytes=MAX_FILE_BYTES, max_lists=_MAX_LISTS))
    except ValueError as error:
        raise ModelError(
            f"{show(str(path))} is no recording that can be read: {error}",
            hint="Record the run again, or correct the file: docs/reference/recording.md lists what it may hold.",
        ) from None


def write_recording(path: Path, recording: Recording, *, force: bool = False) -> None:
    """Write *recording* to *path* in one step, as gzip when its name ends in ``.gz``. Control characters in names are escaped.

    Raises `UsageError` for a path that must not be written and for a recording beyond the limits of the format.
    """
    if len(recording.program.events) > MAX_EVENTS or len(recording.segments) > MAX_SEGMENTS:
        raise UsageError(
            f"a recording has at most {MAX_EVENTS:,} events and {MAX_SEGMENTS:,} segments", hint="Record fewer forwards."
        )
    text = _text(recording)
    write_atomically(path, deflated(text) if path.suffix == ".gz" else text, force=force, what="recording")


def _recording(content: dict[str, Any]) -> Recording:
    if content.get("format") != FORMAT:
        raise ValueError(f"its key 'format' is {shown(content.get('format'))}, not '{FORMAT}'")
    if type(content.get("schema_version")) is not int or content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is {shown(content.get('schema_version'))}; this vramplan reads {SCHEMA_VERSION}")
    check_keys(content, where="it", required=_KEYS)
    environment, marks = (object_of(content[key], key) for key in ("environment", "marks"))
    return Recording(
        program=MemoryProgram(
            buffers=tuple(_buffers(content["buffers"])),
            events=tuple(_events(content["events"])),
            ops=tuple(_texts(content["ops"], "ops", most=MAX_EVENTS)),
            phases=tuple(_phases(content["phases"])),
        ),
        environment={
            text_of(key, "a key of environment"): text_of(value, f"environment.{key}") for key, value in environment.items()
        },
        model=_model(object_of(content["model"], "model")),
        marks={text_of(name, "a key of marks"): _mark(name, mark) for name, mark in marks.items()},
        segments=tuple(_segments(content["segments"])),
    )


def _model(content: dict[str, Any]) -> RecordedModel:
    check_keys(content, where="model", required=_MODEL_KEYS)
    batch = content["batch"]
    return RecordedModel(
        name=text_of(content["name"], "model.name"),
        precision=text_of(content["precision"], "model.precision"),
        batch=None if batch is None else whole_of(batch, "model.batch", most=1 << 40),
        memory_format=text_of(content["memory_format"], "model.memory_format"),
    )


def _texts(value: Any, where: str, *, most: int) -> Iterator[str]:
    for index, item in enumerate(items_of(value, where, most=most)):
        yield text_of(item, f"{where}[{index}]")


def _buffers(value: Any) -> Iterator[Buffer]:
    roles = {role.value: role for role in Role}
    for index, (name, role, size, path) in rows_of(value, "buffers", ("name", "role", "size_bytes", "path"), most=MAX_EVENTS):
        where = f"buffers[{index}]"
        if text_of(role, f"{where}.role") not in roles:
            raise ValueError(f"{where}.role is {show(role)}. {close_matches(role[:80], roles)}")
        yield Buffer(
            name=text_of(name, f"{where}.name"),
            role=roles[role],
            size_bytes=whole_of(size, f"{where}.size_bytes", most=MAX_SIZE_BYTES),
            path=text_of(path, f"{where}.path"),
        )


def _events(value: Any) -> Iterator[Event]:
    """Indices beyond the program are for `MemoryProgram` to refuse."""
    for index, row in rows_of(value, "events", ("0 hold | 1 free", "buffer_index", "op_index"), most=MAX_EVENTS):
        action, buffer_index, op_index = (whole_of(number, f"events[{index}]", most=MAX_EVENTS) for number in row)
        if action >= len(_ACTIONS):
            raise ValueError(f"events[{index}] does {action}, neither 0 (hold) nor 1 (free)")
        yield Event(_ACTIONS[action], buffer_index, op_index)


def _phases(value: Any) -> Iterator[Phase]:
    for index, (name, start, stop) in rows_of(value, "phases", ("name", "start", "stop"), most=MAX_PHASES):
        where = f"phases[{index}]"
        numbers = (whole_of(number, where, most=MAX_EVENTS) for number in (start, stop))
        yield Phase(text_of(name, f"{where}.name"), *numbers)


def _mark(phase: str, value: Any) -> dict[str, int]:
    where = f"marks.{phase}"
    mark = object_of(value, where)
    check_keys(mark, where=where, optional=COUNTERS)
    return {name: whole_of(number, f"{where}.{name}", most=MAX_COUNTER_BYTES) for name, number in mark.items()}


def _segments(value: Any) -> Iterator[Segment]:
    for index, row in rows_of(value, "segments", ("event_index", "address_rank", "size_bytes"), most=MAX_SEGMENTS):
        where = f"segments[{index}]"
        event_index, address_rank = (whole_of(number, where, most=MAX_EVENTS) for number in row[:2])
        yield Segment(event_index, address_rank, whole_of(row[2], f"{where}.size_bytes", most=MAX_SIZE_BYTES))


def _check_segments(recording: Recording) -> None:
    last, count = 0, len(recording.segments)
    for index, segment in enumerate(recording.segments):
        if not last <= segment.event_index < len(recording.program.events):
            raise ValueError(f"segments[{index}] stands before event {segment.event_index}, out of order or beyond the events")
        last = segment.event_index
    if sorted(segment.address_rank for segment in recording.segments) != list(range(count)):
        raise ValueError(f"segments: their address ranks are not 0 to {count - 1}, each once")


def _check_marks(recording: Recording) -> None:
    """Counters cannot be below what the events hold; a peak not below its end, nor a larger kind below a smaller one."""
    check_keys(recording.marks, where="marks", optional=[phase.name for phase in recording.program.phases])
    levels = [0, *recording.program.live_bytes()] if recording.marks else [0]
    for phase in recording.program.phases:
        mark = recording.marks.get(phase.name, {})
        check_keys(mark, where=f"marks.{phase.name}", optional=COUNTERS)
        if mark:
            _check_mark(phase.name, mark, levels[phase.start : phase.stop + 1])


def _check_mark(phase: str, mark: Mapping[str, int], levels: Sequence[int]) -> None:
    ends = [("the events", levels[-1]), *((name, mark[name]) for name in COUNTERS[::2] if name in mark)]
    peaks = [("the events", max(levels)), *((name, mark[name]) for name in COUNTERS[1::2] if name in mark)]
    pairs = [(mark[end], mark[peak]) for end, peak in zip(COUNTERS[::2], COUNTERS[1::2], strict=True) if {end, peak} <= {*mark}]
    for chain in (ends, peaks):
        for (smaller, least), (larger, most) in pairwise(chain):
            if most < least:
                raise ValueError(f"marks.{phase}.{larger} is {most:,}, less than the {least:,} of {smaller}")
    for end, peak in pairs:
        if peak < end:
            raise ValueError(f"marks.{phase}: a peak of {peak:,} bytes is less than the {end:,} at the end")


def _text(recording: Recording) -> str:
    """JSON with one row a line, so that two recordings can be compared as text."""
    program, model = recording.program, recording.model
    content: dict[str, Any] = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "environment": {_clean(key): _clean(value) for key, value in recording.environment.items()},
        "model": {
            "name": _clean(model.name),
            "precision": _clean(model.precision),
            "batch": model.batch,
            "memory_format": _clean(model.memory_format),
        },
        "ops": [_clean(op) for op in program.ops],
        "buffers": [[_clean(item.name), item.role.value, item.size_bytes, _clean(item.path)] for item in program.buffers],
        "events": [[_ACTIONS.index(action), index, op_index] for action, index, op_index in program.events],
        "phases": [list(phase) for phase in program.phases],
        "marks": {name: dict(mark) for name, mark in recording.marks.items()},
        "segments": [list(segment) for segment in recording.segments],
    }
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_rows(value)}" for key, value in content.items()) + "\n}\n"


def _rows(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"


def _clean(text: str) -> str:
    return printable(text)[:MAX_TEXT_CHARS]
