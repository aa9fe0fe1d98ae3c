from tests.graphs import IMAGE, KERNEL, graph, silu
from vramplan.runtimes.fusion import find_views, fold_constants, fuse, live_nodes
from vramplan.runtimes.ops import Kind


def kernels(model, *, activations_join=True):
    """Each kernel as "Op+Op"."""
    return ["+".join(node.op for node in kernel.nodes) for kernel in fuse(model, activations_join=activations_join).kernels]


def two_convolutions_with_silu():
    return graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            *silu("a", "b"),
            ("Conv", "b w", {"c": IMAGE}),
            *silu("c", "d"),
            ("Conv", "d w", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL},
    )


def test_only_the_first_convolution_of_a_16_bit_engine_leaves_its_activation_outside():
    assert kernels(two_convolutions_with_silu()) == ["Conv", "Sigmoid+Mul", "Conv+Sigmoid+Mul", "Conv"]


def test_in_a_32_bit_engine_no_convolution_takes_an_activation():
    expected = ["Conv", "Sigmoid+Mul", "Conv", "Sigmoid+Mul", "Conv"]
    assert kernels(two_convolutions_with_silu(), activations_join=False) == expected


def test_normalisation_residual_sum_and_clamp_always_join_the_convolution():
    model = graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            ("BatchNormalization", "a s s s s", {"b": IMAGE}),
            ("Add", "b x", {"c": IMAGE}),
            ("Relu", "c", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL, "s": (8,)},
    )
    assert kernels(model, activations_join=False) == ["Conv+BatchNormalization+Add+Relu"]
    assert fuse(model, activations_join=False).kernels[0].reads == ("x",)


def test_a_result_that_two_kernels_read_is_not_fused_away():
    model = graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            ("Relu", "a", {"b": IMAGE}),
            ("MaxPool", "a", {"c": IMAGE}),
            ("Add", "b c", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL},
    )
    assert kernels(model) == ["Conv", "MaxPool", "Relu+Add"]


def test_a_graph_output_is_never_fused_away():
    model = graph({"x": IMAGE}, [("Relu", "x", {"a": IMAGE}), ("Sigmoid", "a", {"y": IMAGE})], "a y")
    assert kernels(model) == ["Relu", "Sigmoid"]


def test_pointwise_kernels_of_other_shapes_stay_apart():
    model = graph({"x": (1, 8, 1, 1), "z": IMAGE}, [("Sigmoid", "x", {"a": (1, 8, 1, 1)}), ("Mul", "a z", {"y": IMAGE})], "y")
    assert kernels(model) == ["Sigmoid", "Mul"]


def test_attention_is_one_region_with_its_kernels_inside():
    tokens, scores = (1, 4, 16), (1, 4, 4)
    model = graph(
        {"q": tokens, "k": (1, 16, 4), "v": tokens},
        [
            ("MatMul", "q k", {"s": scores}),
            ("Softmax", "s", {"p": scores}),
            ("MatMul", "p v", {"y": tokens}),
        ],
        "y",
    )
    (region,) = fuse(model, activations_join=True).kernels
    assert region.kind is Kind.REGION
    assert [kernel.writes for kernel in region.inner] == [("s",), ("p",), ("y",)]
    assert region.reads == ("q", "k", "v")
    assert region.writes == ("y",)


def test_what_no_input_changes_is_folded():
    model = graph(
        {"x": IMAGE},
        [
            ("Shape", "x", {"size": (4,)}),
            ("Cast", "size", {"grid": (4,)}),
            ("Mul", "w w", {"w2": (8,)}),
            ("Add", "x w2", {"y": IMAGE}),
        ],
        "y",
        weights={"w": (8,)},
    )
    constants = fold_constants(model)
    assert constants == {"w", "size", "grid", "w2"}
    assert [node.op for node in live_nodes(model, constants)] == ["Add"]
    assert fuse(model, activations_join=True).constants == ("w2",)


