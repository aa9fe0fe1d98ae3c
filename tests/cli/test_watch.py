"""`vramplan watch`: lines, objects, a live page, and every way it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.device_fakes import H200, H200_IDLE, IDLE, FakeProbe, with_used
from vramplan import sampling
from vramplan.device import nvml
from vramplan.device.probe import Activity, GpuProcess
from vramplan.errors import MachineError
from vramplan.units import GIB

HERE = GpuProcess(pid=os.getpid(), name="train", used_bytes=2 * GIB)
NO_PROCESS = 2**22 + 5
"""Linux numbers processes up to 2**22."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a GPU into the machine."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(**answers: Any) -> None:
        monkeypatch.setattr(nvml, "open_probe", lambda: FakeProbe(**answers))

    put(memory=with_used(H200_IDLE, 2 * GIB), processes=[(HERE,)] * 5 + [()])
    return put


def test_a_process_is_watched_until_it_leaves_the_gpu(vramplan: Callable, gpu: Callable):
    outcome = vramplan("watch", "--pid", str(os.getpid()), "--interval", "0.1")
    assert (outcome.exit_code, outcome.err) == (0, "")
    title, headers, *lines = outcome.out.splitlines()
    assert title == f"GPU 0: NVIDIA H200 · process {os.getpid()} · PCIe in GB/s"
    assert headers.split()[:3] == ["time", "memory", "reserved"]
    assert lines[0].split()[:3] == ["0.0s", "2.00", "GiB"]
    assert [line[:1] for line in lines if line[:2] in ("1.", "2.", "3.")] == ["1", "2", "3"]
    assert "4 samples in" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100


def test_json_is_one_object_a_line_and_a_summary(vramplan: Callable, gpu: Callable):
    outcome = vramplan("watch", "--seconds", "0.35", "--interval", "0.1", "--json")
    assert (outcome.exit_code, outcome.err) == (0, "")
    *samples, summary = map(json.loads, outcome.out.splitlines())
    assert len(samples) >= 2
    assert {line["kind"] for line in samples} == {"sample"}
    assert all(line["schema_version"] == 1 for line in (*samples, summary))
    assert samples[0]["process_bytes"] is None
    assert samples[0]["used_bytes"] == 2 * GIB
    assert samples[0]["link_bytes_per_s"] == 63_008_000_000
    assert (summary["kind"], summary["pid"]) == ("summary", None)
    assert [sign["name"] for sign in summary["signs"]] == ["memory", "allocation", "pcie"]


def test_copies_that_fill_the_link_are_told(vramplan: Callable, gpu: Callable):
    gpu(activity=replace(IDLE, pcie_to_gpu_bytes_per_s=60_000_000_000))
    out = vramplan("watch", "--seconds", "0.5", "--interval", "0.1").out
    assert "3. copies fill the PCIe link: yes" in out
    assert "   Copies bind: send less" in out


def test_unknown_is_a_question_mark(vramplan: Callable, gpu: Callable):
    gpu(activity=Activity())
    line = vramplan("watch", "--seconds", "0.1", "--interval", "0.1").out.splitlines()[2]
    assert line.split()[-9:] == ["?"] * 9


def test_ctrl_c_ends_it_with_the_summary_and_exit_0(vramplan: Callable, gpu: Callable):
    gpu(memory=[H200_IDLE, H200_IDLE, KeyboardInterrupt()])
    outcome = vramplan("watch", "--interval", "0.1")
    assert outcome.exit_code == 0
    assert "2 samples in" in outcome.out


def test_ctrl_c_before_the_first_sample_is_quiet(vramplan: Callable, gpu: Callable):
    gpu(memory=KeyboardInterrupt())
    outcome = vramplan("watch")
    assert (outcome.exit_code, outcome.err) == (130, "")


def test_without_a_driver_it_is_exit_4(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise MachineError("NVML: no driver", hint="install it")

    monkeypatch.setattr(nvml, "open_probe", refuse)
    outcome = vramplan("watch")
    assert (outcome.exit_code, outcome.out, outcome.err) == (4, "", "error: NVML: no driver\nhint: install it\n")


def test_a_process_that_does_not_exist_is_exit_2(vramplan: Callable, gpu: Callable):
    outcome = vramplan("watch", "--pid", str(NO_PROCESS))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert f"there is no process {NO_PROCESS}" in outcome.err
    assert f"On it are: {os.getpid()} train" in outcome.err


def test_a_process_that_is_not_on_the_gpu_is_exit_5(vramplan: Callable, gpu: Callable):
    gpu(processes=(replace(HERE, pid=1, name="other\x1b[2J"),))
    outcome = vramplan("watch", "--pid", str(os.getpid()))
    assert (outcome.exit_code, outcome.out) == (5, "")
    assert "holds no memory of any GPU" in outcome.err
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ["--interval", "0"], ["--interval", "nan"], ["--seconds", "0"], ["--seconds", "-1"], ["--seconds", "inf"],
        ["--seconds", "nan"], ["--pid", "0"], ["--pid", "-5"], ["--pid", "x"], ["--pid", str(10**30)], ["--gpu-index", "7"],
        ["--gpu-index", "-1"],
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_exit_2(vramplan: Callable, gpu: Callable, words: list[str]):
    outcome = vramplan("watch", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "hint: " in outcome.err


def test_a_process_that_leaves_before_it_is_seen_is_exit_5(vramplan: Callable, gpu: Callable):
    gpu(processes=[(HERE,), ()])
    assert vramplan("watch", "--pid", str(os.getpid())).exit_code == 5


PROGRAM = """
    import sys
    from tests.device_fakes import H200_IDLE, FakeProbe
    from vramplan.__main__ import main
    from vramplan.device import nvml
    nvml.open_probe = lambda: FakeProbe(memory=[H200_IDLE] * 3 + [KeyboardInterrupt()])
    sys.exit(main(["watch", "--interval", "0.1"]))
"""


@pytest.mark.parametrize(("settings", "is_live"), [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_a_live_page_unless_it_is_dumb(settings: dict[str, str], is_live: bool):
    parent, child = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "CUDA_VISIBLE_DEVICES"}}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    program = subprocess.Popen(command, stdout=child, stderr=subprocess.PIPE, env=plain | settings)
    os.close(child)
    text = b"".join(iter(lambda: _read(parent), b"")).decode()
    os.close(parent)
    assert (program.wait(), program.communicate()[1]) == (0, b"")
    assert ("Ctrl-C ends it" in text) is is_live
    assert ("\x1b[" in text) is is_live
    assert "3 samples in" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_the_target_of_no_pid_is_the_first_visible_gpu(monkeypatch: pytest.MonkeyPatch):
    other = replace(H200, index=1, uuid="GPU-2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert sampling.find_target(FakeProbe(devices=(H200, other))).device is other
