"""NVML behind the `Probe` protocol. The only module that imports pynvml (the package nvidia-ml-py)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vramplan.device.probe import Activity, Device, Driver, GpuProcess, Memory
from vramplan.errors import MachineError
from vramplan.units import KIB

T = TypeVar("T")

_DOCTOR = "`vramplan doctor` says what this machine has and what is missing."

_HINTS = {
    "LibraryNotFound": "There is no NVIDIA driver here (libnvidia-ml.so.1): install it; in a container start with --gpus all.",
    "DriverNotLoaded": "The driver's kernel module is not loaded: `sudo modprobe nvidia`, or restart after an update.",
    "LibRmVersionMismatch": "The driver was updated while it ran: restart the machine.",
    "NoPermission": "This user may not ask the driver: check the permissions of /dev/nvidia*.",
    "GpuIsLost": "The GPU fell off the bus: restart the machine, and look into `dmesg`.",
    "ResetRequired": "The GPU needs a reset: `sudo nvidia-smi --gpu-reset`, or restart.",
    "IrqIssue": "The kernel does not deliver the GPU's interrupts: look into `dmesg`.",
    "Timeout": "The driver did not answer in time: is another program resetting the GPU?",
    "InsufficientPower": "The GPU's power cables are not plugged in.",
    "FunctionNotFound": "The driver is too old for this question: 515 or newer is needed.",
}
"""What to do, by the name of pynvml's exception (``NVMLError_<name>``)."""

_VIRTUALIZATION = {1: "passthrough", 2: "vGPU", 3: "vGPU host", 4: "vGPU host"}
_DRIVER_MODELS = {0: "WDDM", 1: "TCC", 2: "MCDM"}

_THROTTLE = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal limit", 0x40: "thermal limit (hardware)",
    0x80: "power brake (hardware)",
}  # fmt: skip
"""Reasons of nvml.h that hold clocks down against the program's will."""


def open_probe() -> NvmlProbe:
    """NVML of this machine. `MachineError` when the package, the driver or a GPU is missing, with what to do."""
    try:
        import pynvml  # noqa: PLC0415  only who asks the GPU pays for it
    except ImportError:
        raise MachineError("the package nvidia-ml-py is not installed", hint="Type: pip install nvidia-ml-py") from None
    probe = NvmlProbe(pynvml)
    if not probe.devices():
        raise MachineError("the NVIDIA driver sees no GPU", hint=_DOCTOR)
    return probe


