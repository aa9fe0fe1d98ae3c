"""The arena, the planner and the pattern against what ONNX Runtime itself wrote down on an H200."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path

import pytest

from vramplan.allocators.bfc import BfcArena
from vramplan.runtimes.onnxruntime.options import parse_session_options
from vramplan.runtimes.onnxruntime.session import Declared, prepare
from vramplan.sources import open_model

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "benchmarks" / "data" / "onnxruntime_h200"
NETWORKS = (
    "tv-densenet121.open.fp32", "tv-densenet121.open.fp16", "tv-densenet121.fixed.fp32", "tv-inception_v3.open.fp32",
    "tv-inception_v3.open.fp16", "tv-mobilenet_v3_large.open.fp32", "tv-mobilenet_v3_large.fixed.fp32",
    "tv-shufflenet_v2_x1_0.open.fp32", "zoo-yolov8s.open.fp32", "zoo-yolov8s.fixed.fp32", "zoo-yolov8s.file.fp32",
)  # fmt: skip


def rows(name):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def predictions():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("ort_predictions")


@pytest.fixture(scope="module")
def runs():
    return rows("runs")


def prepared(predictions, record):
    source = open_model(str(predictions.graphs() / record["graph"]))
    shapes = {name: tuple(shape) for name, shape in record["shapes"].items()}
    graph = source.bind(batch=None, shapes=shapes, dims={})
    return prepare(graph, parse_session_options({}), Declared.of([item.dims for item in source.inputs]))


def test_every_region_of_every_recorded_process_has_the_size_that_the_rules_give_it(runs):
    """The log names the request that no chunk served and the region that was taken for it: 1,154 processes, one by one."""
    compared = 0
    for record in runs:
        options = {key: value for key, value in record["options"].items() if key.startswith(("arena", "gpu_mem"))}
        rules = parse_session_options(options).arena
        arena = BfcArena(rules)
        for index, (_, request, size_bytes) in enumerate(record["regions"]):
            if request < 0:
                arena.reserve(index, size_bytes)
                continue
            arena.hold(index, request)
            for number, (_, chunk_bytes) in enumerate(arena.free_chunks()):  # nothing is left that could serve the next one
                arena.hold(-1 - 1000 * index - number, chunk_bytes)
            assert arena.regions[-1].size_bytes == size_bytes, (record["graph"], record["options"], index)
            compared += 1
    assert compared > 30_000


@pytest.mark.parametrize("name", NETWORKS)
def test_the_block_of_the_second_run_is_what_the_arena_was_asked_for(name, predictions, runs):
    found = [
        record
        for record in runs
        if record["graph"] == f"{name}.onnx" and record["options"]["arena_extend_strategy"] == "kSameAsRequested"
    ]
    plain = [record for record in found if len(record["options"]) == 2]
    assert plain
    for record in plain:
        asked = [request for phase, request, _ in record["regions"] if phase == "run2"]
        assert prepared(predictions, record).pattern_bytes in asked


@pytest.mark.parametrize("name", [name for name in NETWORKS if "shufflenet" not in name])  # its names are not unique
def test_every_node_allocates_what_its_statistics_say(name, predictions):
    record = next(row for row in rows("nodes") if row["graph"] == f"{name}.onnx" and row["nodes"] == "HEURISTIC")
    said = {}
    for node, _, _, dynamic, _ in record["stats"][1:]:
        said.setdefault(node.rpartition("_")[0], int(dynamic))
    ours = prepared(predictions, record)
    taken = dict.fromkeys(range(len(ours.nodes)), 0)
    for buffer in ours.buffers:
        taken[buffer.first_step] += -(-buffer.size_bytes // 256) * 256
    pairs = [
        (said[node.name], taken[step]) for step, node in enumerate(ours.nodes) if node.name in said and ours.is_on_gpu(node)
    ]
    assert len(pairs) > 0.5 * len(ours.nodes)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@pytest.mark.parametrize("name", [name for name in NETWORKS if "yolov8s" not in name])  # ours keep two constants more there
def test_the_weights_on_the_gpu_are_those_that_the_session_allocated(name, predictions, runs):
    record = next(
        record
        for record in runs
        if record["graph"] == f"{name}.onnx"
        and record["options"]["arena_extend_strategy"] == "kSameAsRequested"
        and len(record["options"]) == 2
    )
    ours = prepared(predictions, record)
    sizes = sorted(ours.rewritten.tensors[weight].size_bytes for weight in ours.rewritten.initializers)
    assert sizes == sorted(request for phase, request, _ in record["regions"] if phase == "session")
