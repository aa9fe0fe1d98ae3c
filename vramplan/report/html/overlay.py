"""Prediction over measurement: each part as a pair of bars, and what is alive as two lines on one axis, with the residual.

Two programs have different steps, so the axis is what both have: ops, paired by name and order. Where a recording does not
name its ops as the estimate does, it is how far each is in a phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from vramplan.alignment import OpRequests, paired_ops
from vramplan.nodes import PHASE, node_programs
from vramplan.program import MemoryProgram, Phase
from vramplan.report.html.timeline import kept_steps
from vramplan.report.verified_text import part_name, percent, signed
from vramplan.units import format_bytes
from vramplan.verification import PartRow, Verification

PAIRED_RATIO = 0.5
"""So many of the ops of a phase have to be in both programs for ops to be the axis."""

POINTS_OF_A_PHASE = 400
"""Where the axis is how far a phase is."""

MAX_POINTS = 8_000


class Point(NamedTuple):
    """One place of the axis: which phase, the op's name, and what is alive there in both programs, in bytes."""

    phase: str
    name: str
    predicted_bytes: int
    measured_bytes: int

    @property
    def residual_bytes(self) -> int:
        """Predicted less measured."""
        return self.predicted_bytes - self.measured_bytes


def part_bars(found: Verification) -> list[dict[str, Any]]:
    """Each part, the total and each peak: shares of one axis, and printed numbers. ``measured`` is null where unknown."""
    rows = [*found.rows, *found.peaks]
    full = max(max(row.predicted.high_bytes, row.measured_bytes or 0) for row in rows) or 1
    groups = ["part"] * (len(found.rows) - 1) + ["total"] + ["peak"] * len(found.peaks)
    return [_bar(row, group, full, found.tolerance_ratio) for row, group in zip(rows, groups, strict=True)]


def _bar(row: PartRow, group: str, full: int, tolerance: float) -> dict[str, Any]:
    def share(size_bytes: int) -> float:
        return round(size_bytes / full, 6)

    return {
        "group": group,
        "name": part_name(row.part),
        "predicted": share(row.predicted_bytes),
        "low": share(row.predicted.low_bytes),
        "high": share(row.predicted.high_bytes),
        "measured": None if row.measured_bytes is None else share(row.measured_bytes),
        "predicted_text": format_bytes(row.predicted_bytes),
        "measured_text": "?" if row.measured_bytes is None else format_bytes(row.measured_bytes),
        "error_text": signed(row.error_bytes),
        "percent_text": percent(row.error_ratio),
        "state": _state(row, tolerance),
    }


def _state(row: PartRow, tolerance: float) -> str:
    """Within the tolerance, or which way it is off; nothing where it was not measured."""
    if row.error_bytes is None:
        return ""
    if (row.error_ratio is not None and abs(row.error_ratio) <= tolerance) or row.error_bytes == 0:
        return "within"
    return "over" if row.error_bytes > 0 else "under"


def overlay(found: Verification, strings: Callable[[str], int]) -> dict[str, Any] | None:
    """The two lines and their residual; None where nothing was recorded, or the programs share no phase.

    Columns have a number for each point, bytes as they are; ``largest`` is the point of the largest residual.
    """
    if found.replay is not None:
        is_paired = _is_paired(found)
        points = list(_alive(found.estimate.program, found.replay.estimate.program, is_paired=is_paired))
        axis = "ops, paired by name and order" if is_paired else "how far the phase is: the recording names no ops"
        words = _Words("What is alive, predicted over measured", "At most {} alive predicted, {} measured", axis)
    else:
        points = list(_asked(found))
        title = "What each node asks for, predicted over measured"
        words = _Words(title, "The most that a node asks for: {} predicted, {} measured", "nodes in the order of the session")
    if not points:
        return None
    largest = max(range(len(points)), key=lambda at: abs(points[at].residual_bytes))
    kept = kept_steps([max(point.predicted_bytes, point.measured_bytes) for point in points], largest, MAX_POINTS)
    shown = [points[at] for at in kept]
    return {
        "title": words.title,
        "axis": words.axis,
        "phases": _spans(shown),
        "name": [strings(point.name) for point in shown],
        "predicted": [point.predicted_bytes for point in shown],
        "measured": [point.measured_bytes for point in shown],
        "residual": [point.residual_bytes for point in shown],
        "largest": kept.index(largest),
        "sentence": _sentence(words.tops, points, points[largest]),
    }


