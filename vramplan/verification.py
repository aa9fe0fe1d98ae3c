"""Estimate and measurement side by side, part by part, with the residual named.

The measured parts come from a recording of the same process: what was alive at its highest allocated peak, by role. The total
is the driver's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vramplan.alignment import Alignment, align
from vramplan.budget import PARTS
from vramplan.device.measurement import Measurement, Outcome
from vramplan.device.probe import Probe
from vramplan.errors import UsageError
from vramplan.learning import measured_workspaces
from vramplan.measuring import TIMEOUT_S, Cell, Guard, Machine, measure_cell, open_machine, record_cell
from vramplan.nodes import PHASE, node_programs
from vramplan.ranges import Range
from vramplan.replaying import Replay, replay
from vramplan.result import Estimate
from vramplan.showing import Shown
from vramplan.workspace.cudnn import remember

TOLERANCE_RATIO = 0.05

LISTED_COUNT = 20
"""Differences of single ops that are kept for each phase."""

PEAKS = ("first_run.allocated_peak", "first_run.reserved_peak", "steady.allocated_peak", "steady.reserved_peak")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """One part, or one peak, as predicted and as measured, in bytes; None is not measured."""

    part: str
    predicted: Range
    measured_bytes: int | None

    @property
    def predicted_bytes(self) -> int:
        """The nominal prediction."""
        return self.predicted.nominal_bytes

    @property
    def error_bytes(self) -> int | None:
        """Predicted less measured: below zero is an under-estimate."""
        return None if self.measured_bytes is None else self.predicted_bytes - self.measured_bytes

    @property
    def error_ratio(self) -> float | None:
        """The error over what was measured; None when nothing was."""
        return self.error_bytes / self.measured_bytes if self.measured_bytes and self.error_bytes is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Shown):
    """An estimate, a measurement of the same cell, and how they compare.

    rows        the parts of the budget, then their total
    peaks       allocated and reserved peaks of the first run and of the steady loop
    replay      the recording, as an estimate; None when the run was not recorded
    alignments  predicted and recorded requests, op by op, for each phase of the run; of ONNX Runtime for the first run, by its
                statistics of nodes

    Invariant: the last row is the total.
    """

    estimate: Estimate
    measurement: Measurement
    rows: tuple[PartRow, ...]
    peaks: tuple[PartRow, ...]
    replay: Replay | None
    alignments: tuple[Alignment, ...]
    tolerance_ratio: float

    def __post_init__(self) -> None:
        if self.rows[-1].part != "total":
            raise ValueError("a verification ends with its total")

    @property
    def total(self) -> PartRow:
        """The row of the whole process."""
        return self.rows[-1]

    @property
    def within_tolerance(self) -> bool:
        """Whether it ran, and the predicted total is near the measured one."""
        error = self.total.error_ratio
        is_finished = self.measurement.outcome is Outcome.FINISHED
        return is_finished and error is not None and abs(error) <= self.tolerance_ratio

    @property
    def largest(self) -> PartRow | None:
        """The part with the largest error; None when no part has one."""
        wrong = [row for row in self.rows[:-1] if row.error_bytes]
        return max(wrong, key=lambda row: abs(row.error_bytes or 0), default=None)


def verify(
    model: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: str = "as-is",
    runtime: str | None = None,
    runtime_options: Mapping[str, str] | None = None,
    memory_format: str = "contiguous",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    allow_pickle: bool = False,
    gpu_index: int | None = None,
    tolerance: float = TOLERANCE_RATIO,
    force: bool = False,
    limit_bytes: int | None = None,
    timeout_s: float = TIMEOUT_S,
    wait_s: float = 0.0,
    probe: Probe | None = None,
) -> Verification:
    """Estimate *model* for this machine's GPU, run it there, and compare. Arguments are those of `vramplan.measure`.

    *tolerance* is the share by which the predicted total may miss the measured one: 0.05 is 5 %.
    Raises what `vramplan.measure` raises.
    """
    if not tolerance >= 0:
        raise UsageError(f"tolerance {tolerance} is below zero", hint="Write it like 0.05 for 5 %.")
    cell = Cell.of(
        model,
        runtime=runtime,
        options=runtime_options,
        batch=batch,
        precision=precision,
        memory_format=memory_format,
        shapes=shapes,
        dims=dims,
        allow_pickle=allow_pickle,
    )
    machine = open_machine(gpu_index=gpu_index, probe=probe)
    guard = Guard(force=force, limit_bytes=limit_bytes, timeout_s=timeout_s, wait_s=wait_s)
    return verify_cell(cell, machine, guard, tolerance=tolerance)


def verify_cell(cell: Cell, machine: Machine, guard: Guard, *, tolerance: float = TOLERANCE_RATIO) -> Verification:
    """One cell, with a recording where the runtime can be recorded."""
    expected = cell.estimate(machine.gpu)
    if cell.runtime != "torch":
        return compare(expected, measure_cell(cell, machine, guard, expected=expected), None, tolerance=tolerance)
    with tempfile.TemporaryDirectory(prefix="vramplan-") as folder:
        path = Path(folder) / "recording.json.gz"
        measurement, is_recorded = record_cell(cell, machine, guard, path, expected=expected)
        return compare(expected, measurement, replay(path) if is_recorded else None, tolerance=tolerance)


def learn(found: Verification) -> int:
    """Remember the workspace of each convolution of a recorded run for later estimates on this card; how many there were."""
    version = found.measurement.environment.get("cudnn", "")
    if found.replay is None or found.estimate.gpu is None or not version.isdecimal():
        return 0
    from vramplan.runtimes.torch_eager.settings import cudnn_flags  # noqa: PLC0415  imports torch

    learned = measured_workspaces(found.estimate, found.replay.recording.program)
    remember(learned, found.estimate.gpu, version=int(version), flags=cudnn_flags())
    return len(learned)


def compare(expected: Estimate, measurement: Measurement, recorded: Replay | None, *, tolerance: float) -> Verification:
    """Put the two side by side."""
    return Verification(
        estimate=expected,
        measurement=measurement,
        rows=tuple(_rows(expected, measurement, recorded)),
        peaks=tuple(_peaks(expected, measurement)),
        replay=recorded,
        alignments=tuple(_alignments(expected, measurement, recorded)),
        tolerance_ratio=tolerance,
    )


def _rows(expected: Estimate, measurement: Measurement, recorded: Replay | None) -> Iterator[PartRow]:
    predicted = expected.budget.parts
    measured = _measured_parts(measurement, recorded)
    for part in PARTS:
        yield PartRow(part=part, predicted=predicted[part], measured_bytes=measured.get(part))
    yield PartRow(part="total", predicted=expected.budget.total, measured_bytes=measurement.total_bytes or None)


def _measured_parts(measurement: Measurement, recorded: Replay | None) -> dict[str, int | None]:
    """By the recording where there is one; else what the counters alone tell."""
    context: dict[str, int | None] = {"context": measurement.context_bytes}
    if recorded is not None:
        return {part: size.nominal_bytes for part, size in recorded.estimate.budget.parts.items()} | context
    weights, loaded = (_requested(measurement, name) for name in ("weights", "load"))
    inputs = None if weights is None or loaded is None else loaded - weights
    return {"weights": weights, "inputs": inputs} | context


def _requested(measurement: Measurement, phase: str) -> int | None:
    reading = measurement.phases.get(phase)
    return None if reading is None else reading.requested_bytes


def _peaks(expected: Estimate, measurement: Measurement) -> Iterator[PartRow]:
    """PyTorch's own counters; what the process took in each phase of a runtime that has none."""
    if measurement.runtime != "torch":
        for phase, reading in measurement.phases.items():
            size_bytes = expected.phases[phase].process_bytes if phase in expected.phases else None
            if size_bytes is not None:
                yield PartRow(part=f"{phase}.process", predicted=Range.exact(size_bytes), measured_bytes=reading.process_bytes)
        return
    for name in PEAKS:
        phase, _, counter = name.partition(".")
        read = measurement.phases.get(phase)
        yield PartRow(
            part=name,
            predicted=Range.exact(getattr(expected.phases[phase], f"{counter}_bytes")),
            measured_bytes=None if read is None else getattr(read, f"{counter}_bytes"),
        )


def _alignments(expected: Estimate, measurement: Measurement, recorded: Replay | None) -> Iterator[Alignment]:
    """By a recording of PyTorch, or by ONNX Runtime's statistics."""
    if measurement.nodes:
        predicted, measured = node_programs(expected.program, measurement.nodes)
        yield align(predicted, measured, PHASE, top=LISTED_COUNT)
    if recorded is None:
        return
    for phase in ("load", "first_run", "steady"):
        yield align(expected.program, recorded.recording.program, phase, top=LISTED_COUNT)
