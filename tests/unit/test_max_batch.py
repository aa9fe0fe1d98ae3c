"""The search for the largest batch, with a GPU that is a rule."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.device_fakes import H200, FakeProbe
from tests.measured import MIB, measurement, reading
from vramplan import max_batch
from vramplan.device.measurement import Outcome
from vramplan.gpus import find_gpu
from vramplan.max_batch import MaxBatch, find_max_batch
from vramplan.measuring import Cell, Guard, Machine
from vramplan.report.measured_text import max_batch_lines, max_batch_text

MACHINE = Machine(probe=FakeProbe(), device=H200, gpu=find_gpu("h200"))


@dataclass(frozen=True)
class Rule(Cell):
    """A cell that is estimated by a rule."""

    per_item_mib: int = 10

    def estimate(self, gpu):
        return Estimated((600 + self.per_item_mib * (self.batch or 1)) * MIB)


@dataclass(frozen=True)
class Estimated:
    total_bytes: int


def search(monkeypatch, runs, *, limit_mib: int = 1600, per_item_mib: int = 10) -> MaxBatch:
    """Search while *runs(batch)* says what the GPU does."""

    def measure_cell(cell, machine, guard, *, expected, is_timed):
        assert guard.force
        assert guard.limit_bytes == limit_mib * MIB
        if runs(cell.batch):
            return measurement(batch=cell.batch)
        return measurement(batch=cell.batch, outcome=Outcome.OUT_OF_MEMORY, phases={"load": reading(40)})

    monkeypatch.setattr(max_batch, "measure_cell", measure_cell)
    return find_max_batch(Rule(model="net", per_item_mib=per_item_mib), MACHINE, Guard(limit_bytes=limit_mib * MIB))


def test_an_estimate_that_is_right_takes_few_tries(monkeypatch):
    """600 + 10 MiB a batch within 1600 MiB: 100."""
    found = search(monkeypatch, lambda batch: batch <= 100)
    assert (found.largest_batch, found.failed_batch, found.estimated_batch) == (100, 101, 100)
    assert len(found.tries) <= 4


@pytest.mark.parametrize("truth", [1, 2, 37, 99, 100, 101, 103, 117, 150, 200])
def test_the_answer_stands_between_a_batch_that_ran_and_one_that_did_not(monkeypatch, truth):
    found = search(monkeypatch, lambda batch: batch <= truth)
    ran = [attempt.batch for attempt in found.tries if attempt.is_finished]
    failed = [attempt.batch for attempt in found.tries if not attempt.is_finished]
    assert found.largest_batch == truth == max(ran)
    assert found.failed_batch == min(failed) == truth + 1
    assert len({attempt.batch for attempt in found.tries}) == len(found.tries)


def test_nothing_runs(monkeypatch):
    found = search(monkeypatch, lambda _: False)
    assert found.largest_batch is None
    assert next(max_batch_lines(found)).startswith("No batch ran within 1.56 GiB")


def test_an_estimate_that_does_not_fit_is_tried_all_the_same(monkeypatch):
    found = search(monkeypatch, lambda batch: batch <= 3, limit_mib=500)
    assert (found.estimated_batch, found.largest_batch) == (None, 3)


def test_the_search_ends_although_everything_runs(monkeypatch):
    found = search(monkeypatch, lambda _: True, per_item_mib=0)
    assert found.failed_batch is None
    assert len(found.tries) <= 16


def test_the_text_has_the_tries_and_the_estimate(monkeypatch):
    text = max_batch_text(search(monkeypatch, lambda batch: batch <= 101))
    assert "Batch 101 is the largest that ran" in text
    assert "The estimate said 100" in text
