"""How much of a card CUDA can allocate when nothing else runs on it.

The size on the box is not it: nvidia-smi shows a little less, inline ECC takes a sixteenth, and the Linux driver keeps
some hundred MiB that ``cudaMemGetInfo`` does not count. Each rule below is used only where no better fact is known.
"""

from __future__ import annotations

import functools
import math

from vramplan.gpus.catalogue import Gpu, all_gpus
from vramplan.gpus.medians import lower_median
from vramplan.ranges import Evidence, Range
from vramplan.units import GIB, MIB, format_bytes

_DRIVER_DRIFT_BYTES = 130 * MIB
"""Readings of one card move with the driver: an RTX 4090 gave 24,080 and 24,210 MiB in its catalogue row."""

_NEIGHBOUR_COUNT = 7
"""The driver keeps more on larger cards, so a card is compared with the few known ones nearest in size."""

_SHARED_LOW_BYTES, _SHARED_NOMINAL_BYTES, _SHARED_HIGH_BYTES = 2 * GIB, 1 * GIB, GIB // 2
"""What the operating system and the CPU side of the program take from shared memory: an assumption, from a headless
system with a small program (0.5 GiB) to a desktop with a large one (2 GiB)."""


def usable_bytes(gpu: Gpu) -> Range:
    """The bytes that CUDA can allocate on *gpu* when it is idle, contexts included."""
    return _usable(gpu)[0]


def usable_reason(gpu: Gpu) -> str:
    """One sentence: the rule and the facts behind `usable_bytes`."""
    return _usable(gpu)[1]


def _usable(gpu: Gpu) -> tuple[Range, str]:
    if gpu.family == "custom":
        return _given(gpu)
    if gpu.unified_memory:
        return _from_shared(gpu)
    if gpu.cuda_visible_total_bytes is not None:
        return _from_cuda_visible(gpu, gpu.cuda_visible_total_bytes)
    if gpu.nvidia_smi_total_bytes is not None:
        return _from_nvidia_smi(gpu, gpu.nvidia_smi_total_bytes)
    return _from_marketed(gpu)


def _given(gpu: Gpu) -> tuple[Range, str]:
    size = gpu.vram_marketed_bytes
    reason = "The size that was given is taken as what CUDA can allocate."
    return Range(low_bytes=size, nominal_bytes=size, high_bytes=size, evidence=Evidence.ASSUMED), reason


def _from_cuda_visible(gpu: Gpu, visible: int) -> tuple[Range, str]:
    ceiling = gpu.nvidia_smi_total_bytes or gpu.vram_marketed_bytes
    reason = f"CUDA sees {format_bytes(visible)} (catalogue), give or take 130 MiB by driver version."
    return Range(
        low_bytes=visible - _DRIVER_DRIFT_BYTES,
        nominal_bytes=visible,
        high_bytes=min(visible + _DRIVER_DRIFT_BYTES, ceiling),
        evidence=Evidence.CATALOGUE,
    ), reason


def _from_nvidia_smi(gpu: Gpu, total: int) -> tuple[Range, str]:
    hidden = _hidden_bytes()
    near = lower_median(_nearest(gpu.vram_marketed_bytes))
    reason = (
        f"nvidia-smi shows {format_bytes(total)}; on Linux the driver keeps {hidden[0] // MIB} to {hidden[-1] // MIB} MiB of it"
        f" on the {len(hidden)} cards where that is known, {near // MIB} MiB being typical of this size."
    )
    low, nominal, high = total - hidden[-1], total - near, total - hidden[0]
    return Range(low_bytes=low, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED), reason


def _from_marketed(gpu: Gpu) -> tuple[Range, str]:
    board = gpu.vram_marketed_bytes
    with_ecc = board * 15 // 16 if inline_ecc_by_default(gpu) else board
    hidden = _hidden_bytes()
    shortfall = _shortfall_ratios()
    ecc = " less the sixteenth that inline ECC takes (the high end is with ECC off)" if with_ecc < board else ""
    reason = (
        f"Only the marketed {format_bytes(board)} is known: that{ecc}, less what other cards of the catalogue lose between"
        f" the box, nvidia-smi and CUDA on Linux."
    )
    low = with_ecc - math.ceil(with_ecc * shortfall[-1]) - hidden[-1]
    nominal = with_ecc - math.ceil(with_ecc * lower_median(shortfall)) - lower_median(_nearest(board))
    return Range(low_bytes=low, nominal_bytes=nominal, high_bytes=board - hidden[0], evidence=Evidence.BOUNDED), reason


