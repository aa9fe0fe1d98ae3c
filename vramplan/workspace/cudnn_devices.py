"""cuDNN's description of a device that is not there: what it needs to choose an engine, as JSON text.

The H200's is real, written by cuDNN 9.19 on one (driver 580.159). Every other is built: from the catalogue the compute
capability, multiprocessors, memory, clocks; from the architecture the rest. Keys that name a moment or a slot (PCI id, driver
version) are the H200's.

Sources of the constants: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (threads, blocks and
shared memory of a multiprocessor); NVIDIA's architecture white papers (L2 of the largest chip of each architecture).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from vramplan.gpus.catalogue import Gpu
from vramplan.units import KIB, MIB

_REAL = "h200-sxm"
_FIRST_CAPABILITY = (7, 5)
"""cuDNN 9 for CUDA 13 starts with Turing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """Limits of one multiprocessor, and the L2 cache; Invariant: all are positive but the reserved bytes."""

    thread_count: int
    block_count: int
    shared_bytes: int
    reserved_bytes: int = KIB
    l2_bytes: int


_ARCHITECTURES = {
    (7, 5): _Architecture(thread_count=1024, block_count=16, shared_bytes=64 * KIB, reserved_bytes=0, l2_bytes=4 * MIB),
    (8, 0): _Architecture(thread_count=2048, block_count=32, shared_bytes=163 * KIB, l2_bytes=40 * MIB),
    (8, 6): _Architecture(thread_count=1536, block_count=16, shared_bytes=99 * KIB, l2_bytes=6 * MIB),
    (8, 7): _Architecture(thread_count=1536, block_count=16, shared_bytes=163 * KIB, l2_bytes=4 * MIB),
    (8, 9): _Architecture(thread_count=1536, block_count=24, shared_bytes=99 * KIB, l2_bytes=72 * MIB),
    (9, 0): _Architecture(thread_count=2048, block_count=32, shared_bytes=227 * KIB, l2_bytes=50 * MIB),
    (10, 0): _Architecture(thread_count=2048, block_count=32, shared_bytes=227 * KIB, l2_bytes=126 * MIB),
    (11, 0): _Architecture(thread_count=1536, block_count=24, shared_bytes=227 * KIB, l2_bytes=32 * MIB),
    (12, 0): _Architecture(thread_count=1536, block_count=24, shared_bytes=99 * KIB, l2_bytes=96 * MIB),
    (12, 1): _Architecture(thread_count=1536, block_count=24, shared_bytes=99 * KIB, l2_bytes=24 * MIB),
}


def capability_of(gpu: Gpu) -> tuple[int, int] | None:
    """Compute capability as numbers; None when the catalogue has none, or the card is not NVIDIA's."""
    major, dot, minor = (gpu.compute_capability or "").partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def is_described(gpu: Gpu) -> bool:
    """Whether cuDNN can be asked about *gpu*: Turing or newer, with its multiprocessors known."""
    capability = capability_of(gpu)
    return (
        capability is not None and capability >= _FIRST_CAPABILITY and capability in _ARCHITECTURES and gpu.sm_count is not None
    )


def has_real_description(gpu: Gpu) -> bool:
    """Whether the description of *gpu* was read from such a card."""
    return gpu.key == _REAL


@functools.cache
def _template() -> dict[str, object]:
    text = Path(__file__).with_name("cudnn_device_h200.json").read_text(encoding="utf-8")
    template: dict[str, object] = json.loads(text)
    return template


def device_json(gpu: Gpu) -> str:
    """The description of *gpu*, for which `is_described` holds."""
    if has_real_description(gpu):
        return json.dumps(_template())
    capability = capability_of(gpu) or _FIRST_CAPABILITY
    limits = _ARCHITECTURES[capability]
    clock_khz = int((gpu.boost_mhz or 1_700) * 1_000)
    return json.dumps(
        _template()
        | {
            "deviceVer": capability[0] * 100 + capability[1] * 10,
            "deviceName": f"NVIDIA {gpu.name.removeprefix('NVIDIA ')}",
            "multiProcessorCount": gpu.sm_count,
            "totalGlobalMem": gpu.cuda_visible_total_bytes or gpu.nvidia_smi_total_bytes or gpu.vram_marketed_bytes,
            "smClockRateKHz": clock_khz,
            "memClockRateKHz": _memory_clock_khz(gpu),
            "l2CacheSize": limits.l2_bytes,
            "maxThreadsPerSM": limits.thread_count,
            "maxCtasPerSM": limits.block_count,
            "maxSharedMemoryPerBlockOptin": limits.shared_bytes,
            "reservedSharedMemoryPerBlock": limits.reserved_bytes,
        }
    )


def _memory_clock_khz(gpu: Gpu) -> int:
    """As the driver reports it: HBM near 1.6 to 3.2 GHz, GDDR6 and GDDR6X near 7 to 10.5 GHz, GDDR7 near 14 GHz."""
    kind = gpu.memory_type or ""
    clocks = {"HBM3e": 3_201_000, "HBM3": 2_619_000, "HBM2e": 1_593_000, "HBM2": 1_215_000, "GDDR7": 14_001_000,
              "GDDR6X": 9_751_000, "GDDR6": 7_001_000, "GDDR5": 4_001_000}  # fmt: skip
    return clocks.get(kind, 4_266_000)
