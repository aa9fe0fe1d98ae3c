"""The web page of a verification: the estimate and the recorded run as two cells of one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.measured import measurement
from vramplan.alignment import OpRequests, op_requests
from vramplan.device.measurement import NodeReading, Outcome
from vramplan.estimate import estimate
from vramplan.nodes import PHASE, node_programs
from vramplan.program import MemoryProgram, Role
from vramplan.replaying import replay
from vramplan.report.html import verification_page
from vramplan.report.html.content import verification_page_content
from vramplan.report.html.overlay import POINTS_OF_A_PHASE
from vramplan.report.measured_export import verification_json
from vramplan.report.verified_text import part_name
from vramplan.result import Estimate
from vramplan.sources.recording import RecordedModel, Recording, write_recording
from vramplan.units import MIB, format_bytes
from vramplan.verification import Verification, compare

RECORDED = Path(__file__).parents[1] / "traces" / "data" / "yolov8s_fp16_contiguous_b8.json.gz"


@pytest.fixture(scope="module")
def found() -> Verification:
    expected = estimate("yolov8s", batch=8, precision="fp16", runtime="torch", gpu="h200")
    return compare(expected, measurement(model="yolov8s", batch=8), replay(RECORDED), tolerance=0.05)


def test_it_has_the_json_of_the_command_and_both_runs(found: Verification):
    content = verification_page_content(found)
    assert content["verification"] == json.loads(verification_json(found))
    assert [cell["label"] for cell in content["cells"]] == ["predicted", "measured"]
    assert found.replay is not None
    totals = [row["total_bytes"] for row in content["report"]["rows"]]
    assert totals == [found.estimate.total_bytes, found.replay.estimate.total_bytes]
    assert None not in content["pictures"]
    assert content["state"] == ("yes" if found.within_tolerance else "no")
    assert content["residual"].startswith("+" if (found.total.error_bytes or 0) > 0 else "-")


def test_parts_and_peaks_are_pairs_of_bars(found: Verification):
    bars = verification_page_content(found)["bars"]
    rows = [*found.rows, *found.peaks]
    assert [bar["predicted_text"] for bar in bars] == [format_bytes(row.predicted_bytes) for row in rows]
    assert [bar["group"] for bar in bars] == ["part"] * 7 + ["total"] + ["peak"] * 4
    full = max(max(row.predicted.high_bytes, row.measured_bytes or 0) for row in rows)
    for bar, row in zip(bars, rows, strict=True):
        assert bar["predicted"] == pytest.approx(row.predicted_bytes / full, abs=1e-6)
        assert bar["measured"] == (None if row.measured_bytes is None else pytest.approx(row.measured_bytes / full, abs=1e-6))
        assert bar["low"] <= bar["predicted"] <= bar["high"] <= 1
    assert "yolov8s: GPU memory, vramplan" in verification_page(found)


def test_a_residual_has_a_direction(found: Verification):
    states = {bar["name"]: bar["state"] for bar in verification_page_content(found)["bars"]}
    for row in found.rows:
        error, name = row.error_bytes or 0, part_name(row.part)
        beyond = error and (row.error_ratio is None or abs(row.error_ratio) > 0.05)
        assert states[name] == ("within" if not beyond else "over" if error > 0 else "under")


def recorded_as(expected: Estimate, program: MemoryProgram, folder: Path) -> Verification:
    """A verification whose run was recorded as *program*."""
    model = RecordedModel(name="yolov8s", precision="fp16", memory_format="contiguous", batch=8)
    recording = Recording(environment={"gpu": "NVIDIA H200"}, model=model, program=program, marks={}, segments=())
    write_recording(folder / "run.json.gz", recording)
    return compare(expected, measurement(model="yolov8s", batch=8), replay(folder / "run.json.gz"), tolerance=0.05)


def test_two_equal_programs_lie_on_each_other(found: Verification, tmp_path: Path):
    same = recorded_as(found.estimate, found.estimate.program, tmp_path)
    lines = verification_page_content(same)["overlay"]
    assert lines["predicted"] == lines["measured"]
    assert set(lines["residual"]) == {0}
    assert max(lines["predicted"]) == found.estimate.program.peak().live_bytes
    assert lines["sentence"].endswith("equal to the byte.")
    assert lines["axis"].startswith("ops")


def test_the_residual_is_where_an_op_asks_for_more(found: Verification, tmp_path: Path):
    """One activation of the first run 3 MiB larger: the lines part by 3 MiB while it is alive, and nowhere else."""
    program = found.estimate.program
    largest = max(
        (index for index, buffer in enumerate(program.buffers) if buffer.role is Role.ACTIVATION),
        key=lambda index: program.buffers[index].size_bytes,
    )
    more = replace(program.buffers[largest], size_bytes=program.buffers[largest].size_bytes + 3 * MIB)
    other = replace(program, buffers=(*program.buffers[:largest], more, *program.buffers[largest + 1 :]))
    content = verification_page_content(recorded_as(found.estimate, other, tmp_path))
    lines = content["overlay"]
    assert set(lines["residual"]) == {0, -3 * MIB}
    assert lines["residual"][lines["largest"]] == -3 * MIB
    assert content["strings"][lines["name"][lines["largest"]]] in lines["sentence"]
    both = zip(lines["predicted"], lines["measured"], lines["residual"], strict=True)
    assert all(predicted - measured == residual for predicted, measured, residual in both)


def test_without_names_of_ops_the_axis_is_how_far_a_phase_is(found: Verification):
    lines = verification_page_content(found)["overlay"]
    assert lines["axis"].startswith("how far")
    assert [phase["name"] for phase in lines["phases"]] == ["load", "first_run", "steady"]
    assert len(lines["predicted"]) == 3 * POINTS_OF_A_PHASE
    assert max(lines["predicted"]) == found.estimate.program.peak().live_bytes
    assert found.replay is not None
    assert max(lines["measured"]) == found.replay.estimate.program.peak().live_bytes


def test_out_of_memory_has_a_page_too(found: Verification):
    failed = replace(found.measurement, outcome=Outcome.OUT_OF_MEMORY, phases={}, failure="out of memory")
    without = compare(found.estimate, failed, None, tolerance=0.05)
    content = verification_page_content(without)
    assert content["state"] == "no"
    assert content["report"]["verdict"]["sentence"].startswith("Out of memory")
    assert len(content["cells"]) == 1
    assert content["overlay"] is None
    assert content["bars"][7]["measured_text"] == "?"
    verification_page(without)


def test_a_session_is_compared_by_what_its_nodes_ask_for():
    """ONNX Runtime's statistics say what each node took: here all as predicted, but one that takes 1 MiB of scratch more."""
    expected = estimate("yolov8s", batch=1, runtime="onnxruntime", gpu="h200")
    ours, _ = node_programs(expected.program, ())
    nodes = [
        NodeReading(
            name=op.name,
            input_bytes=0,
            initializer_bytes=0,
            result_bytes=_asked(op, Role.ACTIVATION),
            scratch_bytes=_asked(op, Role.WORKSPACE),
        )
        for op in op_requests(ours, PHASE)
    ]
    greedy = max(range(len(nodes)), key=lambda place: nodes[place].result_bytes)
    nodes[greedy] = replace(nodes[greedy], scratch_bytes=nodes[greedy].scratch_bytes + MIB)
    told = measurement(model="yolov8s", runtime="onnxruntime", batch=1, nodes=tuple(nodes))
    content = verification_page_content(compare(expected, told, None, tolerance=0.05))
    lines = content["overlay"]
    assert lines["title"].startswith("What each node asks for")
    assert set(lines["residual"]) == {0, -MIB}
    assert content["strings"][lines["name"][lines["largest"]]] == nodes[greedy].name
    assert nodes[greedy].name in lines["sentence"]


def _asked(op: OpRequests, role: Role) -> int:
    sizes = zip(op.requests, op.roles, strict=True)
    return sum(request.size_bytes for request, of in sizes if of == role.value)
