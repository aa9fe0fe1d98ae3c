"""The recording of 65,433 convolutions on an H200, and what the scores say that are made from it."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import convolutions as benchmark


@pytest.fixture(scope="module")
def rows() -> list[benchmark.Row]:
    return benchmark.rows()


def layer(row: benchmark.Row) -> tuple[object, ...]:
    call = row.call
    steps = (call.stride, call.padding, call.dilation, call.groups, call.transposed)
    return call.input_shape[1:], call.weight_shape, *steps


def test_no_layer_is_in_two_sets(rows: list[benchmark.Row]):
    layers = {name: {layer(row) for row in rows if row.set == name} for name in benchmark.SETS}
    assert all(layers.values())
    assert not layers["guided"] & layers["judged"]
    assert not layers["apart"] & (layers["guided"] | layers["judged"])


def test_the_cudnn_of_the_device_answers_what_pytorch_requests(rows: list[benchmark.Row]):
    score = benchmark.score(benchmark.on_device(rows))
    assert score.calls == 62_805
    assert score.close >= 0.9999


def test_scores_of_the_device_are_those_of_the_data(rows: list[benchmark.Row]):
    with benchmark.SCORES.open(encoding="utf-8", newline="") as file:
        written = [line for line in csv.DictReader(file) if line["way"] == "device" and line["set"] != "every"]
    made = list(benchmark.table("device", benchmark.on_device(rows)))
    assert written == [{name: str(value) for name, value in line.items()} for line in made]
