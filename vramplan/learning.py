"""What this machine's GPU teaches for later estimates: the workspace that convolutions take on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from vramplan.alignment import OpRequests, paired_ops
from vramplan.device.workspaces import measure_workspaces
from vramplan.dtypes import DType
from vramplan.estimate import estimate
from vramplan.measuring import Machine
from vramplan.program import MemoryProgram
from vramplan.result import Estimate
from vramplan.sources.zoo import zoo
from vramplan.workspace.convolution import WORKSPACE_NAME, ConvCall
from vramplan.workspace.cudnn import remember

_BATCHES, _DTYPES = (1, 8), (DType.FLOAT16, DType.FLOAT32)

BUDGET_S = 60.0
"""How long the zoo's convolutions may take: most take milliseconds, a kernel that is compiled for the card up to a second."""


def zoo_convolutions() -> tuple[ConvCall, ...]:
    """Every convolution of the built-in models at batch 1 and 8, in fp16 and fp32, in both layouts; the common ones first."""
    traced = (estimate(name, batch=1, precision="fp32", runtime="torch").convolutions.values() for name in zoo())
    calls = Counter(call for found in traced for call in found)
    return tuple(
        replace(call, input_shape=(batch, *call.input_shape[1:]), dtype=dtype, channels_last=channels_last)
        for batch in _BATCHES
        for dtype in _DTYPES
        for channels_last in (False, True)
        for call, _ in calls.most_common()
    )


def learn_zoo(machine: Machine, *, timeout_s: float, budget_s: float = BUDGET_S) -> int:
    """Measure the built-in models' convolutions on *machine*, and keep their workspace; how many there were.

    Raises `MachineError` without a GPU, `MeasurementError` for a child that fails: nothing is kept then.
    """
    from vramplan.runtimes.torch_eager.settings import cudnn_flags  # noqa: PLC0415  imports torch

    measured = measure_workspaces(zoo_convolutions(), machine.device, budget_s=budget_s, timeout_s=timeout_s)
    if not measured.cudnn:
        return 0
    remember(measured.found, machine.gpu, version=measured.cudnn, flags=cudnn_flags())
    return len(measured.found)


def measured_workspaces(expected: Estimate, recorded: MemoryProgram) -> dict[ConvCall, int]:
    """Bytes of workspace by convolution, read off the first run of *recorded*, which ran the model of *expected*.

    A convolution is left out where the two programs differ in more than its workspace, and where its runs do not agree.
    """
    found: dict[ConvCall, set[int]] = {}
    for call, size_bytes in _readings(expected, recorded):
        found.setdefault(call, set()).add(size_bytes)
    return {call: next(iter(sizes)) for call, sizes in found.items() if len(sizes) == 1}


def _readings(expected: Estimate, recorded: MemoryProgram) -> Iterator[tuple[ConvCall, int]]:
    for ours, theirs in paired_ops(expected.program, recorded, "first_run"):
        if ours is None or theirs is None or ours.index not in expected.convolutions:
            continue
        size_bytes = _workspace(ours, theirs)
        if size_bytes is not None:
            yield expected.convolutions[ours.index], size_bytes


def _workspace(ours: OpRequests, theirs: OpRequests) -> int | None:
    """What *theirs* asks for beyond what *ours* does without cuDNN: one transient request, or none at all."""
    rest = Counter(theirs.requests)
    rest.subtract(request for request, name in zip(ours.requests, ours.names, strict=True) if not name.endswith(WORKSPACE_NAME))
    left = [request for request, count in rest.items() if count]
    if not left:
        return 0
    is_one = len(left) == 1 and rest[left[0]] == 1 and left[0].is_transient
    return left[0].size_bytes if is_one else None
