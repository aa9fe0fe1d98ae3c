"""ONNX Runtime for real, in a child process, on the CPU: what it reports, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from tests.device_fakes import H200, FakeProbe
from tests.measured import MIB, used
from vramplan.device import ort_child
from vramplan.device import run as device_run
from vramplan.device.measurement import Outcome
from vramplan.device.run import Request, run_child
from vramplan.errors import MachineError, ModelError
from vramplan.measuring import Cell
from vramplan.report.verified_text import verification_text
from vramplan.verification import verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A matrix product: x (batch, 4) times weights (4, 2)."""
    weights = numpy_helper.from_array(np.ones((4, 2), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    save(model, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


def request(path: Path, **changes: object) -> Request:
    cell = Cell(model=str(path), batch=3, runtime="onnxruntime")
    usual = {"is_timed": False, "inputs": cell.inputs(), "limit_bytes": 1 << 30}
    return Request(
        model=str(path), runtime="onnxruntime", batch=3, precision="as-is", memory_format="contiguous", **{**usual, **changes}
    )


def run(asked: Request, **answers: object):
    probe = FakeProbe(memory=used(0, 600, 610, 620, 620), **answers)
    return run_child(asked, probe=probe, device=H200, timeout_s=60)


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(device_run, "CUDA_PROVIDER", "CPUExecutionProvider")


def test_inputs_are_those_of_the_file_at_the_batch(path):
    assert Cell(model=str(path), batch=3, runtime="onnxruntime").inputs() == (("x", "float32", (3, 4)),)


def test_the_driver_is_read_after_the_session_and_runs_1_2_and_4(path, on_cpu):
    found = run(request(path, is_timed=True))
    assert found.outcome is Outcome.FINISHED
    assert {name: phase.process_bytes // MIB for name, phase in found.phases.items()} == {
        "session": 600,
        "run1": 610,
        "run2": 620,
        "steady": 620,
    }
    assert all(phase.reserved_bytes is None for phase in found.phases.values())
    assert found.total_bytes == 620 * MIB
    assert found.context_bytes is None
    assert (found.model, found.runtime, found.batch) == ("product", "onnxruntime", 3)
    assert "onnxruntime" in found.environment
    assert "torch" not in found.environment
    assert found.latency is not None
    assert found.latency.batch == 3


def test_each_node_says_what_it_asked_for(path, on_cpu):
    found = run(request(path))
    (node,) = found.nodes
    # x is (3, 4), 4 B an element; y is (3, 2), less than a chunk of 256 B. The CPU keeps a packed copy of w instead.
    assert (node.input_bytes, node.result_bytes, node.scratch_bytes) == (3 * 4 * 4, 256, 0)
    assert found.notes == ()


def test_a_session_without_statistics_is_measured_all_the_same(path, on_cpu, tmp_path):
    asked = request(path, options={"session.collect_node_memory_stats_to_file": "1"})
    assert run(asked).outcome is Outcome.FINISHED
    lines = "#name,input_sizes,initializers_sizes,total_dynamic_sizes,total_temp_allocations\na,b_77,1,2,3,4\nbroken,1\n"
    assert list(ort_child.statistics_of(lines)) == [["a,b", 1, 2, 3, 4]]


def test_a_model_that_onnx_runtime_refuses(path, on_cpu):
    asked = request(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model"):
        run(asked)


def test_a_build_without_cuda_says_so(path):
    with pytest.raises(MachineError, match="has no CUDA provider") as caught:
        run(request(path))
    assert "onnxruntime-gpu" in caught.value.hint


def test_session_options_reach_the_session(path, on_cpu):
    options = {
        "enable_mem_pattern": "0",
        "graph_optimization_level": "disable_all",
        "session.use_device_allocator_for_initializers": "1",
    }
    assert run(request(path, options=options)).outcome is Outcome.FINISHED


def test_verify_compares_what_the_process_takes_in_each_phase(path, on_cpu, monkeypatch, tmp_path):
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path / "cache"))
    probe = FakeProbe(memory=used(0, 0, 0, 600, 610, 620, 620))
    found = verify(str(path), batch=3, probe=probe, tolerance=0.5)
    assert [row.part for row in found.peaks] == ["session.process", "run1.process", "run2.process", "steady.process"]
    assert [row.measured_bytes for row in found.peaks] == [600 * MIB, 610 * MIB, 620 * MIB, 620 * MIB]
    assert found.total.measured_bytes == 620 * MIB
    assert found.total.predicted_bytes == found.estimate.total_bytes
    assert found.within_tolerance
    text = verification_text(found)
    assert "steady: process" in text
    assert max(map(len, text.splitlines())) <= 100
