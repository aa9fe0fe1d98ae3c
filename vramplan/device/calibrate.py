"""Calibrates this machine's GPU: a child process measures, the driver is read at its barriers, and a `Calibration` comes out.

Whatever the child reports goes through the reader of the file format: nothing is kept that could not be read back.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vramplan.device.child import Child, Message, OutOfMemoryResult, child_environment, module_command
from vramplan.device.probe import Device, GpuProcess, Probe
from vramplan.device.this_gpu import gpu_of
from vramplan.errors import MeasurementError, VramplanError, printable
from vramplan.gpus.calibration import FORMAT, SCHEMA_VERSION, Calibration, calibration_of
from vramplan.progress import tell, tell_detail
from vramplan.strict_json import MAX_TEXT_CHARS
from vramplan.units import GIB, format_bytes

if TYPE_CHECKING:
    from vramplan.device.decode import DecodeRate

CHILD = "vramplan.device.calibrate_child"

LEAST_FREE_BYTES = 4 * GIB
"""Below this the matrices and copies become so small that their rates say little."""


IDLE_RATIO = 0.05
"""A desktop that redraws a clock keeps a card busy for less of its time than this."""

_LOOK_COUNT, _LOOK_S = 4, 0.25
"""The driver averages over a sixth of a second to a second: looks at a card that may be at rest between two frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What was measured, and which other processes held memory of the card meanwhile."""

    calibration: Calibration
    others: tuple[GpuProcess, ...]


def calibrate(
    probe: Probe,
    device: Device,
    *,
    timeout_s: float,
    force: bool = False,
    command_line: str = "vramplan calibrate",
    command: Sequence[str] | None = None,
) -> Calibrated:
    """Measure *device*; nothing of it runs any more when this returns or raises.

    *command* starts the child (None: this Python), *command_line* is what is written down as the command.
    Raises `MeasurementError` when the card has less than 4 GiB free and not *force*, and for a child that crashes or hangs;
    `MachineError` when PyTorch sees no GPU.
    """
    free_bytes = probe.memory(device).free_bytes
    if free_bytes < LEAST_FREE_BYTES and not force:
        raise MeasurementError(
            f"not started: {format_bytes(free_bytes)} of {printable(device.name)[:80]} are free, less than 4 GiB",
            hint="End what holds the rest (`vramplan doctor` lists it), or add --force: rates may come out too low.",
        )
    tell("measuring this machine's GPU")
    run, deadline_s = _Run(probe, device, command_line), time.monotonic() + timeout_s
    environment = child_environment(os.environ, CUDA_VISIBLE_DEVICES=device.uuid, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    with Child(command or module_command(CHILD), {}, timeout_s=timeout_s, environment=environment) as child:
        try:
            for message in child.messages():
                run.take(message, child.pid)
        except MeasurementError as error:
            raise MeasurementError(error.message.replace("the model did", "the calibration did"), hint=error.hint) from None
        except OutOfMemoryResult as result:
            raise MeasurementError(
                f"the card had too little memory to measure: {printable(result.message)[:300]}",
                hint="End what holds the rest: `vramplan doctor` lists it.",
            ) from None
    run.add_decode(max(deadline_s - time.monotonic(), 0.0))
    return run.finished()


class _Run:
    """A calibration as it grows: the content of its file, to which every report of the child adds."""

    def __init__(self, probe: Probe, device: Device, command_line: str) -> None:
        self._probe, self._device = probe, device
        memory = probe.memory(device)
        self._before_bytes = memory.used_bytes
        self._others = probe.processes(device)
        self._others_bytes = _known_bytes(self._others)
        self._notes: list[str] = []
        self._content: dict[str, Any] = {
            "gpu": {
                "key": gpu_of(probe, device).key,
                "name": device.name,
                "compute_capability": device.compute_capability,
                "nvidia_smi_total_bytes": memory.total_bytes,
            },
            "environment": {
                "driver": probe.driver().version,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": command_line,
            },
            "context": [],
            "decode": [],
            "compute": [],
            "pcie": {},
            "disturbed": bool(self._others) and _is_busy(probe, device),
        }
        if self._others:
            self._notes.append(_others_note(len(self._others), is_busy=self._content["disturbed"]))

    def take(self, message: Message, pid: int) -> None:
        """One report of the child. `MeasurementError` for one that makes no sense."""
        try:
            self._take(message, pid)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"the child process reported what cannot be: {type(error).__name__}: {error}") from None

    def _take(self, message: Message, pid: int) -> None:
        content = self._content
        tell_detail(str(message.get("stage") or next(iter(message), "")).replace("_", " "))
        if "stage" in message:
            context_bytes = self._process_bytes(pid) - int(message["reserved_bytes"])
            content["context"].append({"runtime": "torch", "stage": message["stage"], "context_bytes": context_bytes})
        elif "environment" in message:
            content["environment"] |= message["environment"]
            content["gpu"] |= message["gpu"]
        elif "compute" in message:
            content["compute"] += [{"dtype": dtype, "tflops": _rounded(rate)} for dtype, rate in message["compute"].items()]
        elif "pcie" in message:
            content["pcie"] |= {name: _rounded(rate) for name, rate in message["pcie"].items()}
        elif "workspace_bytes" in message:
            content["cublas_workspace_bytes"] = message["workspace_bytes"] or None
        elif "memory_bandwidth_gb_s" in message:
            content["memory_bandwidth_gb_s"] = _rounded(message["memory_bandwidth_gb_s"])
        elif "note" in message:
            self._notes.append(str(message["note"]))

    def _process_bytes(self, pid: int) -> int:
        """What the card has less than before, without what other processes took meanwhile."""
        used_bytes = self._probe.memory(self._device).used_bytes
        others = tuple(other for other in self._probe.processes(self._device) if other.pid != pid)
        if {other.pid for other in others} - {other.pid for other in self._others}:
            self._content["disturbed"] = True
        return used_bytes - self._before_bytes - (_known_bytes(others) - self._others_bytes)

    def add_decode(self, timeout_s: float) -> None:
        """Decode rates, where this machine can measure them; why not, where it cannot."""
        from vramplan.device.decode import measure_decode  # noqa: PLC0415  most of its time is spent elsewhere

        try:
            rates = measure_decode(self._probe, self._device, timeout_s=timeout_s)
        except VramplanError as error:
            self._notes.append(f"decode rates were not measured: {error.message} {error.hint}".strip())
            return
        self._content["decode"] = list(map(_decode_row, rates))

    def finished(self) -> Calibrated:
        """The calibration. `MeasurementError` when what was reported makes none."""
        notes = [printable(note)[:MAX_TEXT_CHARS] for note in self._notes]
        gpu = self._content["gpu"]
        head = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
        content = {**head, **self._content, "gpu": {**gpu, "name": printable(gpu["name"])[:MAX_TEXT_CHARS]}, "notes": notes}
        try:
            calibration = calibration_of(content)
        except ValueError as error:
            raise MeasurementError(
                f"the measurement makes no calibration: {error}", hint="Run it again on an idle card."
            ) from None
        return Calibrated(calibration=calibration, others=self._others)


def _is_busy(probe: Probe, device: Device) -> bool:
    """Whether other programs compute or decode now; also where the driver does not say. An idle desktop does not disturb."""
    for _ in range(_LOOK_COUNT):
        activity = probe.activity(device)
        ratios = (activity.sm_ratio, activity.decoder_ratio)
        if activity.sm_ratio is None or any(ratio is not None and ratio > IDLE_RATIO for ratio in ratios):
            return True
        time.sleep(_LOOK_S)
    return False


def _others_note(count: int, *, is_busy: bool) -> str:
    what = "another process" if count == 1 else f"{count} other processes"
    return f"{what} held memory of the card and {'used it: rates are too low' if is_busy else 'left it idle'}"


def _decode_row(rate: DecodeRate) -> Mapping[str, Any]:
    return {
        "codec": rate.codec.value,
        "width": rate.width_px,
        "height": rate.height_px,
        "sessions": rate.session_count,
        "fps": _rounded(rate.fps),
        "session_bytes": rate.session_bytes,
        "decoder_ratio": rate.decoder_ratio,
    }


def _rounded(rate: Any) -> Any:
    """A rate in five digits, which is more than it is worth; what is no number is for the reader to refuse."""
    return float(f"{rate:.5g}") if isinstance(rate, int | float) and not isinstance(rate, bool) else rate


def _known_bytes(processes: tuple[GpuProcess, ...]) -> int:
    return sum(process.used_bytes or 0 for process in processes)
