"""Nodes of a session beside ONNX Runtime's statistics of them: the prediction, and what an H200 recorded."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from vramplan.alignment import align
from vramplan.device.measurement import NodeReading
from vramplan.device.ort_child import statistics_of
from vramplan.estimate import estimate
from vramplan.nodes import PHASE, node_programs
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "onnxruntime_h200"


def reading(name: str, result_bytes: int, scratch_bytes: int = 0) -> NodeReading:
    return NodeReading(name=name, input_bytes=0, initializer_bytes=0, result_bytes=result_bytes, scratch_bytes=scratch_bytes)


def session() -> MemoryProgram:
    """conv (1000 B and 5000 of scratch), relu in place, split into two of 512 B."""
    builder = ProgramBuilder()
    builder.phase("session")
    builder.op("inputs")
    builder.hold(Buffer(name="x", role=Role.INPUT, size_bytes=4096, path="x"))
    builder.op("conv")
    builder.hold(Buffer(name="c", role=Role.ACTIVATION, size_bytes=1000, path="c"))
    builder.free(builder.hold(Buffer(name="scratch", role=Role.WORKSPACE, size_bytes=5000, path="scratch")))
    builder.op("relu")
    builder.op("split")
    builder.hold(Buffer(name="a", role=Role.ACTIVATION, size_bytes=512, path="a"))
    builder.hold(Buffer(name="b", role=Role.OUTPUT, size_bytes=512, path="b"))
    builder.phase("run1")
    return builder.build()


def compared(*nodes: NodeReading):
    return align(*node_programs(session(), nodes), PHASE)


def test_sizes_are_those_of_chunks_and_results_of_a_node_are_one():
    # 1000 B are 4 chunks of 256, 5000 are 20; the statistics come in no order
    found = compared(reading("split", 1024), reading("relu", 0), reading("conv", 1024, 5120))
    assert found.is_equal
    assert found.equal_count == 2


def test_another_scratch_is_a_difference_with_its_name():
    found = compared(reading("conv", 1024, 2560), reading("split", 1024))
    assert (found.equal_count, found.different_count) == (1, 1)
    assert found.first is not None
    assert (found.first.name, found.first.role, found.first.error_bytes) == ("conv", "workspace", 5120 - 2560)


def test_a_node_that_only_the_session_has_is_counted_and_a_shape_on_the_cpu_is_not():
    found = compared(
        reading("conv", 1024, 5120),
        reading("split", 1024),
        reading("Memcpy", 4096),
        reading("shape", 256),
        reading("relu", 256),
    )
    assert (found.equal_count, found.only_measured_count) == (2, 1)


@pytest.fixture(scope="module")
def recorded() -> dict:
    """The first fixed graph that was recorded, under HEURISTIC."""
    with gzip.open(DATA / "nodes.jsonl.gz", "rt") as rows:
        return next(row for row in map(json.loads, rows) if row["graph"] == "zoo-yolo11s.file.fp32.onnx" and row["stats"])


def test_results_of_a_recorded_session_are_predicted_node_by_node(recorded):
    with tarfile.open(DATA / "graphs.tar.xz") as archive:
        member = next(item for item in archive.getmembers() if item.name.endswith(recorded["graph"]))
        content = archive.extractfile(member).read()
    shapes = {name: tuple(shape) for name, shape in recorded["shapes"].items()}
    found = estimate(content, shapes=shapes, runtime="onnxruntime", gpu="h200")
    text = "\n".join(",".join(row) for row in recorded["stats"])
    nodes = [NodeReading(**dict(zip(NodeReading.__slots__, row, strict=True))) for row in statistics_of(text)]
    alignment = align(*node_programs(found.program, nodes), PHASE)
    asked = alignment.equal_count + alignment.different_count
    assert asked > 200
    assert alignment.equal_count > 0.8 * asked  # the rest are convolutions, whose scratch depends on cuDNN
    assert (alignment.only_predicted_count, alignment.only_measured_count) == (0, 0)
    assert {difference.role for difference in alignment.largest} == {"workspace"}
