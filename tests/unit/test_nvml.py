"""NVML through a pynvml that is made up: every refusal is a clear error, every missing answer is None."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from vramplan.device.nvml import NvmlProbe, open_probe
from vramplan.device.probe import GpuProcess
from vramplan.errors import MachineError

CODES = {
    "Uninitialized": 1, "InvalidArgument": 2, "NotSupported": 3, "NoPermission": 4, "AlreadyInitialized": 5, "NotFound": 6,
    "InsufficientSize": 7, "InsufficientPower": 8, "DriverNotLoaded": 9, "Timeout": 10, "IrqIssue": 11, "LibraryNotFound": 12,
    "FunctionNotFound": 13, "CorruptedInforom": 14, "GpuIsLost": 15, "ResetRequired": 16, "OperatingSystem": 17,
    "LibRmVersionMismatch": 18, "InUse": 19, "Memory": 20, "NoData": 21, "VgpuEccNotSupported": 22,
    "InsufficientResources": 23, "FreqNotSupported": 24, "ArgumentVersionMismatch": 25, "Deprecated": 26, "NotReady": 27,
    "GpuNotFound": 28, "InvalidState": 29, "ResetTypeNotSupported": 30, "Unknown": 999,
}  # fmt: skip
"""nvmlReturn_t of nvml.h, under the names of pynvml's exceptions."""


class NVMLError(Exception):
    pass


ERRORS = {name: type(f"NVMLError_{name}", (NVMLError,), {}) for name in CODES}