class NvmlProbe:
    """Asks NVML through *library*, the module pynvml. It is initialised once and shut down with the process."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        self._ask(library.nvmlInit)

    def driver(self) -> Driver:
        """The driver's version."""
        version = _text(self._ask(self._nvml.nvmlSystemGetDriverVersion))
        cuda = self._maybe(lambda: self._nvml.nvmlSystemGetCudaDriverVersion_v2())  # noqa: PLW0108  an old pynvml has none
        return Driver(version=version, cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "")

    def devices(self) -> tuple[Device, ...]:
        """All GPUs, in NVML's order."""
        return tuple(map(self._device, range(self._ask(self._nvml.nvmlDeviceGetCount))))

    def memory(self, device: Device) -> Memory:
        """Its memory now, by the second structure; by the first where the driver has no other."""
        nvml, handle = self._nvml, self._handle(device)
        reading = self._maybe(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
        reserved = None if reading is None else int(reading.reserved)
        if reading is None:
            reading = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return Memory(
            total_bytes=int(reading.total),
            reserved_bytes=reserved,
            used_bytes=int(reading.used),
            free_bytes=int(reading.free),
        )

    def processes(self, device: Device) -> tuple[GpuProcess, ...]:
        """Who holds memory of it now; a program that computes and draws is one."""
        nvml, handle = self._nvml, self._handle(device)
        found: dict[int, int | None] = {}
        for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            for entry in self._maybe(functools.partial(ask, handle)) or ():
                found[int(entry.pid)] = entry.usedGpuMemory
        return tuple(
            GpuProcess(pid=pid, name=_process_name(pid), used_bytes=None if used is None else int(used))
            for pid, used in sorted(found.items())
        )

    def activity(self, device: Device) -> Activity:
        """How busy it is now."""
        nvml, handle = self._nvml, self._handle(device)
        busy = self._maybe(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        decoder = self._maybe(lambda: nvml.nvmlDeviceGetDecoderUtilization(handle))
        encoder = self._maybe(lambda: nvml.nvmlDeviceGetEncoderUtilization(handle))
        reasons = self._maybe(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
        power_mw = self._maybe(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return Activity(
            sm_ratio=None if busy is None else busy.gpu / 100,
            memory_ratio=None if busy is None else busy.memory / 100,
            decoder_ratio=None if decoder is None else decoder[0] / 100,
            encoder_ratio=None if encoder is None else encoder[0] / 100,
            pcie_to_gpu_bytes_per_s=self._pcie(handle, nvml.NVML_PCIE_UTIL_RX_BYTES),
            pcie_from_gpu_bytes_per_s=self._pcie(handle, nvml.NVML_PCIE_UTIL_TX_BYTES),
            sm_clock_mhz=self._maybe(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            video_clock_mhz=self._maybe(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_VIDEO)),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=self._maybe(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            throttle=tuple(name for bit, name in _THROTTLE.items() if reasons & bit),
        )

    def _device(self, index: int) -> Device:
        nvml = self._nvml
        handle = self._ask(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        capability = self._maybe(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
        ecc = self._maybe(lambda: nvml.nvmlDeviceGetEccMode(handle))
        mig = self._maybe(lambda: nvml.nvmlDeviceGetMigMode(handle))
        model = self._maybe(lambda: nvml.nvmlDeviceGetCurrentDriverModel(handle))
        virtual = self._maybe(lambda: nvml.nvmlDeviceGetVirtualizationMode(handle))
        display = self._maybe(lambda: nvml.nvmlDeviceGetDisplayActive(handle))
        return Device(
            index=index,
            uuid=_text(self._ask(lambda: nvml.nvmlDeviceGetUUID(handle))),
            name=_text(self._ask(lambda: nvml.nvmlDeviceGetName(handle))),
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
            core_count=self._maybe(lambda: nvml.nvmlDeviceGetNumGpuCores(handle)),
            is_ecc=None if ecc is None else bool(ecc[0]),
            is_mig=None if mig is None else bool(mig[0]),
            is_display=None if display is None else bool(display),
            driver_model=_DRIVER_MODELS.get(_first(model)) if model is not None else None,
            virtualization=_VIRTUALIZATION.get(virtual) if virtual is not None else None,
            pcie_generation=self._maybe(lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
            pcie_lane_count=self._maybe(lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
            pcie_generation_max=self._maybe(lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
            pcie_lane_count_max=self._maybe(lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
            sm_clock_max_mhz=self._maybe(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            video_clock_max_mhz=self._maybe(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_VIDEO)),
        )

    def _pcie(self, handle: Any, counter: int) -> int | None:
        """Bytes a second over the last 20 ms; NVML counts in KB, which are KiB."""
        rate = self._maybe(lambda: self._nvml.nvmlDeviceGetPcieThroughput(handle, counter))
        return None if rate is None else rate * KIB

    def _handle(self, device: Device) -> Any:
        return self._ask(lambda: self._nvml.nvmlDeviceGetHandleByUUID(device.uuid))

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, or `MachineError` in the words of NVML."""
        try:
            return question()
        except self._nvml.NVMLError as error:
            name = type(error).__name__.removeprefix("NVMLError_")
            raise MachineError(f"NVML: {str(error)[:200]} ({name})", hint=_HINTS.get(name, _DOCTOR)) from None

    def _maybe(self, question: Callable[[], Any]) -> Any:
        """The answer, or None where this card or driver has none."""
        with contextlib.suppress(self._nvml.NVMLError, AttributeError):
            return question()
        return None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def _text(value: str | bytes) -> str:
    """Old versions of pynvml answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _process_name(pid: int) -> str:
    """Its command; empty where the process belongs to another user or another container."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