def _from_shared(gpu: Gpu) -> tuple[Range, str]:
    ratios = _shared_visible_ratios()
    marketed = gpu.vram_marketed_bytes
    known = gpu.cuda_visible_total_bytes
    low, nominal, high = (known or math.floor(marketed * ratio) for ratio in (ratios[0], lower_median(ratios), ratios[-1]))
    reason = (
        f"CPU and GPU share {format_bytes(marketed)}, of which the system sees about {format_bytes(nominal)}; 0.5 to 2 GiB,"
        " 1 GiB nominally, is assumed to go to the operating system and the CPU side of the program."
    )
    return Range(
        low_bytes=max(0, low - _SHARED_LOW_BYTES),
        nominal_bytes=max(0, nominal - _SHARED_NOMINAL_BYTES),
        high_bytes=max(0, high - _SHARED_HIGH_BYTES),
        evidence=Evidence.ASSUMED,
    ), reason


def inline_ecc_by_default(gpu: Gpu) -> bool:
    """Whether the card ships with ECC on and keeps the check bits in its own memory, which costs exactly 1/16.

    Data centre boards with GDDR5 or GDDR6 do (T4: 15360 of 16384 MiB; P4, P40, A10, A40, L4 and L40S alike). HBM has
    room of its own for the bits, workstation boards ship with ECC off (RTX A6000: 49140 MiB, 46068 once it is on), and
    GeForce boards have none that a default turns on.
    """
    return gpu.family == "datacenter" and gpu.memory_type in ("GDDR5", "GDDR6")


@functools.cache
def _hidden_pairs() -> tuple[tuple[int, int], ...]:
    """(marketed bytes, bytes that nvidia-smi counts and CUDA does not) of the cards where that is known.

    Where nvidia-smi's total is not known the marketed size stands for it: without inline ECC it is at most 0.6 % less.
    """
    return tuple(
        (gpu.vram_marketed_bytes, (gpu.nvidia_smi_total_bytes or gpu.vram_marketed_bytes) - gpu.cuda_visible_total_bytes)
        for gpu in all_gpus()
        if gpu.cuda_visible_total_bytes is not None
        and not gpu.unified_memory
        and (gpu.nvidia_smi_total_bytes is not None or not inline_ecc_by_default(gpu))
    )


def _hidden_bytes() -> list[int]:
    return sorted(hidden for _, hidden in _hidden_pairs())


def _nearest(marketed_bytes: int) -> list[int]:
    by_size = sorted(_hidden_pairs(), key=lambda pair: (abs(math.log(pair[0] / marketed_bytes)), pair[1]))
    return [hidden for _, hidden in by_size[:_NEIGHBOUR_COUNT]]


@functools.cache
def _shortfall_ratios() -> tuple[float, ...]:
    """The share of the marketed size, after inline ECC, that nvidia-smi does not show; ascending."""
    ratios = []
    for gpu in all_gpus():
        if gpu.nvidia_smi_total_bytes is not None:
            board = gpu.vram_marketed_bytes * (15 / 16 if inline_ecc_by_default(gpu) else 1)
            ratios.append(1 - gpu.nvidia_smi_total_bytes / board)
    return tuple(sorted(ratios))


@functools.cache
def _shared_visible_ratios() -> tuple[float, ...]:
    """The share of the marketed size that CUDA sees where CPU and GPU share memory; ascending."""
    return tuple(
        sorted(
            gpu.cuda_visible_total_bytes / gpu.vram_marketed_bytes
            for gpu in all_gpus()
            if gpu.unified_memory and gpu.cuda_visible_total_bytes is not None
        )
    )
