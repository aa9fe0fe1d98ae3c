"""Recordings from strangers: whatever the bytes, the outcome is a recording that can be replayed, or one clear error."""

from __future__ import annotations

import copy
import gzip
import json
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.recordings import RECORDING
from vramplan.errors import ModelError
from vramplan.replaying import Replay, replay
from vramplan.report.content import Report
from vramplan.report.export import estimate_csv, estimate_markdown
from vramplan.report.replaying import counters_section, replay_json
from vramplan.report.terminal import estimate_text
from vramplan.sources.recording import write_recording
from vramplan.verdict import judge

budget = settings(max_examples=200, deadline=5000, suppress_health_check=list(HealthCheck))

places = st.floats(min_value=0, max_value=1, exclude_max=True)


@cache
def whole() -> bytes:
    """A valid file."""
    with tempfile.TemporaryDirectory() as folder:
        write_recording(Path(folder) / "r.json", RECORDING)
        return (Path(folder) / "r.json").read_bytes()


def outcome(content: bytes) -> Replay | ModelError:
    """The replay of a file, shown in every way; the error when it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.json"
        path.write_bytes(content)
        found = _replayed(path)
        if isinstance(found, Replay):
            _show(found)
            return found
    assert found.message.isprintable()
    assert len(found.message) < 1500
    return found


def _replayed(path: Path) -> Replay | ModelError:
    try:
        return replay(path)
    except ModelError as error:
        return error


def _show(found: Replay) -> None:
    cells = (found.estimate,)
    verdict = judge(cells, gpu=found.estimate.gpu, resolve=_no_change)
    report = Report(
        cells=cells, verdict=verdict, shows_peak=True, shows_layers=True, top=3, sections=(counters_section(found),)
    )
    for text in (estimate_text(report), estimate_csv(report), estimate_markdown(report), replay_json(found, report)):
        text.encode("utf-8")


def _no_change(*_: object) -> Any:
    raise ModelError("nothing to change")


def test_the_whole_file_is_replayed():
    assert outcome(whole()).is_equal is True


@budget
@given(flips=st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bits(flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(whole())
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    outcome(bytes(damaged))


@budget
@given(place=places, digits=st.text('0123456789-.eE[]{},:"', min_size=1, max_size=6))
def test_overwritten_syntax(place: float, digits: str) -> None:
    at = int(place * len(whole()))
    outcome(whole()[:at] + digits.encode() + whole()[at + len(digits) :])


@budget
@given(place=places, is_packed=st.booleans())
def test_truncation(place: float, is_packed: bool) -> None:
    content = gzip.compress(whole(), mtime=0) if is_packed else whole()
    assert isinstance(outcome(content[: int(place * (len(content) - 2))]), ModelError)


@budget
@given(damaged=st.binary(max_size=400), prefix=st.sampled_from([b"", b"\x1f\x8b\x08\x00", b"{", b'{"format":']))
def test_arbitrary_bytes(damaged: bytes, prefix: bytes) -> None:
    assert isinstance(outcome(prefix + damaged), ModelError)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.integers() | st.floats() | st.text(max_size=6) | st.just("load"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value that can hold another one: its container, and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [spot for key in keys for spot in [(value, key), *_spots(value[key])]]


@budget
@given(changes=st.lists(st.tuples(places, values), min_size=1, max_size=3))
def test_other_values(changes: list[tuple[float, Any]]) -> None:
    content = json.loads(whole())
    for place, value in changes:
        spots = _spots(content)
        container, key = spots[int(place * len(spots))]
        if isinstance(value, str) and value == "load" and isinstance(container, list):
            del container[key]
        else:
            container[key] = copy.deepcopy(value)
    outcome(json.dumps(content).encode())


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": "vramplan-recording", "schema_version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"format": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"format": "' + b"\\u0000" * 10_000 + b'"}',
        b'{"' + b"x" * 1_000_000 + b'": 1, "format": "vramplan-recording", "schema_version": 1}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"\x00" * 1000,
        b"-" * 1000,
    ],
)
def test_hostile_syntax(content: bytes):
    assert isinstance(outcome(content), ModelError)


def test_ops_that_are_named_but_never_run_cost_no_time():
    content = json.loads(whole())
    content["ops"] += ["x"] * 200_000
    start = time.monotonic()
    assert isinstance(outcome(json.dumps(content).encode()), Replay)
    assert time.monotonic() - start < 20


def test_many_events_are_read_in_seconds():
    count = 100_000
    content = json.loads(whole())
    content |= {"marks": {}, "segments": [], "phases": [["first_run", 0, 2 * count]]}
    content["buffers"] = [["x", "activation", 1 + index % 7, ""] for index in range(count)]
    content["events"] = [[0, index, 0] for index in range(count)] + [[1, index, 0] for index in range(count)]
    start = time.monotonic()
    assert isinstance(outcome(json.dumps(content).encode()), Replay)
    assert time.monotonic() - start < 60
