"""The page about published speeds says what the calculator does, and the shipped constants are the fitted ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import streams_published as benchmark
from streams_models import PUBLISHED, SKETCHES

from vramplan.capacity.constants import FITTED, constants
from vramplan.flops import count_work

pytestmark = pytest.mark.filterwarnings("default")


def test_the_committed_page_is_up_to_date():
    assert benchmark.main(["--check"]) == 0


def test_the_shipped_constants_are_the_fitted_ones():
    fit, shipped = benchmark.fitted(), constants()
    assert {name: getattr(shipped, name) for name in FITTED} == {name: getattr(fit, name) for name in FITTED}
    assert round(fit.pipeline.low, 2) == shipped.pipeline.low
    assert round(fit.pipeline.nominal, 2) == shipped.pipeline.nominal
    band = benchmark.shipped_band([row for row in benchmark.rows() if row.kind == "infer"])
    assert [round(edge, 2) for edge in (band.low, band.nominal, band.high)] == [
        shipped.engine.low,
        shipped.engine.nominal,
        shipped.engine.high,
    ]


def test_aims_that_are_met():
    rows = benchmark.rows()
    decode = sorted(abs(row.error) for row in rows if row.kind == "decode")
    assert decode[len(decode) // 2] <= 0.25
    assert sum(row.is_inside for row in rows) / len(rows) >= 0.85


def test_inference_is_within_15_percent():
    errors = sorted(abs(row.error) for row in benchmark.rows() if row.kind == "infer")
    assert errors[len(errors) // 2] <= 0.15


def test_validated_engines_ran_at_their_own_batch():
    by_id = {row.id: row for row in benchmark.table()}
    assert by_id[208].batch == by_id[207].batch == 8
    assert by_id[208].fps == by_id[207].fps


def test_inference_in_fp16_is_within_15_percent():
    errors = sorted(abs(row.error) for row in benchmark.rows() if row.kind == "infer" and ", fp16," in row.what)
    assert errors[len(errors) // 2] <= 0.15


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_sketches_have_the_published_size(size):
    graph = SKETCHES[size]()
    gflops, parameters = PUBLISHED[size]
    assert count_work(graph).matrix_flops / 1e9 == pytest.approx(gflops, rel=0.015)
    assert graph.parameter_count / 1e6 == pytest.approx(parameters, rel=0.015)


def test_no_row_is_dropped_in_silence():
    table = benchmark.table()
    judged = sum(len(benchmark.usable(kind)) for kind in ("infer", "decode", "pipeline"))
    unusable = sum(bool(benchmark.unusable(row, table)) for row in table)
    doubtful = sum(bool(benchmark.doubtful(row, table)) and not benchmark.unusable(row, table) for row in table)
    assert judged + unusable + doubtful == len(table)