def test_a_random_result_is_not_a_constant():
    model = graph({"x": (4,)}, [("RandomNormal", "", {"r": (4,)}), ("Add", "x r", {"y": (4,)})], "y")
    assert "r" not in fold_constants(model)


def test_views_share_the_storage_of_their_root():
    model = graph(
        {"x": (1, 8, 4)},
        [
            ("Relu", "x", {"a": (1, 8, 4)}),
            ("Reshape", "a s", {"b": (8, 4)}),
            ("Split", "b", {"c": (4, 4), "d": (4, 4)}),
            ("Add", "c d", {"y": (4, 4)}),
        ],
        "y",
        values={"s": (8, 4)},
    )
    assert find_views(model, list(model.nodes), {"s"}) == {"b": "a", "c": "a", "d": "a"}
    assert fuse(model, activations_join=True).kernels[-1].reads == ("a",)


def test_a_strided_slice_is_a_copy():
    model = graph(
        {"x": (8,)},
        [("Relu", "x", {"a": (8,)}), ("Slice", "a b e ax st", {"c": (4,)}), ("Relu", "c", {"y": (4,)})],
        "y",
        values={"b": (0,), "e": (8,), "ax": (0,), "st": (2,)},
    )
    assert kernels(model) == ["Relu", "Slice", "Relu"]


def test_moving_only_dimensions_of_one_is_a_view():
    def transposed(shape, perm):
        target = tuple(shape[axis] for axis in perm)
        model = graph({"x": shape}, [("Transpose", "x", {"a": target}, {"perm": perm}), ("Relu", "a", {"y": target})], "y")
        return kernels(model)

    assert transposed((1, 8, 1, 4), (0, 2, 1, 3)) == ["Relu"]
    assert transposed((1, 8, 2, 4), (0, 2, 1, 3)) == ["Transpose", "Relu"]


def test_dead_branches_run_nothing():
    model = graph({"x": IMAGE}, [("Relu", "x", {"y": IMAGE}), ("Exp", "x", {"unused": IMAGE})], "y")
    assert kernels(model) == ["Relu"]


def quantised_convolution():
    """Both operands quantised and dequantised, as exporters write an explicitly quantised model."""
    return graph(
        {"x": IMAGE},
        [
            ("QuantizeLinear", "x s z", {"xq": IMAGE}),
            ("DequantizeLinear", "xq s z", {"xd": IMAGE}),
            ("DequantizeLinear", "w s z", {"wd": KERNEL}),
            ("Conv", "xd wd", {"a": IMAGE}),
            ("QuantizeLinear", "a s z", {"aq": IMAGE}),
            ("DequantizeLinear", "aq s z", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL, "s": (1,), "z": (1,)},
    )


def test_a_quantised_graph_keeps_its_quantised_tensors_in_memory():
    fused = fuse(quantised_convolution(), activations_join=True)
    assert kernels(quantised_convolution()) == ["QuantizeLinear", "Conv+QuantizeLinear+DequantizeLinear"]
    assert [kernel.reads for kernel in fused.kernels] == [("x",), ("xq",)]


def test_a_dequantised_weight_is_stored_quantised():
    fused = fuse(quantised_convolution(), activations_join=True)
    assert set(fused.constants) == {"w", "s", "z"}
    assert fused.root("wd") == "w"


def test_contributed_ops_run_like_the_ops_they_repeat():
    model = graph(
        {"x": IMAGE},
        [("QLinearConv", "x w", {"a": IMAGE}), ("QLinearSigmoid", "a", {"b": IMAGE}), ("QLinearAdd", "a b", {"y": IMAGE})],
        "y",
        weights={"w": KERNEL},
    )
    kinds = [kernel.kind for kernel in fuse(model, activations_join=False).kernels]
    assert kinds == [Kind.CONVOLUTION, Kind.POINTWISE]