class FakePynvml:
    """Answers as an H200 did; *refused* maps the name of a function to the error it raises, *missing* ones do not exist."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_VIDEO, NVML_TEMPERATURE_GPU = 1, 3, 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    nvmlMemory_v2 = 0x2000028  # noqa: N815

    def __init__(self, *, refused: dict[str, str] | None = None, missing: tuple[str, ...] = (), **answers: Any) -> None:
        self._refused, self._missing = refused or {}, missing
        self._answers = {
            "nvmlInit": None,
            "nvmlSystemGetDriverVersion": "580.159.04",
            "nvmlSystemGetCudaDriverVersion_v2": 13000,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetUUID": "GPU-76c34910",
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetNumGpuCores": 16896,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetCurrentDriverModel": [0, 0],
            "nvmlDeviceGetVirtualizationMode": 1,
            "nvmlDeviceGetDisplayActive": 0,
            "nvmlDeviceGetCurrPcieLinkGeneration": 5,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkGeneration": 5,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetClockInfo": 345,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetDecoderUtilization": [12, 100000],
            "nvmlDeviceGetEncoderUtilization": [0, 100000],
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x1,
            "nvmlDeviceGetPowerUsage": 128_000,
            "nvmlDeviceGetTemperature": 39,
            "nvmlDeviceGetPcieThroughput": 1441,
        } | answers

    def nvmlDeviceGetMemoryInfo(self, _handle: Any, version: int | None = None) -> Any:  # noqa: N802
        self._check("nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo")
        if version:
            return SimpleNamespace(total=150754820096, reserved=644939776, used=0, free=150109880320)
        return SimpleNamespace(total=150754820096, used=644939776, free=150109880320)

    def _check(self, name: str) -> None:
        if name in self._refused:
            raise ERRORS[self._refused[name]](f"said {self._refused[name]}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in self._missing or name not in self._answers:
            raise AttributeError(name)

        def ask(*_: Any) -> Any:
            self._check(name)
            return self._answers[name]

        return ask


def install(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)


@pytest.mark.parametrize("name", CODES)
def test_every_refusal_at_the_start_is_a_machine_error_with_a_hint(monkeypatch: pytest.MonkeyPatch, name: str):
    install(monkeypatch, FakePynvml(refused={"nvmlInit": name}))
    with pytest.raises(MachineError) as caught:
        open_probe()
    assert caught.value.exit_code == 4
    assert caught.value.message == f"NVML: said {name} ({name})"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LibraryNotFound", "--gpus all"),
        ("DriverNotLoaded", "modprobe nvidia"),
        ("LibRmVersionMismatch", "restart the machine"),
        ("NoPermission", "/dev/nvidia"),
        ("Unknown", "vramplan doctor"),
    ],
)
def test_the_hint_says_what_to_do(monkeypatch: pytest.MonkeyPatch, name: str, words: str):
    install(monkeypatch, FakePynvml(refused={"nvmlInit": name}))
    with pytest.raises(MachineError) as caught:
        open_probe()
    assert words in caught.value.hint


def test_without_the_package_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, None)  # what `import pynvml` raises ImportError for
    with pytest.raises(MachineError, match="nvidia-ml-py is not installed") as caught:
        open_probe()
    assert "pip install nvidia-ml-py" in caught.value.hint


def test_a_driver_without_a_gpu_is_a_machine_error(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, FakePynvml(nvmlDeviceGetCount=0))
    with pytest.raises(MachineError, match="sees no GPU"):
        open_probe()


def test_a_gpu_that_got_lost_is_a_machine_error():
    probe = NvmlProbe(FakePynvml(refused={"nvmlDeviceGetHandleByUUID": "GpuIsLost"}))
    (device,) = probe.devices()
    for question in (probe.memory, probe.processes, probe.activity):
        with pytest.raises(MachineError, match="GpuIsLost"):
            question(device)


def test_the_driver_is_named_with_its_cuda():
    driver = NvmlProbe(FakePynvml()).driver()
    assert (driver.version, driver.cuda) == ("580.159.04", "13.0")
    assert NvmlProbe(FakePynvml(nvmlSystemGetCudaDriverVersion_v2=12040)).driver().cuda == "12.4"
    assert NvmlProbe(FakePynvml(missing=("nvmlSystemGetCudaDriverVersion_v2",))).driver().cuda == ""


def test_a_device_is_described():
    (device,) = NvmlProbe(FakePynvml(nvmlDeviceGetName=b"NVIDIA H200")).devices()
    assert (device.index, device.uuid, device.name) == (0, "GPU-76c34910", "NVIDIA H200")
    assert (device.compute_capability, device.is_ecc, device.is_mig, device.is_display) == ("9.0", True, False, False)
    assert (device.driver_model, device.virtualization) == ("WDDM", "passthrough")
    assert (device.pcie_generation, device.pcie_lane_count_max) == (5, 16)


OPTIONAL = (
    "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetEccMode", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetCurrentDriverModel", "nvmlDeviceGetVirtualizationMode", "nvmlDeviceGetDisplayActive",
    "nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth", "nvmlDeviceGetMaxClockInfo",
)  # fmt: skip


@pytest.mark.parametrize("how", ["refused", "missing"])
def test_what_a_card_does_not_answer_is_none(how: str):
    kept: Any = dict.fromkeys(OPTIONAL, "NotSupported") if how == "refused" else OPTIONAL
    (device,) = NvmlProbe(FakePynvml(**{how: kept})).devices()
    described = (
        device.compute_capability, device.core_count, device.is_ecc, device.is_mig, device.driver_model, device.virtualization,
        device.is_display, device.pcie_generation, device.pcie_lane_count, device.pcie_generation_max,
        device.pcie_lane_count_max, device.sm_clock_max_mhz, device.video_clock_max_mhz,
    )  # fmt: skip
    assert set(described) == {None}


def test_memory_is_read_by_the_second_structure_or_by_the_first():
    new, old = NvmlProbe(FakePynvml()), NvmlProbe(FakePynvml(refused={"nvmlDeviceGetMemoryInfo_v2": "FunctionNotFound"}))
    (device,) = new.devices()
    assert (new.memory(device).reserved_bytes, new.memory(device).used_bytes) == (644_939_776, 0)
    assert (old.memory(device).reserved_bytes, old.memory(device).used_bytes) == (None, 644_939_776)


def test_memory_that_is_not_supported_is_a_machine_error():
    refused = dict.fromkeys(("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"), "NotSupported")
    probe = NvmlProbe(FakePynvml(refused=refused))
    with pytest.raises(MachineError, match="NotSupported"):
        probe.memory(probe.devices()[0])


def test_a_program_that_computes_and_draws_is_one_process():
    entry = SimpleNamespace(pid=2**22 + 1, usedGpuMemory=641_728_512)
    silent = SimpleNamespace(pid=2**22 + 2, usedGpuMemory=None)
    probe = NvmlProbe(
        FakePynvml(nvmlDeviceGetComputeRunningProcesses=[entry, silent], nvmlDeviceGetGraphicsRunningProcesses=[entry])
    )
    assert probe.processes(probe.devices()[0]) == (
        GpuProcess(pid=2**22 + 1, name="", used_bytes=641_728_512),
        GpuProcess(pid=2**22 + 2, name="", used_bytes=None),
    )


def test_activity_is_in_ratios_bytes_and_watts():
    probe = NvmlProbe(FakePynvml())
    activity = probe.activity(probe.devices()[0])
    assert (activity.sm_ratio, activity.memory_ratio, activity.decoder_ratio) == (0.97, 0.4, 0.12)
    assert activity.pcie_to_gpu_bytes_per_s == 1441 * 1024
    assert (activity.power_w, activity.throttle) == (128.0, ("power cap",))


def test_activity_that_nobody_tells_is_none_not_zero():
    names = (
        "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetDecoderUtilization", "nvmlDeviceGetEncoderUtilization",
        "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetPcieThroughput",
        "nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature",
    )  # fmt: skip
    probe = NvmlProbe(FakePynvml(missing=names))
    activity = probe.activity(probe.devices()[0])
    assert activity == type(activity)()
