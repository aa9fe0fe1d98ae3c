"""Operations and bytes, op by op, and whole models against published GFLOPs."""

from __future__ import annotations

import pytest

from tests.graphs import graph
from vramplan.flops import MOVES, NORMALISATIONS, POINTWISE, POOLING, REDUCTIONS, SAMPLING, count_node, count_work
from vramplan.sources import open_model, zoo


def counted(op, inputs, output, weights=None, **attributes):
    names = " ".join([*inputs, *(weights or {})])
    made = graph(inputs, [(op, names, {"y": output}, attributes)], "y", weights=weights)
    return count_node(made.nodes[0], made.tensors)


def test_a_convolution_is_two_operations_for_each_weight_of_each_output_element():
    assert counted("Conv", {"x": (1, 3, 32, 32)}, (1, 16, 32, 32), {"w": (16, 3, 3, 3)}) == (2 * 16 * 32 * 32 * 3 * 9, 0)


def test_groups_divide_the_work_of_a_convolution():
    depthwise = counted("Conv", {"x": (1, 16, 32, 32)}, (1, 16, 32, 32), {"w": (16, 1, 3, 3)}, group=16)
    assert depthwise == (2 * 16 * 32 * 32 * 9, 0)


def test_a_transposed_convolution_counts_from_its_input():
    up = counted("ConvTranspose", {"x": (1, 8, 16, 16)}, (1, 4, 32, 32), {"w": (8, 4, 2, 2)})
    assert up == (2 * 8 * 16 * 16 * 4 * 4, 0)


@pytest.mark.parametrize(("trans", "left"), [(0, (5, 7)), (1, (7, 5))])
def test_gemm_multiplies_along_the_inner_axis(trans, left):
    assert counted("Gemm", {"a": left}, (5, 3), {"b": (7, 3)}, transA=trans) == (2 * 5 * 7 * 3, 0)


def test_a_batched_product_and_the_same_as_einsum():
    assert counted("MatMul", {"a": (2, 4, 5, 7), "b": (2, 4, 7, 3)}, (2, 4, 5, 3)) == (2 * 2 * 4 * 5 * 7 * 3, 0)
    same = counted("Einsum", {"a": (2, 4, 5, 7), "b": (2, 4, 7, 3)}, (2, 4, 5, 3), equation="bhij,bhjk->bhik")
    assert same == (2 * 2 * 4 * 5 * 7 * 3, 0)
    ellipsis = counted("Einsum", {"a": (2, 4, 5, 7), "b": (7, 3)}, (2, 4, 5, 3), equation="...j,jk->...k")
    assert ellipsis == (2 * 2 * 4 * 5 * 7 * 3, 0)


def test_quantised_variants_count_like_the_float_ones():
    conv = counted("QLinearConv", {"x": (1, 3, 8, 8), "s": (1,), "z": (1,)}, (1, 4, 8, 8), {"w": (4, 3, 3, 3)})
    assert conv == (2 * 4 * 8 * 8 * 27, 0)
    assert counted("MatMulInteger", {"a": (5, 7)}, (5, 3), {"b": (7, 3)}) == (2 * 5 * 7 * 3, 0)
    assert counted("MatMulNBits", {"a": (1, 5, 64)}, (1, 5, 32), {"b": (32, 1, 32)}, K=64, N=32) == (2 * 5 * 64 * 32, 0)


def test_attention_is_two_products():
    shape = (1, 8, 100, 64)
    assert counted("Attention", {"q": shape, "k": shape, "v": shape}, shape) == (2 * 8 * 100 * 100 * (64 + 64), 0)


def test_a_recurrent_cell_multiplies_input_and_state_for_each_gate():
    lstm = counted("LSTM", {"x": (10, 2, 16)}, (10, 1, 2, 32), {"w": (1, 128, 16), "r": (1, 128, 32)})
    assert lstm == (2 * 10 * 2 * 4 * 32 * (16 + 32), 0)


def test_what_is_no_product_counts_elements():
    assert counted("Relu", {"x": (2, 3)}, (2, 3)) == (0, 6)
    assert counted("ReduceMean", {"x": (2, 300)}, (2, 1)) == (0, 600)
    assert counted("Softmax", {"x": (2, 300)}, (2, 300)) == (0, 5 * 600)
    assert counted("MaxPool", {"x": (1, 1, 8, 8)}, (1, 1, 4, 4), kernel_shape=(2, 2)) == (0, 4 * 16)
    assert counted("Reshape", {"x": (2, 3)}, (6,)) == (0, 0)


def test_an_op_that_is_not_in_the_tables_is_named():
    work = count_work(graph({"x": (1, 4)}, [("Frobnicate", "x", {"y": (1, 4)}), ("Relu", "y", {"z": (1, 4)})], "z"))
    assert work.unknown == ("Frobnicate",)
    assert (work.matrix_flops, work.vector_flops, work.moved_bytes) == (0, 4, 2 * (16 + 16))


def test_no_op_is_in_two_tables():
    tables = [POINTWISE, REDUCTIONS, NORMALISATIONS, POOLING, frozenset(SAMPLING), MOVES]
    assert sum(map(len, tables)) == len(frozenset().union(*tables))


@pytest.mark.parametrize("model", list(zoo().values()), ids=lambda model: model.name)
def test_published_gflops_of_the_zoo(model):
    """1 %: the published numbers have two or three digits (6.5 for YOLO11n, which is 6.543)."""
    work = count_work(open_model(model.name).bind(batch=1, shapes={}, dims={}))
    assert work.unknown == ()
    assert work.matrix_flops / 1e9 == pytest.approx(model.gflops, rel=0.01)


def test_a_batch_multiplies_the_work():
    one, four = (count_work(open_model("yolov8n").bind(batch=batch, shapes={}, dims={})).matrix_flops for batch in (1, 4))
    assert four == 4 * one
