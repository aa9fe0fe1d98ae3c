"""The workspace of convolutions on this machine's GPU: a child process runs each once and tells what it asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vramplan.device.child import Child, Message, OutOfMemoryResult, child_environment, module_command
from vramplan.device.probe import Device
from vramplan.errors import MeasurementError, printable
from vramplan.progress import tell
from vramplan.workspace.convolution import ConvCall

CHILD = "vramplan.device.workspace_child"


@dataclass(slots=True, kw_only=True)
class MeasuredWorkspaces:
    """Bytes of workspace by call, and the cuDNN that ran them (91900 for 9.19.0; 0: none)."""

    cudnn: int = 0
    found: dict[ConvCall, int] = field(default_factory=dict)


def measure_workspaces(
    calls: Sequence[ConvCall], device: Device, *, budget_s: float, timeout_s: float, command: Sequence[str] | None = None
) -> MeasuredWorkspaces:
    """Run each of *calls* once on *device*, as PyTorch does; no further one begins after *budget_s*.

    Calls without a kernel, without room and beyond the budget are left out. *command* starts the child (None: this Python).
    Raises `MachineError` when PyTorch sees no GPU, `MeasurementError` for a child that crashes, hangs, or makes no sense.
    """
    request: Message = {"budget_s": budget_s, "calls": [asdict(call) | {"dtype": call.dtype.value} for call in calls]}
    environment = child_environment(os.environ, CUDA_VISIBLE_DEVICES=device.uuid, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    measured = MeasuredWorkspaces()
    with Child(command or module_command(CHILD), request, timeout_s=timeout_s, environment=environment) as child:
        try:
            for message in child.messages():
                _take(measured, message, calls)
                tell("measuring workspaces of convolutions", done=len(measured.found), total=len(calls))
        except OutOfMemoryResult as result:
            raise MeasurementError(f"the card had too little memory: {printable(result.message)[:300]}") from None
    return measured


def _take(measured: MeasuredWorkspaces, message: Message, calls: Sequence[ConvCall]) -> None:
    """One report. `MeasurementError` for one that makes no sense."""
    if "cudnn" in message:
        measured.cudnn = _count(message["cudnn"])
    for reading in message.get("workspaces", ()):
        if not isinstance(reading, list) or len(reading) != 2 or _count(reading[0]) >= len(calls):
            raise MeasurementError(f"the child process reported what cannot be: {str(reading)[:80]!r}")
        measured.found[calls[reading[0]]] = _count(reading[1])


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise MeasurementError(f"the child process reported what cannot be: {str(value)[:80]!r}")
    return value
