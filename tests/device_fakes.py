"""A GPU that is not there: `FakeProbe` answers what a test says, in the protocol of `vramplan.device.probe`.

The values of ``H200`` and its memory were read from one with driver 580.159.04.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vramplan.device.probe import Activity, Device, Driver, GpuProcess, Memory

DRIVER = Driver(version="580.159.04", cuda="13.0")

H200 = Device(
    index=0,
    uuid="GPU-76c34910-8f16-8d1f-898e-d91af8d97654",
    name="NVIDIA H200",
    compute_capability="9.0",
    core_count=16896,
    is_ecc=True,
    is_mig=False,
    is_display=False,
    virtualization="passthrough",
    pcie_generation=5,
    pcie_lane_count=16,
    pcie_generation_max=5,
    pcie_lane_count_max=16,
    sm_clock_max_mhz=1980,
    video_clock_max_mhz=1545,
)
H200_IDLE = Memory(total_bytes=150_754_820_096, reserved_bytes=644_939_776, used_bytes=0, free_bytes=150_109_880_320)

RTX_3090 = replace(
    H200,
    index=1,
    uuid="GPU-11111111-2222-3333-4444-555555555555",
    name="NVIDIA GeForce RTX 3090",
    compute_capability="8.6",
    core_count=10496,
    is_ecc=False,
    is_mig=None,
    is_display=True,
    virtualization=None,
    pcie_generation=1,
    pcie_generation_max=4,
    sm_clock_max_mhz=2100,
    video_clock_max_mhz=1950,
)

IDLE = Activity(
    sm_ratio=0.0,
    memory_ratio=0.0,
    decoder_ratio=0.0,
    encoder_ratio=0.0,
    pcie_to_gpu_bytes_per_s=601 << 10,
    pcie_from_gpu_bytes_per_s=1441 << 10,
    sm_clock_mhz=345,
    video_clock_mhz=765,
    power_w=76.0,
    temperature_c=39,
)


def with_used(memory: Memory, used_bytes: int) -> Memory:
    """*memory* of an idle card when programs hold *used_bytes* of it."""
    return replace(memory, used_bytes=used_bytes, free_bytes=memory.free_bytes - used_bytes)


class FakeProbe:
    """Answers by *driver*, *devices*, *memory*, *processes* and *activity*.

    Each is one answer, or a list: a script of one answer a question, of which the last stays. An exception among the answers is
    raised. *memory*, *processes* and *activity* may be a dict of these by the card's UUID. ``asked`` lists the questions.
    """

    def __init__(
        self,
        *,
        driver: Any = DRIVER,
        devices: Any = (H200,),
        memory: Any = H200_IDLE,
        processes: Any = (),
        activity: Any = IDLE,
    ) -> None:
        self._answers = {"driver": driver, "devices": devices, "memory": memory, "processes": processes, "activity": activity}
        self._scripts: dict[tuple[str, str], Iterator[Any]] = {}
        self.asked: list[str] = []

    def driver(self) -> Driver:
        return self._answer("driver")

    def devices(self) -> tuple[Device, ...]:
        return self._answer("devices")

    def memory(self, device: Device) -> Memory:
        return self._answer("memory", device.uuid)

    def processes(self, device: Device) -> tuple[GpuProcess, ...]:
        return self._answer("processes", device.uuid)

    def activity(self, device: Device) -> Activity:
        return self._answer("activity", device.uuid)

    def _answer(self, question: str, uuid: str = "") -> Any:
        self.asked.append(question)
        given = self._answers[question]
        given = given[uuid] if isinstance(given, dict) else given
        if isinstance(given, list):
            given = next(self._scripts.setdefault((question, uuid), _last_stays(given)))
        if isinstance(given, BaseException):
            raise given
        return given


def _last_stays(script: list[Any]) -> Iterator[Any]:
    yield from script
    while True:
        yield script[-1]
