"""`examine` against machines that are made up: what is found, what is typed next, and what stays unknown."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.device_fakes import DRIVER, H200, H200_IDLE, IDLE, RTX_3090, FakeProbe, with_used
from vramplan.device import installed as installed_module
from vramplan.device.host import Host, read_host
from vramplan.device.installed import PACKAGES, Installed, TorchFacts, read_installed, torch_facts
from vramplan.device.probe import GpuProcess, Memory
from vramplan.device.settings import hides_all_gpus, read_settings
from vramplan.diagnosis import Diagnosis, Finding
from vramplan.doctor import count_calibrations, examine
from vramplan.errors import MachineError
from vramplan.report.doctor_text import doctor_json, doctor_text
from vramplan.units import GIB, MIB

HOST = Host(vramplan="0.1.0", python="3.12.3", platform="Linux-6.8")
TORCH = TorchFacts(
    cuda="13.0", cudnn="91900", is_available=True, gpu_count=1, gpu_totals_bytes={H200.uuid: H200_IDLE.free_bytes}
)
VERSIONS = dict.fromkeys(PACKAGES) | {"torch": "2.11.0", "nvidia-ml-py": "13.0", "PyNvVideoCodec": "2.2.4"}
INSTALLED = Installed(versions=VERSIONS, torch=TORCH, has_cudnn=True)
NO_DRIVER = MachineError("NVML: Not Found (LibraryNotFound)", hint="install the driver")


def diagnose(probe: Any = None, environment: dict[str, str] | None = None, **changes: Any) -> Diagnosis:
    """A healthy H200, but for the changes."""
    standard: dict[str, Any] = {"host": HOST, "installed": INSTALLED, "count_calibrations": lambda _: 1}
    return examine(probe or FakeProbe(), environment or {}, **(standard | changes))


def found(diagnosis: Diagnosis, words: str) -> Finding:
    (finding,) = [finding for finding in diagnosis.findings if words in finding.what]
    return finding


def with_torch(**changes: Any) -> Installed:
    return replace(INSTALLED, torch=replace(TORCH, **changes))


def test_a_healthy_machine_has_no_findings():
    diagnosis = diagnose()
    assert (diagnosis.findings, diagnosis.can_measure) == ((), True)
    assert "A GPU can be measured here." in doctor_text(diagnosis)


def test_the_three_totals_stand_side_by_side():
    (card,) = diagnose().facts.cards
    assert (card.key, card.marketed_bytes) == ("h200-sxm", 141 * GIB)
    assert (card.cuda_total_bytes, card.cuda_total_source) == (150_109_880_320, "torch")
    text = doctor_text(diagnose())
    assert "marketed 141.00 GiB · nvidia-smi 140.40 GiB · CUDA 139.80 GiB (read by PyTorch)" in text
    assert f"{(150_754_820_096 - 150_109_880_320) / MIB:.1f} MiB the driver keeps" in text


def test_without_pytorch_the_total_of_cuda_is_the_catalogues():
    (card,) = diagnose(installed=replace(INSTALLED, torch=None)).facts.cards
    assert (card.cuda_total_bytes, card.cuda_total_source) == (143_155 * MIB + 960 * 1024, "catalogue")


def test_without_a_driver_everything_else_is_told():
    diagnosis = diagnose(NO_DRIVER)
    assert not diagnosis.can_measure
    assert found(diagnosis, "LibraryNotFound").command == "install the driver"
    assert "torch              2.11.0" in doctor_text(diagnosis)


@pytest.mark.parametrize(
    ("host", "command"),
    [
        (replace(HOST, container="docker"), "docker run --gpus all …"),
        (replace(HOST, container="podman"), "podman run --device nvidia.com/gpu=all …"),
        (replace(HOST, is_wsl=True), "in Windows, install NVIDIA's driver (none inside WSL); then: wsl --shutdown"),
        (replace(HOST, jetson="Jetson AGX Orin"), "sudo apt install nvidia-jetpack"),
    ],
)
def test_the_way_to_a_driver_depends_on_the_machine(host: Host, command: str):
    assert found(diagnose(NO_DRIVER, host=host), "LibraryNotFound").command == command


def test_a_missing_package_is_installed_also_in_a_container():
    missing = MachineError("the package nvidia-ml-py is not installed", hint="Type: pip install nvidia-ml-py")
    finding = found(diagnose(missing, host=replace(HOST, container="docker")), "nvidia-ml-py")
    assert finding.command == "Type: pip install nvidia-ml-py"


@pytest.mark.parametrize(
    ("installed", "words", "command"),
    [
        (replace(INSTALLED, torch=None), "not installed", "pip install 'vramplan[torch]'"),
        (with_torch(cuda="", is_available=None), "without CUDA", "https://download.pytorch.org/whl/cu130"),
        (with_torch(cuda=None, failure="did not finish within 60 s"), "within 60 s", "python -c 'import torch'"),
        (with_torch(is_available=False), "PyTorch sees no GPU", "python -c 'import torch; torch.cuda.init()'"),
    ],
)
def test_a_pytorch_that_cannot_run_is_a_problem(installed: Installed, words: str, command: str):
    diagnosis = diagnose(installed=installed)
    assert not diagnosis.can_measure
    assert command in found(diagnosis, words).command


def test_a_driver_older_than_pytorchs_cuda_is_told_with_both_ways_out():
    probe = FakeProbe(driver=replace(DRIVER, version="550.54", cuda="12.4"))
    finding = found(diagnose(probe, installed=with_torch(is_available=False)), "built for CUDA 13.0, the driver serves 12.4")
    assert "driver 580.65 or newer" in finding.command
    assert "whl/cu126" in finding.command


def test_a_pytorch_that_works_is_believed_over_version_numbers():
    assert diagnose(FakeProbe(driver=replace(DRIVER, cuda="12.4"))).can_measure


@pytest.mark.parametrize("value", ["", "-1", " -1,0"])
def test_hidden_gpus_are_one_problem(value: str):
    diagnosis = diagnose(environment={"CUDA_VISIBLE_DEVICES": value}, installed=with_torch(is_available=False))
    assert [finding.command for finding in diagnosis.findings] == ["unset CUDA_VISIBLE_DEVICES"]


def test_visible_gpus_are_not_hidden():
    assert not any(map(hides_all_gpus, (None, "0", "1,-1", "GPU-76c34910")))


def test_two_onnxruntimes_are_a_conflict():
    versions = VERSIONS | {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}
    diagnosis = diagnose(installed=replace(INSTALLED, versions=versions, providers=("CPUExecutionProvider",)))
    assert diagnosis.can_measure
    assert found(diagnosis, "both installed").command.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_onnxruntime_gpu_without_cuda_is_a_notice():
    installed = replace(INSTALLED, versions=VERSIONS | {"onnxruntime-gpu": "1.32.0"}, providers=("CPUExecutionProvider",))
    assert "falls back to the CPU" in found(diagnose(installed=installed), "no CUDA provider").why


@pytest.mark.parametrize(
    ("installed", "command"),
    [
        (replace(INSTALLED, has_cudnn=False), "pip install 'vramplan[cudnn]'"),
        (replace(INSTALLED, versions=VERSIONS | {"PyNvVideoCodec": None}), "pip install 'vramplan[video]'"),
    ],
)
def test_what_would_be_good_to_have_is_a_notice(installed: Installed, command: str):
    diagnosis = diagnose(installed=installed)
    assert diagnosis.can_measure
    assert [finding.command for finding in diagnosis.findings] == [command]


def test_a_card_without_a_calibration_is_a_notice_and_an_unknown_count_is_none():
    assert found(diagnose(count_calibrations=lambda _: 0), "no calibration").command == "vramplan calibrate"
    assert diagnose(count_calibrations=lambda _: None).findings == ()


def test_calibrations_that_cannot_be_read_are_unknown(monkeypatch: pytest.MonkeyPatch):
    def broken(_: str) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("vramplan.doctor.calibrations_of", broken)
    assert count_calibrations("h200-sxm") is None


def device(**changes: Any) -> FakeProbe:
    return FakeProbe(devices=(replace(H200, **changes),), activity=replace(IDLE, sm_ratio=0.9))


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (device(pcie_generation=1), "PCIe 1.0 of 5.0"),
        (device(pcie_lane_count=8), "8 of 16 PCIe lanes"),
        (device(is_mig=True), "MIG"),
        (device(virtualization="vGPU"), "vGPU"),
        (device(driver_model="WDDM"), "WDDM"),
        (FakeProbe(activity=replace(IDLE, throttle=("thermal limit",))), "held down: thermal limit"),
        (FakeProbe(memory=with_used(H200_IDLE, 64 * GIB)), "64.00 GiB of GPU 0 (NVIDIA H200) are used now"),
        (FakeProbe(memory=replace(H200_IDLE, reserved_bytes=None)), "its own memory"),
        (device(name="NVIDIA H300"), "not a card of the catalogue"),
    ],
)
def test_what_changes_a_measurement_is_a_notice(probe: FakeProbe, words: str):
    diagnosis = diagnose(probe)
    assert diagnosis.can_measure
    assert found(diagnosis, words).why


def test_an_idle_card_may_rest_its_link():
    assert diagnose(FakeProbe(devices=(replace(H200, pcie_generation=1),))).findings == ()


def test_different_gpus_are_counted_in_different_orders():
    probe = FakeProbe(devices=(H200, replace(RTX_3090, pcie_generation=4)), memory={
        H200.uuid: H200_IDLE,
        RTX_3090.uuid: Memory(total_bytes=24 * GIB, reserved_bytes=0, used_bytes=0, free_bytes=24 * GIB),
    })  # fmt: skip
    assert found(diagnose(probe), "different GPUs").command == "export CUDA_DEVICE_ORDER=PCI_BUS_ID"
    assert diagnose(probe, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).findings == ()


def test_a_jetson_has_no_memory_to_read():
    diagnosis = diagnose(FakeProbe(memory=MachineError("NVML: Not Supported")), host=replace(HOST, jetson="Jetson Orin"))
    assert found(diagnosis, "is a Jetson").command == "tegrastats"
    assert not diagnosis.can_measure


def test_one_card_without_memory_does_not_stop_the_other():
    probe = FakeProbe(devices=(H200, RTX_3090), memory={H200.uuid: H200_IDLE, RTX_3090.uuid: MachineError("lost")})
    diagnosis = diagnose(probe)
    assert diagnosis.can_measure
    assert diagnosis.facts.cards[1].unanswered == ("lost",)


@pytest.mark.parametrize("error", [MachineError("lost", hint="h"), RuntimeError("boom\x1b[2J"), AttributeError("x"), OSError()])
def test_an_answer_that_fails_costs_only_itself(error: Exception):
    diagnosis = diagnose(FakeProbe(memory=error, processes=error, activity=error, driver=error))
    (card,) = diagnosis.facts.cards
    assert (card.memory, card.processes, card.activity, diagnosis.facts.driver) == (None, None, None, None)
    text = doctor_text(diagnosis)
    assert "memory now   unknown" in text
    assert "\x1b" not in text


def test_a_driver_that_lists_no_devices_says_why():
    diagnosis = diagnose(FakeProbe(devices=MachineError("NVML: Lost (GpuIsLost)", hint="restart")))
    assert found(diagnosis, "GpuIsLost").command == "restart"
    assert not diagnose(FakeProbe(devices=())).can_measure


def test_a_driver_that_hangs_is_left_behind():
    class Hanging(FakeProbe):
        def processes(self, device: Any) -> Any:
            time.sleep(30)

    start_s = time.monotonic()
    diagnosis = diagnose(Hanging(), timeout_s=0.2)
    assert time.monotonic() - start_s < 5
    (card,) = diagnosis.facts.cards
    assert card.memory == H200_IDLE
    assert (card.processes, card.activity) == (None, None)
    assert card.unanswered == ("the driver did not answer within 0.2 s",)


def test_who_uses_the_card_is_told_without_escapes():
    processes = (
        GpuProcess(pid=454, name="py\x1b[2Jthon", used_bytes=641_728_512),
        GpuProcess(pid=455, name="", used_bytes=None),
    )
    text = doctor_text(diagnose(FakeProbe(processes=processes, memory=with_used(H200_IDLE, 641_728_512))))
    assert "454 py�[2Jthon · 612.0 MiB" in text
    assert "455 (of another user or container) · memory not told by the driver" in text
    assert max(map(len, text.splitlines())) <= 100


def test_json_has_every_fact():
    content = json.loads(doctor_json(diagnose(environment={"CUDA_MODULE_LOADING": "EAGER"})))
    assert (content["schema_version"], content["can_measure"]) == (1, True)
    facts = content["facts"]
    assert facts["cards"][0]["memory"]["reserved_bytes"] == 644_939_776
    assert facts["settings"][0]["name"] == "CUDA_MODULE_LOADING"
    assert facts["installed"]["torch"]["cuda"] == "13.0"


def test_settings_are_told_with_what_they_change():
    settings = read_settings(
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True\x1b", "CUDA_VISIBLE_DEVICES": "", "HOME": "/"}
    )
    assert [(setting.name, setting.value) for setting in settings] == [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
    ]
    assert all(setting.effect for setting in settings)


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ({}, {}, (False, None, None)),
        ({"proc/version": "Linux version 5.15-Microsoft-standard-WSL2"}, {}, (True, None, None)),
        ({".dockerenv": ""}, {}, (False, "docker", None)),
        ({"run/.containerenv": ""}, {}, (False, "podman", None)),
        ({"proc/1/cgroup": "0::/kubepods/x"}, {}, (False, "kubepods", None)),
        ({"proc/self/cgroup": "0::/user.slice"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, (False, "kubernetes", None)),
        ({"etc/nv_tegra_release": "# R36 (release)\x1b\nmore"}, {}, (False, None, "# R36 (release)")),
        ({"proc/device-tree/model": "NVIDIA Jetson AGX Orin\0"}, {}, (False, None, "NVIDIA Jetson AGX Orin")),
        ({"proc/device-tree/model": "Raspberry Pi 5\0"}, {}, (False, None, None)),
    ],
)
def test_a_host_is_known_by_its_files(tmp_path: Path, files: dict[str, str], environment: dict[str, str], expected: tuple):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    host = read_host(environment, version="0.1.0", root=tmp_path)
    assert (host.is_wsl, host.container, host.jetson) == expected


def test_what_pytorch_said_is_believed_as_far_as_it_has_the_right_types():
    said = {"cuda": "13.0\x1b", "cudnn": 9, "is_available": "yes", "gpus": [{"uuid": "76c3", "total_bytes": 5}, 3, {"uuid": 1}]}
    facts = torch_facts(said, None)
    assert (facts.cuda, facts.cudnn, facts.is_available, facts.gpu_count) == ("13.0", None, None, 3)
    assert facts.gpu_totals_bytes == {"GPU-76c3": 5}
    assert torch_facts({}, "crashed") == TorchFacts(failure="crashed")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import time; time.sleep(60)", "torch did not finish within 3 s"),
        ("print('hello')", "no report"),
    ],
)
def test_a_runtime_that_crashes_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch, program: str, words: str):
    monkeypatch.setattr(installed_module, "module_command", lambda _: [sys.executable, "-c", program])
    monkeypatch.setattr(installed_module, "_version", lambda package: "1.0" if package == "torch" else None)
    installed = read_installed({}, timeout_s=3)
    assert installed.torch is not None
    assert installed.torch.cuda is None
    assert words in (installed.torch.failure or "")


def test_what_a_runtime_said_before_it_crashed_is_kept(monkeypatch: pytest.MonkeyPatch):
    program = 'import os; print(\'{"cuda": "12.8"}\', flush=True); os.abort()'
    monkeypatch.setattr(installed_module, "module_command", lambda _: [sys.executable, "-c", program])
    monkeypatch.setattr(installed_module, "_version", lambda package: "1.0" if package == "torch" else None)
    torch = read_installed({}, timeout_s=30).torch
    assert torch is not None
    assert torch.cuda == "12.8"
    assert "SIGABRT" in (torch.failure or "")
