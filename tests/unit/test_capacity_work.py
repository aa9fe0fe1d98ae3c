"""Channels are filled up to rows of 64 bytes, and an 8-bit engine keeps 16-bit kernels where they are faster."""

from __future__ import annotations

import pytest

from vramplan.capacity.work import computed_flops
from vramplan.dtypes import DType
from vramplan.graph import Graph, Node, Tensor


def flops(arithmetic, inputs, outputs, *, group=1):
    tensors = {
        "x": Tensor(name="x", dtype=DType.FLOAT32, shape=(1, inputs, 10, 10)),
        "w": Tensor(name="w", dtype=DType.FLOAT32, shape=(outputs, inputs // group, 1, 1)),
        "y": Tensor(name="y", dtype=DType.FLOAT32, shape=(1, outputs, 10, 10)),
    }
    node = Node(name="conv", op="Conv", inputs=("x", "w"), outputs=("y",), attributes={"group": group})
    graph = Graph(name="g", tensors=tensors, nodes=(node,), inputs=("x",), outputs=("y",), weights=("w",))
    return computed_flops(node, graph, arithmetic)


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_whole_rows_cost_what_they_are(arithmetic):
    assert flops(arithmetic, 64, 128) == 2 * 100 * 64 * 128


def test_sixteen_bits_fill_up_to_32_channels():
    assert flops("fp16", 3, 16) == 2 * 100 * 32 * 32


def test_thirty_two_bits_fill_up_to_16_channels():
    assert flops("fp32", 3, 16) == 2 * 100 * 16 * 16


def test_eight_bits_fill_up_to_64_channels():
    assert flops("int8", 64, 48) == 2 * 100 * 64 * 64


def test_narrow_layers_of_an_8_bit_engine_stay_at_16_bits_and_half_the_rate():
    assert flops("int8", 16, 16) == 2 * (2 * 100 * 32 * 32)


def test_grouped_convolutions_are_not_filled_up():
    assert flops("int8", 16, 16, group=16) == 2 * 100 * 16
