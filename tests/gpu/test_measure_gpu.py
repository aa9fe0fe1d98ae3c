"""Measuring for real: what the driver, PyTorch's counters and the estimate say about the same process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from vramplan.device.measurement import Outcome  # noqa: E402
from vramplan.device.nvml import open_probe  # noqa: E402
from vramplan.device.workspaces import measure_workspaces  # noqa: E402
from vramplan.errors import MeasurementError  # noqa: E402
from vramplan.learning import measured_workspaces  # noqa: E402
from vramplan.max_batch import find_max_batch  # noqa: E402
from vramplan.measuring import Cell, Guard, measure, open_machine, record_cell  # noqa: E402
from vramplan.replaying import replay  # noqa: E402
from vramplan.verification import verify  # noqa: E402

pytestmark = pytest.mark.gpu

MIB = 1 << 20


@pytest.mark.parametrize(("model", "precision"), [("resnet50", "fp16"), ("yolov8n", "fp32"), ("vit_b_16", "autocast-fp16")])
def test_the_process_total_is_predicted_within_5_percent_and_the_weights_exactly(model, precision):
    found = verify(model, batch=2, precision=precision)
    assert found.within_tolerance, found.total
    parts = {row.part: row for row in found.rows}
    assert parts["weights"].error_bytes == 0
    assert parts["inputs"].error_bytes == 0


def test_a_recording_has_the_ops_of_the_trace_and_replays_to_the_byte():
    found = verify("resnet50", batch=2, precision="fp16")
    assert found.replay is not None, found.measurement.notes
    assert found.replay.is_equal
    load, first, steady = found.alignments
    assert load.is_equal
    for alignment in (first, steady):
        assert alignment.only_predicted_count == alignment.only_measured_count == 0
        assert all(difference.role == "workspace" for difference in alignment.largest)


def test_a_recording_can_be_written_and_replayed(tmp_path: Path):
    cell, machine = Cell(model="resnet50", batch=1, precision="fp16"), open_machine()
    path = tmp_path / "run.json.gz"
    measurement, is_recorded = record_cell(cell, machine, Guard(), path, expected=cell.estimate(machine.gpu))
    assert is_recorded
    assert replay(path).recording.context_bytes == measurement.context_bytes


def test_a_convolution_alone_takes_the_workspace_that_it_takes_in_the_model():
    found = verify("yolov8n", batch=2, precision="fp16")
    assert found.replay is not None, found.measurement.notes
    in_model = measured_workspaces(found.estimate, found.replay.recording.program)
    alone = measure_workspaces(tuple(in_model), open_machine().device, budget_s=60, timeout_s=120).found
    assert len(alone) > 20
    assert alone == {call: in_model[call] for call in alone}


def test_nothing_stays_on_the_card():
    probe = open_probe()
    device = open_machine().device
    before_bytes = probe.memory(device).used_bytes
    measure("resnet50", batch=1, precision="fp16")
    time.sleep(0.5)
    assert probe.memory(device).used_bytes <= before_bytes + 8 * MIB


def test_out_of_memory_is_a_result():
    found = measure("yolov8s", batch=64, limit_bytes=1 << 30, force=True)
    assert found.outcome is Outcome.OUT_OF_MEMORY
    assert 300 * MIB < found.total_bytes <= 1 << 30


def test_what_cannot_fit_is_not_started():
    with pytest.raises(MeasurementError, match="not started"):
        measure("yolov8s", batch=64, limit_bytes=1 << 30)


def test_the_timeout_ends_it():
    with pytest.raises(MeasurementError, match=r"within 1 s"):
        measure("resnet50", batch=1, timeout_s=1)


def test_the_context_grows_step_by_step():
    steps = {step.name: step.context_bytes for step in measure("resnet50", batch=1).steps}
    assert 0 < steps["init"] < steps["first_kernel"] <= steps["first_convolution"] <= steps["first_gemm"]


def test_the_largest_batch_is_near_what_the_estimate_says():
    """At least what the estimate promises runs, or all but 2 % of it."""
    found = find_max_batch(Cell(model="resnet50", precision="fp16"), open_machine(), Guard(limit_bytes=2 << 30))
    assert found.estimated_batch is not None
    assert found.largest_batch is not None
    assert found.largest_batch >= 0.98 * found.estimated_batch


def test_ctrl_c_leaves_no_process(tmp_path: Path):
    command = [sys.executable, "-m", "vramplan", "measure", "yolov8x", "-b", "8"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path.cwd()) as parent:
        time.sleep(6)
        parent.send_signal(2)
        parent.wait(timeout=20)
    time.sleep(1)
    used = {process.pid: process.name for process in open_probe().processes(open_machine().device)}
    assert set(used) <= {os.getpid()}, used
