"""The file format of a recorded run: what is written is read again; what is not one is one clear error."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recordings import MARKS, PROGRAM, RECORDING, changed
from vramplan.errors import ModelError, UsageError
from vramplan.program import Buffer, MemoryProgram, Phase, Role
from vramplan.replaying import replay
from vramplan.sources import recording as format_
from vramplan.sources.recording import RecordedModel, Segment, read_recording, write_recording
from vramplan.units import MIB


def _content(tmp_path: Path) -> dict[str, Any]:
    write_recording(tmp_path / "whole.json", RECORDING, force=True)
    return json.loads((tmp_path / "whole.json").read_text())


def _read(tmp_path: Path, text: str | bytes) -> object:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_recording(path)


@pytest.mark.parametrize("name", ["r.json", "r.json.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str):
    write_recording(tmp_path / name, RECORDING)
    assert read_recording(tmp_path / name) == RECORDING


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.json.gz", "b.json.gz"):
        write_recording(tmp_path / name, RECORDING)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_one_row_is_one_line(tmp_path: Path):
    write_recording(tmp_path / "r.json", RECORDING)
    assert "[0, 1, 1],\n" in (tmp_path / "r.json").read_text()


def test_a_file_is_not_replaced_without_force(tmp_path: Path):
    write_recording(tmp_path / "r.json", RECORDING)
    with pytest.raises(UsageError, match=r"^recording '.*r.json' exists"):
        write_recording(tmp_path / "r.json", RECORDING)
    write_recording(tmp_path / "r.json", changed(marks={}), force=True)
    assert read_recording(tmp_path / "r.json").marks == {}


def test_the_kind_of_file_is_told_by_its_bytes(tmp_path: Path):
    write_recording(tmp_path / "r.json.gz", RECORDING)
    (tmp_path / "r.json.gz").rename(tmp_path / "r.json")
    assert read_recording(tmp_path / "r.json") == RECORDING


def test_names_of_a_model_are_written_so_that_they_can_be_read(tmp_path: Path):
    buffer = Buffer(name="a\nb\x1b[2J\ud800" + "x" * 400, role=Role.WEIGHT, size_bytes=1)
    program = MemoryProgram(buffers=(buffer,), events=PROGRAM.events[:1], ops=("load",), phases=(Phase("first_run", 0, 1),))
    write_recording(tmp_path / "r.json", changed(program=program, marks={}, segments=()))
    name = read_recording(tmp_path / "r.json").program.buffers[0].name
    assert name.startswith("a\\nb\\x1b[2J\\ud800xxx")
    assert len(name) == 300


def test_too_many_events_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(format_, "MAX_EVENTS", 7)
    with pytest.raises(UsageError, match="at most 7 events"):
        write_recording(tmp_path / "r.json", RECORDING)


Change = Callable[[dict[str, Any]], object]


def _set(*keys: str | int, to: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


WRONG: list[tuple[Change, str]] = [
    (_set("format", to="other"), "its key 'format' is 'other', not 'vramplan-recording'"),
    (lambda content: content.pop("format"), "its key 'format' is null"),
    (_set("schema_version", to=2), "its schema_version is 2; this vramplan reads 1"),
    (_set("schema_version", to=True), "its schema_version is true"),
    (_set("schema_version", to=1.0), "its schema_version is 1.0"),
    (_set("evnts", to=[]), "it has an unknown key 'evnts'. Did you mean: events"),
    (lambda content: content.pop("segments"), "it has no key 'segments'"),
    (_set("environment", to=[]), "environment is a list of 0, not an object"),
    (_set("environment", "gpu", to=7), "environment.gpu is 7, not text"),
    (_set("environment", "gpu", to="H200\x1b[2J"), r"environment.gpu is 'H200\x1b[2J', not printable text"),
    (_set("environment", "gpu", to="\ud800"), "environment.gpu is"),
    (_set("environment", "context_bytes", to="lots"), "environment.context_bytes is 'lots', not a number of bytes"),
    (_set("environment", "context_bytes", to="٣"), "environment.context_bytes is"),
    (_set("model", to=None), "model is null, not an object"),
    (_set("model", "nam", to="x"), "model has an unknown key 'nam'. Did you mean: name"),
    (_set("model", "batch", to=True), "model.batch is true, not a whole number"),
    (_set("model", "batch", to=-1), "model.batch is -1"),
    (_set("ops", to={}), "ops is an object of 0, not a list"),
    (_set("ops", 1, to=3), "ops[1] is 3, not text"),
    (_set("ops", 1, to="x" * 301), "not printable text of at most 300 characters"),
    (_set("buffers", 2, to=["a", "weight", 1]), "buffers[2] is a list of 3, not [name, role, size_bytes, path]"),
    (_set("buffers", 2, 1, to="weights"), "buffers[2].role is 'weights'. Did you mean: weight"),
    (_set("buffers", 2, 2, to=-5), "buffers[2].size_bytes is -5, not a whole number from 0 to 8,796,093,022,208"),
    (_set("buffers", 2, 2, to=1 << 44), "buffers[2].size_bytes is 17592186044416"),
    (_set("buffers", 2, 2, to=1.5), "buffers[2].size_bytes is 1.5"),
    (_set("buffers", 2, 2, to=True), "buffers[2].size_bytes is true"),
    (_set("buffers", 2, 2, to="9"), "buffers[2].size_bytes is '9'"),
    (_set("events", 3, to=5), "events[3] is 5, not [0 hold | 1 free, buffer_index, op_index]"),
    (_set("events", 3, 0, to=2), "events[3] does 2, neither 0 (hold) nor 1 (free)"),
    (_set("events", 3, 0, to=False), "events[3] is false"),
    (_set("events", 3, 1, to=99), "step 3 points outside the program: buffer 99, op 1"),
    (_set("events", 3, 2, to=99), "step 3 points outside the program: buffer 2, op 99"),
    (_set("events", 3, 1, to=-1), "events[3] is -1"),
    (_set("events", 3, 1, to=3), "step 3 cannot free buffer 3 ('add')"),
    (_set("phases", 1, 2, to=5), "phases do not tile the 8 events"),
    (_set("phases", 1, to=["first_run", 1]), "phases[1] is a list of 2, not [name, start, stop]"),
    (_set("phases", 2, 0, to="load"), "phases: 'load' is there twice"),
    (_set("marks", "warm_up", to={}), "marks has an unknown key 'warm_up'"),
    (_set("marks", "load", to=3), "marks.load is 3, not an object"),
    (_set("marks", "load", "reserved_byte", to=3), "marks.load has an unknown key 'reserved_byte'. Did you mean: reserved"),
    (_set("marks", "load", "reserved_bytes", to=-3), "marks.load.reserved_bytes is -3"),
    (_set("marks", "load", "requested_bytes", to=5), "marks.load.requested_bytes is 5, less than the 3,145,728 of the events"),
    (_set("marks", "steady", "reserved_peak_bytes", to=3 * MIB), "marks.steady.reserved_peak_bytes is 3,145,728, less than"),
    (_set("marks", "load", "allocated_bytes", to=4 * MIB), "marks.load: a peak of 3,145,728 bytes is less than the 4,194,304"),
    (_set("segments", 0, to=[0, 0]), "segments[0] is a list of 2, not [event_index, address_rank, size_bytes]"),
    (_set("segments", 1, 1, to=1), "segments: their address ranks are not 0 to 1, each once"),
    (_set("segments", 0, 0, to=6), "segments[1] stands before event 1, out of order or beyond the events"),
    (_set("segments", 1, 0, to=8), "segments[1] stands before event 8"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, change: Change, message: str):
    content = _content(tmp_path)
    change(content)
    with pytest.raises(ModelError) as caught:
        _read(tmp_path, json.dumps(content))
    assert message in caught.value.message
    assert caught.value.message.startswith(f"'{tmp_path}/r.json' is no recording that can be read: ")
    assert "docs/reference/recording.md" in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON: Expecting value in line 1, column 1"),
        ("[]", "it is a list of 0, not a JSON object"),
        ("3", "it is 3, not a JSON object"),
        ('{"a": 1, "a": 2}', "key 'a' is there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ("[" * 200_000, "its lists are nested too deep"),
        ('{"a":' * 200_000, "its lists are nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (b"\xff\xfe{", "it is not text in UTF-8: byte 0 is 0xff"),
        (b"\x1f\x8bnonsense", "its gzip data are damaged"),
        (gzip.compress(b"{}")[:-4], "its gzip data are cut short"),
        (gzip.compress(b"{}") + b"more", "something follows its gzip data"),
    ],
)
def test_what_is_not_one_object_is_refused(tmp_path: Path, text: str | bytes, message: str):
    with pytest.raises(ModelError) as caught:
        _read(tmp_path, text)
    assert message in caught.value.message


def test_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(format_, "MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(ModelError, match="it inflates to more than 1,048,576 bytes"):
        _read(tmp_path, gzip.compress(bytes(1 << 24)))
    with pytest.raises(ModelError, match="it is larger than 1,048,576 bytes"):
        _read(tmp_path, bytes(1 << 21))


def test_more_lists_than_there_can_be_are_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(format_, "_MAX_LISTS", 100)
    with pytest.raises(ModelError, match="it opens more than 100 lists"):
        _read(tmp_path, "[" * 101)


def test_lists_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_recording(tmp_path / "r.json", RECORDING)
    monkeypatch.setattr(format_, "MAX_EVENTS", 7)
    with pytest.raises(ModelError, match="events has 8 items, more than 7"):
        read_recording(tmp_path / "r.json")


def test_what_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="no file is called"):
        read_recording(tmp_path / "r.json")
    with pytest.raises(ModelError, match="is a folder"):
        read_recording(tmp_path)
    with pytest.raises(ModelError, match="not a regular file"):
        read_recording(Path("/dev/null"))


def test_a_recording_holds_its_invariants_in_python_too():
    with pytest.raises(ValueError, match="ops is empty"):
        changed(program=MemoryProgram(buffers=(), events=(), ops=(), phases=()), marks={}, segments=())
    with pytest.raises(ValueError, match="ranks"):
        changed(segments=(Segment(0, 1, MIB),))
    with pytest.raises(ValueError, match="unknown key"):
        changed(marks={"load": {"reserved": 1}})


def test_optional_facts_may_be_missing(tmp_path: Path):
    marks = {"load": {}, "steady": {"reserved_bytes": MARKS["steady"]["reserved_peak_bytes"]}}
    bare = changed(
        environment={},
        marks=marks,
        segments=(),
        model=RecordedModel(name="", precision="as-is", batch=None, memory_format="contiguous"),
    )
    write_recording(tmp_path / "r.json", bare)
    assert read_recording(tmp_path / "r.json") == bare
    assert bare.context_bytes is None


def test_the_example_of_the_page_is_a_recording_and_replays_to_its_counters(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "recording.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    read = _read(tmp_path, example)
    write_recording(tmp_path / "again.json", read)
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(example)
    assert replay(tmp_path / "r.json").is_equal


def test_the_page_names_every_key_and_the_limits():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "recording.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in (*format_._KEYS, *format_._MODEL_KEYS, *(role.value for role in Role)))
    assert f"{format_.MAX_EVENTS:,} events" in page
    assert f"{format_.MAX_SEGMENTS:,} segments" in page
    assert (format_.MAX_FILE_BYTES, format_.MAX_SIZE_BYTES) == (128 * MIB, 8 << 40)
