"""The GPU of this machine: which one CUDA would use, and which card of the catalogue it is."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

from vramplan.device.probe import Device, Probe
from vramplan.errors import MachineError, UsageError, printable
from vramplan.gpus import Gpu, find_gpu
from vramplan.units import GIB

AUTO = "auto"
"""The name of this machine's own card, wherever a card is named."""

_LOG = logging.getLogger("vramplan")

_ALIKE_RATIO = 0.9
"""nvidia-smi shows at least this share of the marketed memory on every card of the catalogue that has a reading: less, or more
than all of it, is another card of the same name (a modified one, a slice of one)."""


def this_gpu(probe: Probe | None = None, *, environment: Mapping[str, str] = os.environ) -> Gpu:
    """The card that CUDA would use here.

    Raises `MachineError` when there is no driver, no GPU, or CUDA_VISIBLE_DEVICES hides them all.
    """
    if probe is None:
        from vramplan.device.nvml import open_probe  # noqa: PLC0415  only who asks the GPU pays for it

        probe = open_probe()
    device = visible_device(probe, environment)
    others = {other.name for other in probe.devices()} - {device.name}
    if others and environment.get("CUDA_VISIBLE_DEVICES") is None:
        _LOG.warning(
            "note: of several different GPUs this is about number %d, %s; CUDA_VISIBLE_DEVICES=1 chooses another",
            device.index,
            printable(device.name)[:80],
        )
    return gpu_of(probe, device)


def find_card(name: str) -> Gpu:
    """The card that *name* means: this machine's for ``auto``, else the catalogue's. Errors as `this_gpu` and `find_gpu`."""
    return this_gpu() if name.strip().lower() == AUTO else find_gpu(name)


def visible_device(probe: Probe, environment: Mapping[str, str], *, index: int | None = None) -> Device:
    """The GPU number *index* as nvidia-smi counts; without, the first that CUDA_VISIBLE_DEVICES leaves visible.

    Raises `UsageError` for a number that is none, `MachineError` when no GPU is visible.
    """
    devices = probe.devices()
    if not devices:
        raise MachineError("the NVIDIA driver sees no GPU", hint="`vramplan doctor` says what this machine has.")
    if index is not None:
        found = next((device for device in devices if device.index == index), None)
        if found is None:
            raise UsageError(f"there is no GPU number {index}", hint=f"There are: {_listed(devices)}")
        return found
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    return devices[0] if wanted is None else _visible(devices, wanted)


def gpu_of(probe: Probe, device: Device) -> Gpu:
    """The catalogue's card when name and memory agree; else a card of which only what the driver says is known.

    Raises `MachineError` for a card that is split into MIG instances: a program gets a part of it, and NVML shows the whole.
    """
    if device.is_mig:
        raise MachineError(
            f"GPU {device.index} ({printable(device.name)[:80]}) is split into MIG instances, and a program gets one of them",
            hint="Give the memory of the instance: --vram 20GiB (`nvidia-smi -L` lists them).",
        )
    total_bytes = probe.memory(device).total_bytes
    known = _of_the_catalogue(device.name, total_bytes)
    if known is not None and _ALIKE_RATIO * known.vram_marketed_bytes <= total_bytes <= known.vram_marketed_bytes:
        return known
    return Gpu(
        key=re.sub(r"[^a-z0-9]+", "-", device.name.lower())[:80].strip("-") or "gpu",
        name=printable(device.name)[:80],
        family=known.family if known else "unlisted",
        architecture=known.architecture if known else None,
        compute_capability=device.compute_capability,
        sm_count=known.sm_count if known and device.compute_capability == known.compute_capability else None,
        vram_marketed_bytes=total_bytes,
        nvidia_smi_total_bytes=total_bytes,
        pcie_generation=device.pcie_generation_max,
        pcie_lane_count=device.pcie_lane_count_max,
        video_clock_max_mhz=device.video_clock_max_mhz,
        source="read from the driver of this machine",
    )


def _of_the_catalogue(name: str, total_bytes: int) -> Gpu | None:
    """The card of that *name*; where cards of several sizes share it, the one of this size."""
    for words in (name, f"{name} {-(-total_bytes // GIB)}gb"):
        try:
            return find_gpu(words)
        except UsageError:
            continue
    return None


def _visible(devices: tuple[Device, ...], wanted: str) -> Device:
    """The first of CUDA_VISIBLE_DEVICES, by number or UUID (the start of one is enough), as CUDA reads it."""
    first = wanted.partition(",")[0].strip()
    for device in devices:
        if first == str(device.index) or (first.startswith("GPU-") and device.uuid.startswith(first)):
            return device
    raise MachineError(
        f"CUDA_VISIBLE_DEVICES is {wanted[:80]!r}, which leaves no GPU visible",
        hint=f"Unset it, or name one of: {_listed(devices)}",
    )


def _listed(devices: tuple[Device, ...]) -> str:
    return ", ".join(f"{device.index} ({device.name})" for device in devices)
