"""A recorded run as an estimate: recording → caching allocator → budget, with the device's own numbers where it gave them.

Needs no torch. The replay is also a proof: where the allocator's counters were recorded, each is set beside the replay's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vramplan.allocators.caching import CachingPeaks
from vramplan.allocators.caching import replay as replay_program
from vramplan.allocators.caching_conf import rules_from_environment
from vramplan.budget import Budget
from vramplan.describe import describe_peak
from vramplan.device.this_gpu import find_card
from vramplan.errors import ModelError, UsageError
from vramplan.gpus import Gpu, context_bytes, find_gpu
from vramplan.program import Role
from vramplan.progress import tell
from vramplan.ranges import Evidence, Range
from vramplan.result import Binding, Coverage, Estimate, ModelFacts
from vramplan.runtimes.plan import PhasePeak, Plan
from vramplan.runtimes.torch_eager.plan import plan_replayed
from vramplan.showing import Shown
from vramplan.sources.onnx_types import show
from vramplan.sources.recording import COUNTERS, Recording, read_recording
from vramplan.sources.torch_archive import file_sha256

_NAMED = ("driver", "torch", "cuda", "cudnn", "python", "date")
"""Keys of an environment that a note names behind the card, in this order."""

_RESERVED = "reserved_peak_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRow:
    """One of PyTorch's counters at the end of a phase: as the device had it, and as the replay has it (bytes)."""

    phase: str
    name: str
    measured_bytes: int
    replayed_bytes: int

    @property
    def difference_bytes(self) -> int:
        """Replayed less measured."""
        return self.replayed_bytes - self.measured_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(Shown):
    """A recorded run: its memory as an `Estimate`, and each recorded counter beside the replay's."""

    recording: Recording
    estimate: Estimate
    counters: tuple[CounterRow, ...]

    @property
    def is_equal(self) -> bool | None:
        """Whether every recorded counter is equal to the byte; None when none was recorded."""
        return all(row.difference_bytes == 0 for row in self.counters) if self.counters else None


def replay(path: str | os.PathLike[str], *, gpu: str | None = None) -> Replay:
    """Replay the recording at *path* through PyTorch's caching allocator.

    *gpu* is the card that it is judged on (None: the recorded one). Sizes are bytes, measured on the recorded environment.
    Raises `ModelError` for a file that is no recording of eager PyTorch, `UsageError` for an unknown card.
    """
    source = Path(path)
    tell(f"reading {show(source.name)}")
    recording = read_recording(source)
    tell(f"replaying {len(recording.program.events):,} steps")
    _check_phases(source, recording)
    peaks = _replayed(source, recording)
    card = find_card(gpu) if gpu is not None else _recorded_card(recording)
    parts = plan_replayed(recording.program, peaks)
    budget = _budget(recording, parts, card, is_other_card=gpu is not None)
    return Replay(
        recording=recording,
        estimate=_estimate(source, recording, parts, budget, card),
        counters=tuple(_counters(recording, peaks)),
    )


def _check_phases(source: Path, recording: Recording) -> None:
    names = [phase.name for phase in recording.program.phases]
    if "first_run" not in names:
        raise ModelError(
            f"{show(str(source))} has no phase 'first_run', only: {', '.join(map(show, names[:8])) or 'none'}",
            hint="A recording of PyTorch has the phases load, first_run and steady.",
        )


def _replayed(source: Path, recording: Recording) -> dict[str, CachingPeaks]:
    """Under the allocator's settings of the recorded process, with the segments where they lay."""
    try:
        rules = rules_from_environment(recording.environment)
    except UsageError as error:
        raise ModelError(
            f"{show(str(source))} cannot be replayed: {error.message}", hint="Record the run without that setting."
        ) from None
    ranks = [segment.address_rank for segment in recording.segments]
    return replay_program(recording.program, rules, address_ranks=ranks)


def _recorded_card(recording: Recording) -> Gpu | None:
    """The card of the catalogue that the environment names; None when there is none."""
    try:
        return find_gpu(recording.environment.get("gpu", ""))
    except UsageError:
        return None