class _Words(NamedTuple):
    """What the two lines are called: ``tops`` has a place for the highest of each."""

    title: str
    tops: str
    axis: str


def _alive(ours: MemoryProgram, theirs: MemoryProgram, *, is_paired: bool) -> Iterator[Point]:
    """What is alive in the phases that both have."""
    shared = {phase.name for phase in theirs.phases}
    for phase in ours.phases:
        if phase.name in shared:
            yield from (_by_op if is_paired else _by_share)(ours, theirs, phase.name)


def _asked(found: Verification) -> Iterator[Point]:
    """What each node of a session asks for, by ONNX Runtime's statistics; nothing where there are none."""
    if not found.measurement.nodes:
        return
    for mine, real in paired_ops(*node_programs(found.estimate.program, found.measurement.nodes), PHASE):
        name = next(op.name for op in (mine, real) if op is not None)
        yield Point(PHASE, name, mine.size_bytes if mine else 0, real.size_bytes if real else 0)


def _is_paired(found: Verification) -> bool:
    both = sum(each.equal_count + each.different_count for each in found.alignments)
    alone = sum(each.only_predicted_count + each.only_measured_count for each in found.alignments)
    return both >= PAIRED_RATIO * (both + alone)


def _sentence(tops: str, points: Sequence[Point], worst: Point) -> str:
    most = max(point.predicted_bytes for point in points), max(point.measured_bytes for point in points)
    text = tops.format(*map(format_bytes, most))
    if not worst.residual_bytes:
        return f"{text}; the lines are equal to the byte."
    where = f" in {worst.name}" if worst.name else ""
    return f"{text}. The lines are furthest apart{where}: {signed(worst.residual_bytes)}."


def _spans(points: Sequence[Point]) -> list[dict[str, Any]]:
    spans, start = [], 0
    for name, group in groupby(points, key=lambda point: point.phase):
        stop = start + sum(1 for _ in group)
        spans.append({"name": name, "start": start, "stop": stop})
        start = stop
    return spans


def _by_op(ours: MemoryProgram, theirs: MemoryProgram, phase: str) -> Iterator[Point]:
    """What is alive at most while an op runs; where one program lacks it, as before."""
    lines = [_Line(program, phase) for program in (ours, theirs)]
    for pair in paired_ops(ours, theirs, phase):
        name = next(op.name for op in pair if op is not None)
        yield Point(phase, name, *(line.during(op) for line, op in zip(lines, pair, strict=True)))


class _Line:
    """What is alive in a program as its ops go by."""

    def __init__(self, program: MemoryProgram, phase: str) -> None:
        self._live = list(program.live_bytes())
        start = program.phase(phase).start
        self._now = self._live[start - 1] if start else 0

    def during(self, op: OpRequests | None) -> int:
        """The most during *op*; afterwards its end holds on."""
        if op is None or op.start == op.stop:
            return self._now
        self._now = self._live[op.stop - 1]
        return max(self._live[op.start : op.stop])


def _by_share(ours: MemoryProgram, theirs: MemoryProgram, phase: str) -> Iterator[Point]:
    columns = [_sampled(program, program.phase(phase)) for program in (ours, theirs)]
    for predicted, measured in zip(*columns, strict=True):
        yield Point(phase, "", predicted, measured)


def _sampled(program: MemoryProgram, phase: Phase) -> list[int]:
    """The highest of each stretch of the phase, `POINTS_OF_A_PHASE` of them; what was alive before where it has no steps."""
    live = [0, *program.live_bytes()]
    edges = [phase.start + (phase.stop - phase.start) * place // POINTS_OF_A_PHASE for place in range(POINTS_OF_A_PHASE + 1)]
    return [max(live[start + 1 : stop + 1], default=live[start]) for start, stop in pairwise(edges)]
