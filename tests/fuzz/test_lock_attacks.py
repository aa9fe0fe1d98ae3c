"""Lock files and site files from strangers: whatever the bytes, they become a lock that can be checked, or one clear error."""

from __future__ import annotations

import copy
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramplan.errors import ModelError, UsageError, VramplanError
from vramplan.lock_reading import read_lock
from vramplan.lockfile import MAX_FILE_BYTES, Lock, lock_text
from vramplan.locking import check, diff_locks, lock_model, plain, want
from vramplan.report.diff_text import diff_json, diff_markdown, diff_text
from vramplan.report.lock_text import check_github, check_json, check_text
from vramplan.site import Site, read_site

budget = settings(max_examples=150, deadline=5000, suppress_health_check=list(HealthCheck))

places = st.floats(min_value=0, max_value=1, exclude_max=True)


@cache
def whole() -> str:
    """A valid file."""
    return lock_text(Lock(models=(lock_model(want(plain("mobilenet_v2"))),)))


def refused(error: VramplanError) -> VramplanError:
    """One printable sentence."""
    assert error.message.isprintable()
    assert len(error.message) < 1500
    return error


def outcome(content: bytes) -> Lock | VramplanError:
    """The lock in a file, written, read and compared again; the error when it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.json"
        path.write_bytes(content)
        try:
            lock = read_lock(path)
        except ModelError as error:
            return refused(error)
        path.write_text(lock_text(lock))
        assert lock_text(read_lock(path)) == lock_text(lock)
        diff = diff_locks(lock, lock)
        for text in (diff_text(diff), diff_markdown(diff), diff_json(diff)):
            assert all(char.isprintable() or char == "\n" for char in text)
        return lock


def shown_everywhere(lock: Lock) -> int:
    """Check *lock*, print that in every way, and return the exit code."""
    checked = check(lock)
    commands = check_github(checked).splitlines()
    assert all(line.startswith(("::error ", "::notice ")) for line in commands)
    for text in (check_text(checked), check_json(checked), *commands):
        assert all(char.isprintable() or char == "\n" for char in text)
    return checked.exit_code


def test_a_whole_file_is_a_lock():
    assert isinstance(outcome(whole().encode()), Lock)


@budget
@given(places, st.binary(max_size=8))
def test_bytes_put_anywhere(place: float, junk: bytes):
    raw = whole().encode()
    cut = int(place * len(raw))
    outcome(raw[:cut] + junk + raw[cut + len(junk) :])


@budget
@given(places)
def test_cut_anywhere(place: float):
    raw = whole().encode()
    assert isinstance(outcome(raw[: int(place * (len(raw) - 2))]), ModelError)


@budget
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes):
    assert isinstance(outcome(content), ModelError)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, 1 << 70, "", "x", "\x1b[2J", "a\n::error::b", "x" * 5000, [], [1], {}, {"a": 1}, [[]],
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a file."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in paths(item, (*path, key)))]


@budget
@given(st.data())
def test_any_value_anywhere(data: st.DataObject):
    content = copy.deepcopy(json.loads(whole()))
    place = data.draw(st.sampled_from(paths(content)[1:]))
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = data.draw(st.sampled_from(VALUES))
    found = outcome(json.dumps(content).encode())
    if isinstance(found, Lock):
        assert shown_everywhere(found) in {0, 1, 2, 3, 4}


@budget
@given(st.data())
def test_any_key_gone_or_strange(data: st.DataObject):
    content = copy.deepcopy(json.loads(whole()))
    place = data.draw(st.sampled_from([path for path in paths(content) if path and isinstance(path[-1], str)]))
    target = content
    for key in place[:-1]:
        target = target[key]
    value = target.pop(place[-1])
    if data.draw(st.booleans()):
        target[data.draw(st.sampled_from(["", "x", "\x1b", "MODEL"]))] = value
    found = outcome(json.dumps(content).encode())
    if isinstance(found, Lock):  # a library of versions, a phase: their names are free
        assert place[-2] in {"versions", "phases"}


def changed(**values: Any) -> dict[str, Any]:
    """A valid file with other values in its only model."""
    content = json.loads(whole())
    content["models"][0].update(values)
    return content


def with_cell(**values: Any) -> dict[str, Any]:
    content = json.loads(whole())
    content["models"][0]["cells"][0].update(values)
    return content


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"lock": "npm", "schema_version": 1, "models": []}, "not 'vramplan'"),
        ({"lock": "vramplan", "schema_version": 2, "models": []}, "this version reads 1"),
        ({"lock": "vramplan", "schema_version": True, "models": []}, "schema_version"),
        ({"lock": "vramplan", "schema_version": 1, "models": [{}] * 300}, "more than 256"),
        (changed(cells=[]), "has no cells"),
        (changed(model=" "), "is empty"),
        (changed(tolerance="200%"), "no share"),
        (changed(dims={"height": 0}), "is 0"),
        (changed(shapes={"images": [1] * 40}), "40 items"),
        (changed(versions={str(index): "1" for index in range(20)}), "20 names"),
        (with_cell(batch=1 << 30), "not a whole number"),
        (with_cell(precision="half"), "no precision"),
        (with_cell(total={"low_bytes": 1, "nominal_bytes": 1, "high_bytes": 1}), "not the sum"),
        (with_cell(tensor_count=1), "more rows"),
        (with_cell(peak_op="a\x07"), "not printable"),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], word: str):
    found = outcome(json.dumps(content).encode())
    assert isinstance(found, ModelError)
    assert word in found.message


def test_a_file_of_many_brackets_or_bytes_is_refused_at_once():
    assert isinstance(outcome(b"[" * 200_000), ModelError)
    assert isinstance(outcome(b" " * (MAX_FILE_BYTES + 1)), ModelError)


@pytest.mark.parametrize(
    "values",
    [
        {"runtime": "no such"},
        {"memory_format": "channels_last"},
        {"gpu": "voodoo"},
        {"gpu": "auto"},
        {"batch": 1 << 20},
        {"runtime": "torch", "memory_format": "nonsense"},
    ],
)
def test_a_cell_that_cannot_be_is_a_finding(values: dict[str, Any]):
    found = outcome(json.dumps(with_cell(**values)).encode())
    assert isinstance(found, Lock)
    assert shown_everywhere(found) in {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/dev/zero", "x.engine", "os:system", "::stop-commands::x", "~", "..", "a.pt", "-x"]
)
def test_a_model_that_is_none_is_a_finding(name: str):
    found = outcome(json.dumps(changed(model=name)).encode())
    assert isinstance(found, Lock)
    assert shown_everywhere(found) in {2, 3}


@budget
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_as_a_site(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vramplan.toml"
        path.write_bytes(content)
        try:
            assert isinstance(read_site(path), Site)
        except UsageError as error:
            refused(error)