def _budget(recording: Recording, parts: Plan, card: Gpu | None, *, is_other_card: bool) -> Budget:
    """The parts as recorded. Slack makes their sum what the device reserved, or the replay where that was not read."""
    held = {
        "weights": parts.weights,
        "inputs": parts.inputs,
        "activations": parts.activations,
        "outputs": parts.outputs,
        "workspace": parts.workspace,
    }
    reserved = [recording.marks.get(phase.name, {}).get(_RESERVED) for phase in recording.program.phases]
    read = [size for size in reserved if size is not None]
    slack = parts.allocator_slack
    if len(read) == len(reserved):
        slack = _measured(max(read) - sum(part.nominal_bytes for part in held.values()))
    elif not recording.segments:
        slack = replace(slack, evidence=Evidence.BOUNDED)
    told = None if is_other_card else recording.context_bytes
    return Budget(
        **{name: _measured(part.nominal_bytes) for name, part in held.items()},
        allocator_slack=slack,
        context=context_bytes(card, "torch") if told is None else _measured(told),
    )


def _measured(size_bytes: int) -> Range:
    return Range(low_bytes=size_bytes, nominal_bytes=size_bytes, high_bytes=size_bytes, evidence=Evidence.MEASURED)


def _estimate(source: Path, recording: Recording, parts: Plan, budget: Budget, card: Gpu | None) -> Estimate:
    op_count = len(recording.program.ops) - 1
    return Estimate(
        model=_model(source, recording),
        runtime="torch",
        precision=recording.model.precision,
        batch=recording.model.batch,
        memory_format=recording.model.memory_format,
        gpu=card,
        budget=budget,
        phases={name: _phase(peak, recording.marks.get(name, {})) for name, peak in parts.phases.items()},
        lower_bound_bytes=parts.lower_bound_bytes,
        sum_of_outputs_bytes=parts.sum_of_outputs_bytes,
        peak=describe_peak(parts),
        coverage=Coverage(ops=op_count, exact=0, measured=op_count, bounded=0, unmodelled=()),
        kept=(),
        layers=parts.layers,
        profile=None,
        notes=tuple(_notes(recording, card)),
        program=recording.program,
    )


def _model(source: Path, recording: Recording) -> ModelFacts:
    inputs = [buffer for buffer in recording.program.buffers if buffer.role is Role.INPUT]
    return ModelFacts(
        name=recording.model.name,
        format="recording",
        parameters=None,
        inputs=tuple(Binding(name=item.name, dtype="", dims=(), shape=None, size_bytes=item.size_bytes) for item in inputs),
        outputs=(),
        digest=lambda: file_sha256(source),
    )


def _phase(replayed: PhasePeak, mark: Mapping[str, int]) -> PhasePeak:
    """The device's own peaks where they were read."""
    return PhasePeak(
        allocated_peak_bytes=mark.get("allocated_peak_bytes", replayed.allocated_peak_bytes),
        reserved_peak_bytes=mark.get(_RESERVED, replayed.reserved_peak_bytes),
    )


def _notes(recording: Recording, card: Gpu | None) -> Iterator[str]:
    environment = recording.environment
    told = environment.get("gpu", "")
    words = [told or "a card that is not named", *(f"{name} {environment[name]}" for name in _NAMED if name in environment)]
    yield f"recorded on {', '.join(words)}"
    if card is None:
        yield (
            f"the recorded card {told!r} is not in the catalogue: its context is not known"
            if told
            else ("the recording names no card: its context is not known")
        )
    elif card != _recorded_card(recording):
        yield f"judged on {card.name}, where kernels may ask for other scratch"
    if not recording.segments and recording.marks:
        yield "the recording does not say how segments lie in memory: the replay takes them to rise"


def _counters(recording: Recording, peaks: Mapping[str, CachingPeaks]) -> Iterator[CounterRow]:
    for phase in recording.program.phases:
        mark = recording.marks.get(phase.name, {})
        for name in COUNTERS:
            if name in mark:
                replayed = getattr(peaks[phase.name], name)
                yield CounterRow(phase=phase.name, name=name, measured_bytes=mark[name], replayed_bytes=replayed)
