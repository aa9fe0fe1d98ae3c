"""Estimate against measurement: what counts as an error, which part is named, when it is within the tolerance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.measured import MIB, measurement, reading
from vramplan.device.measurement import Measurement, Outcome
from vramplan.estimate import estimate
from vramplan.program import Buffer, ProgramBuilder, Role
from vramplan.ranges import Range
from vramplan.replaying import replay
from vramplan.report.measured_export import verification_csv, verification_json
from vramplan.report.verified_text import verification_lines, verification_text
from vramplan.sources.recording import RecordedModel, Recording, write_recording
from vramplan.verification import PartRow, Verification, compare


@pytest.fixture(scope="module")
def expected():
    return estimate("resnet50", batch=1, precision="fp16", runtime="torch", gpu="h200")


def measured_like(expected, *, more_bytes: int = 0) -> Measurement:
    """A measurement that agrees with *expected* but for a context that is larger by *more_bytes*."""
    context_bytes = expected.budget.context_bytes + more_bytes
    phases = {}
    for name in ("load", "first_run", "steady"):
        peak = expected.phases[name]
        phases[name] = replace(
            reading(0),
            requested_bytes=peak.allocated_peak_bytes,
            requested_peak_bytes=peak.allocated_peak_bytes,
            allocated_bytes=peak.allocated_peak_bytes,
            allocated_peak_bytes=peak.allocated_peak_bytes,
            reserved_bytes=peak.reserved_peak_bytes,
            reserved_peak_bytes=peak.reserved_peak_bytes,
            process_bytes=peak.reserved_peak_bytes + context_bytes,
        )
    loaded_bytes = expected.budget.weights_bytes + expected.budget.inputs_bytes
    phases["load"] = replace(phases["load"], requested_bytes=loaded_bytes)
    weights = replace(phases["load"], requested_bytes=expected.budget.weights_bytes)
    return measurement(model="resnet50", batch=1, phases={"weights": weights, **phases})


def verified(expected, *, more_bytes: int = 0, tolerance: float = 0.05) -> Verification:
    return compare(expected, measured_like(expected, more_bytes=more_bytes), None, tolerance=tolerance)


def test_an_estimate_that_is_right_has_no_residual(expected):
    found = verified(expected)
    assert found.total.error_bytes == 0
    assert found.within_tolerance
    assert found.largest is None
    assert [row.error_bytes for row in found.peaks] == [0, 0, 0, 0]


def test_the_residual_is_named_by_its_largest_part(expected):
    """A context that is 100 MiB larger than predicted is an under-estimate of 100 MiB, and it is the context's."""
    found = verified(expected, more_bytes=100 * MIB)
    assert found.total.error_bytes == -100 * MIB
    assert found.total.error_ratio == -100 * MIB / (expected.total_bytes + 100 * MIB)
    assert found.largest is not None
    assert (found.largest.part, found.largest.error_bytes) == ("context", -100 * MIB)
    (line,) = verification_lines(found)
    assert "residual -100.0 MiB" in line
    assert "most of it context (-100.0 MiB)" in line


@pytest.mark.parametrize("sign", [1, -1])
def test_both_directions_are_errors(expected, sign):
    share = abs(verified(expected, more_bytes=sign * 50 * MIB).total.error_ratio or 0)
    assert verified(expected, more_bytes=sign * 50 * MIB, tolerance=share * 1.01).within_tolerance
    assert not verified(expected, more_bytes=sign * 50 * MIB, tolerance=share * 0.99).within_tolerance


def test_parts_that_were_not_recorded_are_unknown_and_not_zero(expected):
    parts = {row.part: row.measured_bytes for row in verified(expected).rows}
    assert parts["weights"] == expected.budget.weights_bytes
    assert parts["activations"] is parts["outputs"] is parts["workspace"] is None
    rows = json.loads(verification_json(verified(expected)))["rows"]
    assert [row["measured_bytes"] for row in rows if row["part"] == "activations"] == [None]
    assert " ? " in verification_text(verified(expected))


