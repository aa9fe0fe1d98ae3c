"""Measurements and verifications for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vramplan.alignment import Alignment
from vramplan.device.measurement import Measurement, PhaseReading
from vramplan.max_batch import MaxBatch
from vramplan.report.export import to_csv, to_json
from vramplan.report.rows import Row
from vramplan.verification import PartRow, Verification


def measurement_json(found: Measurement) -> str:
    """``environment``, what ran, ``outcome``, ``total_bytes``, ``phases``, ``context_steps`` and ``latency``."""
    return to_json(_measurement(found))


def measurement_rows(found: Measurement) -> list[Row]:
    """One flat row a phase."""
    return [{**cell_of(found), "phase": name, **_phase(phase)} for name, phase in found.phases.items()]


def cell_of(found: Measurement) -> Row:
    """What ran, as the first columns of every table of it."""
    return {
        "model": found.model,
        "runtime": found.runtime,
        "precision": found.precision,
        "batch": found.batch,
        "memory_format": found.memory_format,
    }


def measurement_csv(found: Measurement) -> str:
    """The same rows as CSV."""
    return to_csv(measurement_rows(found))


def verification_json(found: Verification) -> str:
    """``environment``, ``rows`` (part, predicted, measured, error), ``peaks``, ``alignments``, ``within_tolerance``."""
    total = found.total
    return to_json(
        {
            "environment": dict(found.measurement.environment),
            "model": found.measurement.model,
            "runtime": found.measurement.runtime,
            "precision": found.measurement.precision,
            "batch": found.measurement.batch,
            "memory_format": found.measurement.memory_format,
            "outcome": found.measurement.outcome.value,
            "rows": [_part(row) for row in found.rows],
            "peaks": [_part(row) for row in found.peaks],
            "peak_op": {
                "predicted": found.estimate.peak.op,
                "measured": None if found.replay is None else found.replay.estimate.peak.op,
            },
            "alignments": [_alignment(alignment) for alignment in found.alignments],
            "residual_bytes": total.error_bytes,
            "residual_ratio": total.error_ratio,
            "tolerance_ratio": found.tolerance_ratio,
            "within_tolerance": found.within_tolerance,
            "notes": list(dict.fromkeys((*found.estimate.notes, *found.measurement.notes))),
        }
    )


def verification_csv(found: Verification) -> str:
    """One line a part, then one a peak."""
    return to_csv(part_rows((*found.rows, *found.peaks)))


def part_rows(rows: Iterable[PartRow]) -> list[Row]:
    """One flat row a part or a peak."""
    return [_part(row) for row in rows]


def max_batch_json(found: MaxBatch) -> str:
    """``largest_batch``, ``failed_batch``, ``estimated_batch``, ``limit_bytes`` and ``tries``."""
    return to_json(asdict(found))


def max_batch_csv(found: MaxBatch) -> str:
    """One line a try."""
    return to_csv([asdict(attempt) for attempt in found.tries])


def _measurement(found: Measurement) -> dict[str, Any]:
    latency = found.latency
    return {
        "environment": dict(found.environment),
        "model": found.model,
        "runtime": found.runtime,
        "precision": found.precision,
        "batch": found.batch,
        "memory_format": found.memory_format,
        "outcome": found.outcome.value,
        "failure": found.failure,
        "total_bytes": found.total_bytes,
        "limit_bytes": found.limit_bytes,
        "phases": {name: _phase(phase) for name, phase in found.phases.items()},
        "context_steps": [asdict(step) for step in found.steps],
        "latency": None if latency is None else {**asdict(latency), "throughput_per_s": latency.throughput_per_s},
        "other_processes": [asdict(other) for other in found.others],
        "notes": list(found.notes),
        "nodes": [asdict(node) for node in found.nodes],
    }


def _phase(phase: PhaseReading) -> dict[str, int]:
    return {**asdict(phase), "context_bytes": phase.context_bytes, "process_peak_bytes": phase.process_peak_bytes}


def _part(row: PartRow) -> dict[str, Any]:
    return {
        "part": row.part,
        "predicted_bytes": row.predicted_bytes,
        "predicted_low_bytes": row.predicted.low_bytes,
        "predicted_high_bytes": row.predicted.high_bytes,
        "evidence": row.predicted.evidence.value,
        "measured_bytes": row.measured_bytes,
        "error_bytes": row.error_bytes,
        "error_ratio": row.error_ratio,
    }


def _alignment(alignment: Alignment) -> dict[str, Any]:
    return asdict(alignment)
