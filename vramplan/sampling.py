"""Looks at a GPU again and again: which one, for which process, and one sample at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vramplan.device.probe import Device, Probe
from vramplan.device.reporter import read_report
from vramplan.device.this_gpu import visible_device
from vramplan.errors import MeasurementError, UsageError
from vramplan.gpus.link import link_bytes_per_s
from vramplan.watching import Sample

_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A GPU, and the process that is watched on it; ``pid`` is None when the whole card is."""

    device: Device
    pid: int | None = None

    @property
    def link_bytes_per_s(self) -> int | None:
        """What its link carries: the highest generation, which an idle card lowers, and the lanes of now, which it does not."""
        generation = self.device.pcie_generation_max or self.device.pcie_generation
        return link_bytes_per_s(generation, self.device.pcie_lane_count or self.device.pcie_lane_count_max)


class ProcessEnded(Exception):  # noqa: N818  no fault: what is watched may end
    """The process holds no memory of the GPU any more."""


def find_target(probe: Probe, *, pid: int | None = None, gpu_index: int | None = None) -> Target:
    """What to watch: process *pid* on the GPU where it is, or number *gpu_index*, else the first visible one.

    Raises `UsageError` for a number that is no GPU or no process, `MeasurementError` for a process that is not on it.
    """
    is_one = gpu_index is not None or pid is None
    devices = (visible_device(probe, os.environ, index=gpu_index),) if is_one else probe.devices()
    if pid is None:
        return Target(device=devices[0])
    if not process_exists(pid):
        raise UsageError(f"there is no process {pid}", hint=_who_is_there(probe, devices))
    for device in devices:
        if any(process.pid == pid for process in probe.processes(device)):
            return Target(device=device, pid=pid)
    where = f"GPU {gpu_index}" if gpu_index is not None else "any GPU"
    raise MeasurementError(f"process {pid} holds no memory of {where}", hint=_who_is_there(probe, devices))


def process_exists(pid: int) -> bool:
    """Whether *pid* runs; on Windows, where asking would end it, yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def take(probe: Probe, target: Target, time_s: float) -> Sample:
    """One sample. Raises `ProcessEnded` when the process has left the GPU, `MachineError` when the driver fails."""
    device, pid = target.device, target.pid
    process_bytes = None
    if pid is not None:
        found = [process for process in probe.processes(device) if process.pid == pid]
        if not found:
            raise ProcessEnded
        process_bytes = found[0].used_bytes
    return Sample(
        time_s=time_s,
        used_bytes=probe.memory(device).used_bytes,
        activity=probe.activity(device),
        process_bytes=process_bytes,
        link_bytes_per_s=target.link_bytes_per_s,
        torch=None if pid is None else read_report(pid, device.uuid),
    )


def samples(
    probe: Probe,
    target: Target,
    *,
    interval_s: float,
    seconds: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sample]:
    """A sample every *interval_s* seconds, for *seconds* or until the process leaves the GPU. The first comes at once."""
    start_s = clock()
    while seconds is None or clock() - start_s < seconds:
        begun_s = clock()
        try:
            yield take(probe, target, begun_s - start_s)
        except ProcessEnded:
            return
        sleep(max(0.0, interval_s - (clock() - begun_s)))


def _who_is_there(probe: Probe, devices: tuple[Device, ...]) -> str:
    found = [f"{process.pid} {process.name}".strip() for device in devices for process in probe.processes(device)]
    if not found:
        return (
            "No process is on it now. Start watch once the program uses the GPU, or leave --pid out to watch the card; "
            "in a container the driver may not name processes."
        )
    return "On it are: " + ", ".join(found[:_LISTED])
