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
from vramplan.sources.torch_module import open_torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "torch"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def accuracy():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("accuracy")
    finally:
        sys.path.remove(str(FOLDER))


def test_the_page_is_what_the_data_says():
    command = [sys.executable, str(FOLDER / "accuracy.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_run_is_on_the_page_once(accuracy):
    runs = [tuple(run[name] for name in accuracy.KEY) for run in accuracy.read_runs()[1]]
    rows = [(row.model, row.dtype, row.memory_format, row.batch) for row in accuracy.read_rows()]
    assert len(runs) == len(set(runs)) > 1000
    assert rows == runs


def test_the_aims_of_the_trace_and_the_allocator_are_met(accuracy):
    rows = accuracy.read_rows()
    exact = sum(row.predicted["measured"]["first_allocated"] == row.real["first_allocated"] for row in rows)
    assert exact >= 0.95 * len(rows)
    assert len({row.model for row in rows}) >= 30
    assert all(row.loaded["requested"][0] == row.loaded["requested"][1] for row in rows)  # weights and inputs


def test_predictions_of_the_zoo_are_those_of_the_code(accuracy):
    known = accuracy.measured_workspaces()
    rows = [row for row in accuracy.read_rows() if row.model.startswith("zoo/") and row.batch < 16 and row.dtype in DTYPES]
    modules = {row.model: open_torch(row.model.removeprefix("zoo/")).module for row in rows}
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
    assert len(rows) == 6 * 3 * 2 * 2
