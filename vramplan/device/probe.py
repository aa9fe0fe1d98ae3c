"""What can be asked of a GPU while other programs run on it, as a small protocol: NVML behind it, or a recording of it.

Bytes are those of NVML's second memory structure: ``used_bytes`` is without what the driver keeps for itself, so an idle card
reads 0 (the first structure counts 615 MiB of an idle H200 as used).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """``version`` as nvidia-smi prints it; ``cuda`` the newest CUDA it can serve, such as ``13.0``."""

    version: str
    cuda: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One card's memory. ``reserved_bytes`` is what the driver keeps, None where it does not tell it apart.

    Invariant: no count is negative.
    """

    total_bytes: int
    reserved_bytes: int | None
    used_bytes: int
    free_bytes: int

    def __post_init__(self) -> None:
        if min(self.total_bytes, self.reserved_bytes or 0, self.used_bytes, self.free_bytes) < 0:
            raise ValueError(f"not a memory reading: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that holds memory of the card. ``used_bytes`` is None where the driver does not say (WDDM, containers)."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as the driver describes it. None is unknown or not supported, never zero or no.

    ``index`` is NVML's, which is the order of nvidia-smi; CUDA may count differently, ``uuid`` is the same everywhere.
    ``driver_model`` is WDDM, TCC or MCDM on Windows. PCIe: generation and lanes, now and at most.
    """

    index: int
    uuid: str
    name: str
    compute_capability: str | None = None
    core_count: int | None = None
    is_ecc: bool | None = None
    is_mig: bool | None = None
    is_display: bool | None = None
    driver_model: str | None = None
    virtualization: str | None = None
    pcie_generation: int | None = None
    pcie_lane_count: int | None = None
    pcie_generation_max: int | None = None
    pcie_lane_count_max: int | None = None
    sm_clock_max_mhz: int | None = None
    video_clock_max_mhz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """How busy the card was over the driver's last sampling period. Ratios are 0 to 1, rates bytes a second.

    ``throttle`` names why clocks are held down, such as ``power cap``; empty when they are not.
    """

    sm_ratio: float | None = None
    memory_ratio: float | None = None
    decoder_ratio: float | None = None
    encoder_ratio: float | None = None
    pcie_to_gpu_bytes_per_s: int | None = None
    pcie_from_gpu_bytes_per_s: int | None = None
    sm_clock_mhz: int | None = None
    video_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()


class Probe(Protocol):
    """Asks about the GPUs of this machine. Every method may raise `MachineError`, with what to do about it."""

    def driver(self) -> Driver:
        """The driver's version."""

    def devices(self) -> tuple[Device, ...]:
        """All GPUs, in NVML's order."""

    def memory(self, device: Device) -> Memory:
        """Its memory now."""

    def processes(self, device: Device) -> tuple[GpuProcess, ...]:
        """Who holds memory of it now: compute and graphics programs."""

    def activity(self, device: Device) -> Activity:
        """How busy it is now."""
