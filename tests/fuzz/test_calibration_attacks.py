"""Calibrations from strangers: each becomes a `Calibration` that can be used, or one printable error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.calibrations import content, put
from vramplan.errors import UsageError
from vramplan.fleet import streams
from vramplan.gpus.calibration import MAX_FILE_BYTES, MAX_ROWS, Calibration, calibration_of, calibration_text
from vramplan.gpus.calibration_store import import_calibration

ROW = {"codec": "h264", "width": 1920, "height": 1080, "sessions": 1, "fps": 1.0}
CONTEXT = {"runtime": "torch", "stage": "context", "context_bytes": 1}


def refused(path: Path) -> str:
    """The error of importing *path*; nothing is stored."""
    with pytest.raises(UsageError) as caught:
        import_calibration(path, force=False)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
    assert not (path.parent / "calibrations").exists()
    return caught.value.message


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMPLAN_CONFIG_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": None}, "its key 'format' is null"),
        ({"schema_version": True}, "its schema_version is true"),
        ({"schema_version": 2}, "its schema_version is 2"),
        ({"gpu": None}, "gpu is null, not an object"),
        ({"gpu": {"key": "../../x", "name": "n"}}, "gpu.key is '../../x'"),
        ({"gpu": {"key": "a_b", "name": "n"}}, "gpu.key is 'a_b'"),
        ({"gpu": {"key": "*", "name": "n"}}, "gpu.key is '*'"),
        ({"gpu": {"key": "x", "name": "a\x1b[31m"}}, "gpu.name is 'a\\x1b[31m'"),
        ({"gpu": {"key": "x", "name": "n", "sm_count": 1.5}}, "gpu.sm_count is 1.5"),
        ({"gpu": {"key": "x", "name": "n", "nvidia_smi_total_bytes": 0}}, "a size is 0"),
        ({"environment": {}}, "environment has no 'driver'"),
        ({"environment": {"driver": "1", "torch": "2", "date": "yesterday"}}, "environment.date is 'yesterday'"),
        ({"environment": {"driver": 570, "torch": "2", "date": "2026-01-01"}}, "environment.driver is 570"),
        ({"environment": {"driver": "1", "torch": "2", "date": "2026-01-01", "hostname": "x"}}, "unknown key 'hostname'"),
        ({"context": [CONTEXT, CONTEXT]}, "torch, context is there twice"),
        ({"context": [{**CONTEXT, "context_bytes": -1}]}, "context[0].context_bytes is -1"),
        ({"context": [{**CONTEXT, "context_bytes": 1 << 44}]}, "context[0].context_bytes"),
        ({"context": [{**CONTEXT, "stage": "first_gem"}]}, "Did you mean: first_gemm"),
        ({"context": [{**CONTEXT, "runtime": "torhc"}]}, "Did you mean: torch"),
        ({"context": {}}, "context is an object of 0, not a list"),
        ({"context": [CONTEXT] * (MAX_ROWS + 1)}, "more than 1,000"),
        ({"cublas_workspace_bytes": "8"}, "cublas_workspace_bytes is '8'"),
        ({"decode": [{**ROW, "fps": 0}]}, "decode[0].fps is 0"),
        ({"decode": [{**ROW, "fps": 1e300}]}, "decode[0].fps is 1e+300"),
        ({"decode": [{**ROW, "width": 1}]}, "make no sense"),
        ({"decode": [{**ROW, "width": 10**6}]}, "decode[0].width is 1000000"),
        ({"decode": [{**ROW, "sessions": 0}]}, "0 sessions"),
        ({"decode": [{**ROW, "codec": "h265"}]}, "decode[0].codec is 'h265'"),
        ({"decode": [ROW, {**ROW, "fps": 2.0}]}, "is there twice"),
        ({"decode": [{"codec": "h264"}]}, "decode[0] has no key 'width'"),
        ({"compute": [{"dtype": "fp16", "tflops": True}]}, "compute[0].tflops is true"),
        ({"compute": [{"dtype": "fp16", "tflops": 1}] * 2}, "fp16 is there twice"),
        ({"memory_bandwidth_gb_s": -1}, "memory_bandwidth_gb_s is -1"),
        ({"pcie": {"to_gpu_gb_s": 1}}, "unknown key 'to_gpu_gb_s'"),
        ({"disturbed": "no"}, "disturbed is 'no'"),
        ({"notes": ["\x07"]}, "notes[0]"),
        ({"\x1b]0;x": 1}, "unknown key '\\x1b]0;x'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(folder: Path, changes: dict[str, Any], said: str):
    path = folder / "stranger.json"
    path.write_text(json.dumps(content(**changes)))
    assert said in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "format": 2}', "is there twice"),
        ('{"memory_bandwidth_gb_s": NaN}', "NaN is no number"),
        ('{"memory_bandwidth_gb_s": -Infinity}', "is no number"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("9" * 100_000, "limit"),
        ("", "not JSON"),
        ("null", "is null"),
    ],
)
def test_what_is_no_object_is_refused(folder: Path, text: str, said: str):
    path = folder / "stranger.json"
    path.write_text(text)
    assert said in refused(path)


def test_a_number_beyond_all_floats_is_refused(folder: Path):
    path = folder / "stranger.json"
    path.write_text(json.dumps(content()).replace("840.0", "1e999"))
    assert "memory_bandwidth_gb_s is inf" in refused(path)


def test_large_files_and_bombs_are_refused_unread(folder: Path):
    path = folder / "stranger.json"
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    assert "larger than" in refused(path)
    path.write_bytes(gzip.compress(b" " * (50 * MAX_FILE_BYTES)))
    assert "inflates to more" in refused(path)
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(path)


def test_a_folder_and_a_device_are_no_files(folder: Path):
    assert "folder" in refused(folder)
    if Path("/dev/zero").exists():
        with pytest.raises(UsageError, match="regular file"):
            import_calibration(Path("/dev/zero"), force=False)


def test_the_most_extreme_numbers_that_are_allowed_break_no_plan(folder: Path):
    extremes = [{**ROW, "width": 16, "height": 16, "fps": 1e7, "session_bytes": 1 << 43}]
    extremes += [{**ROW, "width": 16_384, "height": 16_384, "fps": 1e-9, "sessions": 4096, "session_bytes": 1}]
    for number, row in enumerate(extremes):
        rates = {"to_gpu_pinned_gb_s": 1e-9, "to_gpu_pageable_gb_s": 1e6}
        compute = [{"dtype": "fp16", "tflops": 1e-9}]
        put(folder, f"rtx3090_{number}.json", decode=[row], compute=compute, memory_bandwidth_gb_s=1e6, pcie=rates)
        plan = streams("mobilenet_v2", gpu="3090")
        assert plan.streams_low <= plan.streams <= plan.streams_high
        (folder / "calibrations" / f"rtx3090_{number}.json").unlink()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(content())), value=values)
def test_any_value_anywhere_is_read_or_refused(tmp_path: Path, key: str, value: Any):
    error, found = read(content(**{key: value}))
    assert error.isprintable()
    if found is not None:
        assert read(json.loads(calibration_text(found))) == ("", found)


def read(changed: dict[str, Any]) -> tuple[str, Calibration | None]:
    try:
        return "", calibration_of(changed)
    except ValueError as error:
        return str(error), None
