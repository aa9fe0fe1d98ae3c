"""The accuracy page of PyTorch: as committed data says, and the predictions as the code makes them today."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vramplan.allocators.caching import replay
from vramplan.ranges import Range
from vramplan.runtimes.torch_eager.shadow import Target
from vramplan.runtimes.torch_eager.trace import trace

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "torch"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def module():
    """Modules of the benchmark by name, from its own folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def data(module):
    return module("rows")


def test_the_page_is_what_the_data_says():
    command = [sys.executable, str(FOLDER / "accuracy.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_run_is_on_the_page_once(data):
    runs = [tuple(run[name] for name in data.KEY) for run in data.read_runs()[1]]
    rows = [(row.model, row.dtype, row.memory_format, row.batch) for row in data.read_rows()]
    assert len(runs) == len(set(runs)) > 1000
    assert rows == runs


def test_the_aims_of_the_trace_and_the_allocator_are_met(data):
    rows = data.read_rows()
    exact = sum(row.predicted["measured"]["first_allocated"] == row.real["first_allocated"] for row in rows)
    assert exact >= data.AIM_EXACT * len(rows)
    assert len({row.model for row in rows}) >= 30
    assert all(row.loaded["requested"][0] == row.loaded["requested"][1] for row in rows)  # weights and inputs


def test_a_peer_that_was_asked_has_an_answer_or_a_reason(module, data):
    names = module("tables").PEER_NAMES
    failed = [(*data.key_of(line), line["peer"]) for line in data.read_csv(data.FAILED)]
    answered = [(*data.key_of(line), peer) for line in data.read_csv(data.PEERS_FILE) for peer in names if line[peer]]
    asked = [
        (*data.key_of(run), peer)
        for run in data.read_runs()[1]
        for peer in names
        if run["model"] not in module("zoo").BLIND
        if peer != "onnx_tool" or data.is_exported(run["dtype"], run["memory_format"], run["batch"])
    ]
    assert sorted(failed + answered) == sorted(asked)


def test_weights_of_a_peer_are_the_weights_that_were_loaded(data):
    runs = {data.key_of(run): run for run in data.read_runs()[1]}
    for line in data.read_csv(data.PEERS_FILE):
        loaded = runs[data.key_of(line)]["loaded"]["requested_bytes.current"]
        assert int(line["weights_and_a_fifth"]) < 1.2 * loaded  # which has the inputs too


def test_predictions_of_the_zoo_are_those_of_the_code(module, data):
    known = module("predictions").measured_workspaces()
    rows = [row for row in data.read_rows() if row.model.startswith("zoo/") and row.batch < 16 and row.dtype in DTYPES]
    modules = {row.model: module("zoo").build(row.model)[0] for row in rows}
    target = Target(
        conv_workspace=lambda call: Range.exact(known[call]), capability=(9, 0), sm_count=132, torch_version=(2, 11)
    )
    for row in rows:
        traced = trace(
            modules[row.model],
            (torch.empty(row.batch, 3, 640, 640, device="meta"),),
            {},
            target,
            dtype=DTYPES[row.dtype],
            channels_last=row.memory_format == "channels_last",
        )
        phases = replay(traced.program)
        assert phases["first_run"].allocated_peak_bytes == row.predicted["measured"]["first_allocated"], row
        assert phases["steady"].reserved_peak_bytes == row.predicted["measured"]["steady_reserved"], row
    assert len(rows) == 6 * 3 * 2 * 2 + 3 * 2 * 2 * 2  # and the blind ones


def test_answers_for_other_cards_are_those_of_the_code(module, data):
    committed = data.read_csv(data.CARDS)
    computed = module("cards").answers(None)
    names = [name for name in committed[0] if not name.startswith("cudnn_")]
    assert [[line[name] for name in names] for line in committed] == [[str(line[name]) for name in names] for line in computed]
