import pytest

from tests.graphs import IMAGE, KERNEL, graph
from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.precision import apply_policy, find_policy


def convolution_then_softmax(dtype=DType.FLOAT32):
    return graph(
        {"x": IMAGE},
        [("Conv", "x w b", {"a": IMAGE}), ("Relu", "a", {"r": IMAGE}), ("Softmax", "r", {"y": IMAGE})],
        "y",
        weights={"w": KERNEL, "b": (8,)},
        values={"shape": (1, 2, 3)},
        dtype=dtype,
    )


def types(precision, model=None):
    converted = apply_policy(model or convolution_then_softmax(), find_policy(precision))
    return {name: tensor.dtype.value for name, tensor in converted.graph.tensors.items()}


def test_sixteen_bits_convert_every_float_and_no_integer():
    assert types("fp16") == dict.fromkeys(["x", "w", "b", "a", "r", "y"], "float16") | {"shape": "int64"}
    assert types("bf16")["x"] == "bfloat16"


def test_int8_narrows_results_between_ops_with_8_bit_kernels_and_keeps_bindings():
    assert types("int8") == {
        "x": "float32",  # graph input, as declared
        "w": "int8",
        "b": "float16",
        "a": "int8",  # from Conv, read by Relu
        "r": "float16",  # read by Softmax
        "y": "float32",  # graph output, as declared
        "shape": "int64",
    }


def test_int8_weights_bring_one_float32_scale_per_output_channel():
    converted = apply_policy(convolution_then_softmax(), find_policy("int8"))
    assert converted.scales["w"].size_bytes == 8 * 4


def test_fp8_weights_bring_one_scale_per_tensor():
    converted = apply_policy(convolution_then_softmax(), find_policy("fp8"))
    assert converted.scales["w"].size_bytes == 4


def test_int4_is_for_matrix_products_only_with_a_scale_per_128_elements():
    model = graph(
        {"x": (1, 300)},
        [("MatMul", "x w", {"a": (1, 64)}), ("Gemm", "a v", {"y": (1, 64)}, {"transB": 1})],
        "y",
        weights={"w": (300, 64), "v": (64, 64)},
    )
    converted = apply_policy(model, find_policy("int4"))
    assert converted.graph.tensors["w"].size_bytes == 300 * 64 // 2
    assert converted.scales["w"].size_bytes == 64 * 3 * 2  # ceil(300 / 128) = 3 groups a column, float16
    assert converted.scales["v"].size_bytes == 64 * 1 * 2
    assert types("int4")["w"] == "float16"  # a convolution's weight


def test_a_weight_that_something_else_reads_too_is_not_quantised():
    model = graph({"x": (4, 4)}, [("MatMul", "x w", {"a": (4, 4)}), ("Add", "a w", {"y": (4, 4)})], "y", weights={"w": (4, 4)})
    assert types("int8", model)["w"] == "float16"


def test_what_stays_wider_is_counted_with_its_reason():
    kept = apply_policy(convolution_then_softmax(), find_policy("int8")).kept
    assert {(row.op, row.reason, row.tensor_count, row.size_bytes) for row in kept} == {
        ("Conv", "graph input or output", 1, 8 * 256 * 4),
        ("Conv", "bias, norm or constant", 1, 8 * 2),
        ("Relu", "read by an op without 8-bit kernel", 1, 8 * 256 * 2),
        ("Softmax", "graph input or output", 1, 8 * 256 * 4),
    }


def test_a_weight_only_policy_promises_nothing_about_results():
    kept = apply_policy(convolution_then_softmax(), find_policy("int4")).kept
    assert {row.reason for row in kept} == {"weight of an op the policy does not quantise"}


def test_resize_scales_and_nms_stay_float32():
    model = graph(
        {"x": IMAGE},
        [("Resize", "x - scales", {"a": IMAGE}), ("NonMaxSuppression", "a", {"y": (1, 3)})],
        "y",
        weights={"scales": (4,)},
    )
    assert types("fp16", model)["scales"] == "float32"
    assert types("fp16", model)["a"] == "float32"


def test_as_is_changes_nothing():
    model = convolution_then_softmax(dtype=DType.FLOAT16)
    assert apply_policy(model, find_policy("as-is")).graph is model


def test_the_wide_graph_holds_16_bits_where_8_bit_results_may_lose_the_timing():
    converted = apply_policy(convolution_then_softmax(), find_policy("int8"))
    assert converted.wide_graph.tensors["a"].dtype is DType.FLOAT16
    assert converted.wide_graph.tensors["w"].dtype is DType.INT8


def test_names_are_forgiving_and_nonsense_is_not():
    assert find_policy("Half").name == find_policy("float16").name == "fp16"
    with pytest.raises(UsageError) as caught:
        find_policy("fp15")
    assert "fp16" in caught.value.hint