def test_out_of_memory_is_never_within_the_tolerance(expected):
    whole = measured_like(expected)
    measured = replace(
        whole, outcome=Outcome.OUT_OF_MEMORY, failure="OutOfMemoryError: no. GPU 0 has", phases={"load": reading(40)}
    )
    found = compare(expected, measured, None, tolerance=0.99)
    assert not found.within_tolerance
    (line,) = verification_lines(found)
    assert line.startswith("Out of memory: ")
    assert "GPU 0" not in line


def test_the_json_has_the_promised_keys(expected):
    content = json.loads(verification_json(verified(expected, more_bytes=MIB)))
    assert content["schema_version"] == 1
    assert {"environment", "rows", "within_tolerance"} <= content.keys()
    assert {"part", "predicted_bytes", "measured_bytes", "error_bytes", "error_ratio"} <= content["rows"][0].keys()
    total = content["rows"][-1]
    assert total["part"] == "total"
    assert total["predicted_bytes"] == sum(row["predicted_bytes"] for row in content["rows"][:-1])
    assert total["error_bytes"] == total["predicted_bytes"] - total["measured_bytes"] == -MIB


def test_the_csv_has_a_line_for_each_part_and_peak(expected):
    assert len(verification_csv(verified(expected)).splitlines()) == 1 + 8 + 4


def test_the_text_fits_100_columns(expected):
    text = verification_text(verified(expected, more_bytes=100 * MIB))
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_measured_has_no_ratio():
    row = PartRow(part="inputs", predicted=Range.exact(5), measured_bytes=0)
    assert (row.error_bytes, row.error_ratio) == (5, None)


@pytest.fixture
def recorded(tmp_path: Path, expected):
    """A recording of the traced program itself, but that one op asks for 1 MiB more."""
    path = tmp_path / "run.json.gz"
    program = expected.program
    changed = list(program.buffers)
    start = program.phase("first_run").start
    index = next(event.buffer_index for event in program.events[start:] if program.buffers[event.buffer_index].size_bytes > MIB)
    changed[index] = replace(changed[index], size_bytes=changed[index].size_bytes + MIB)
    write_recording(
        path,
        Recording(
            program=replace(program, buffers=tuple(changed)),
            environment={"gpu": "NVIDIA H200", "context_bytes": str(expected.budget.context_bytes)},
            model=RecordedModel(name="resnet50", precision="fp16", batch=1, memory_format="contiguous"),
            marks={},
            segments=(),
        ),
    )
    return replay(path), program.ops[next(e.op_index for e in program.events if e.buffer_index == index)]


def test_a_recording_says_which_op_differs(expected, recorded):
    found = compare(expected, measured_like(expected), recorded[0], tolerance=0.05)
    load, first, _ = found.alignments
    assert load.is_equal
    assert first.first is not None
    assert (first.first.name, first.first.error_bytes) == (recorded[1], -MIB)
    assert recorded[1].split()[0] in verification_text(found)
    parts = {row.part: row.measured_bytes for row in found.rows}
    assert parts["weights"] == expected.budget.weights_bytes
    assert parts["inputs"] == expected.budget.inputs_bytes
    assert None not in parts.values()


def test_a_recording_without_ops_of_the_model_still_has_parts(tmp_path: Path, expected):
    builder = ProgramBuilder()
    builder.hold(Buffer(name="w", role=Role.WEIGHT, size_bytes=5))
    for phase in ("load", "first_run", "steady"):
        builder.phase(phase)
    path = tmp_path / "tiny.json"
    model = RecordedModel(name="tiny", precision="fp16", batch=None, memory_format="contiguous")
    write_recording(path, Recording(program=builder.build(), environment={}, model=model, marks={}, segments=()))
    found = compare(expected, measured_like(expected), replay(path), tolerance=0.05)
    assert found.rows[0].measured_bytes == 5
