"""`vramplan doctor`: the whole report, its exit code, its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.device_fakes import H200, H200_IDLE, FakeProbe
from vramplan import doctor
from vramplan.device.installed import PACKAGES, Installed, TorchFacts
from vramplan.errors import MachineError

VERSIONS = dict.fromkeys(PACKAGES) | {"torch": "2.11.0", "PyNvVideoCodec": "2.2.4"}
TORCH = TorchFacts(cuda="13.0", is_available=True, gpu_count=1, gpu_totals_bytes={H200.uuid: H200_IDLE.free_bytes})


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H200 with PyTorch."""
    monkeypatch.setattr(doctor, "open_probe", FakeProbe)
    monkeypatch.setattr(doctor, "read_installed", lambda _: Installed(versions=VERSIONS, torch=TORCH, has_cudnn=True))
    monkeypatch.setattr(doctor, "count_calibrations", lambda _: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise MachineError("NVML: Driver Not Loaded (DriverNotLoaded)", hint="sudo modprobe nvidia")

    monkeypatch.setattr(doctor, "open_probe", refuse)


def test_a_gpu_that_can_be_measured_is_exit_0(vramplan: Callable):
    outcome = vramplan("doctor")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "GPU 0: NVIDIA H200 · catalogue: h200-sxm · GPU-76c34910… · compute capability 9.0" in outcome.out
    assert outcome.out.endswith("A GPU can be measured here.\n")
    assert max(map(len, outcome.out.splitlines())) <= 100


def test_without_a_driver_the_report_is_whole_and_exit_4(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    without_driver(monkeypatch)
    outcome = vramplan("doctor")
    assert (outcome.exit_code, outcome.err) == (4, "")
    assert "problem: NVML: Driver Not Loaded (DriverNotLoaded)." in outcome.out
    assert "next: sudo modprobe nvidia" in outcome.out
    assert "Runtimes" in outcome.out
    assert outcome.out.endswith("No GPU can be measured here: 1 problem. Estimates work without one.\n")


def test_json_is_alone_on_stdout_also_with_exit_4(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    without_driver(monkeypatch)
    outcome = vramplan("doctor", "--json")
    assert (outcome.exit_code, outcome.err) == (4, "")
    content = json.loads(outcome.out)
    assert (content["schema_version"], content["can_measure"]) == (1, False)
    assert content["findings"][0]["severity"] == "problem"


def test_a_file_is_written_once_and_replaced_by_force(vramplan: Callable, tmp_path: Path):
    path = tmp_path / "machine.json"
    first = vramplan("doctor", "-o", str(path))
    assert (first.exit_code, first.out) == (0, "")
    assert "A GPU can be measured here." in first.err
    assert json.loads(path.read_text())["can_measure"] is True
    assert vramplan("doctor", "-o", str(path)).exit_code == 2
    assert vramplan("doctor", "-o", str(path), "--force").exit_code == 0


def test_a_table_of_findings_is_no_csv(vramplan: Callable, tmp_path: Path):
    outcome = vramplan("doctor", "-o", str(tmp_path / "machine.csv"))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert ".json" in outcome.err
