import pytest

from tests.graphs import IMAGE, KERNEL, graph
from vramplan.describe import describe_peak
from vramplan.dtypes import DType
from vramplan.graph import Graph, Node, Tensor
from vramplan.precision import apply_policy, find_policy
from vramplan.program import Role
from vramplan.runtimes.fusion import fuse
from vramplan.runtimes.lowering import concat_homes, lower, padded_bytes
from vramplan.runtimes.tensorrt import Fusions, plan

MIB = 1 << 20


def planned(model, precision="fp32", **options):
    return plan(Fusions.of(model), apply_policy(model, find_policy(precision)), **options)


def mnist():
    """The CNTK MNIST network of TensorRT's sampleOnnxMNIST."""
    return graph(
        {"x": (1, 1, 28, 28)},
        [
            ("Conv", "x w1", {"c1": (1, 8, 28, 28)}),
            ("Add", "c1 b1", {"a1": (1, 8, 28, 28)}),
            ("Relu", "a1", {"r1": (1, 8, 28, 28)}),
            ("MaxPool", "r1", {"p1": (1, 8, 14, 14)}),
            ("Conv", "p1 w2", {"c2": (1, 16, 14, 14)}),
            ("Add", "c2 b2", {"a2": (1, 16, 14, 14)}),
            ("Relu", "a2", {"r2": (1, 16, 14, 14)}),
            ("MaxPool", "r2", {"p2": (1, 16, 4, 4)}),
            ("Reshape", "p2 s", {"f": (1, 256)}),
            ("MatMul", "f w3", {"m": (1, 10)}),
            ("Add", "m b3", {"y": (1, 10)}),
        ],
        "y",
        weights={"w1": (8, 1, 5, 5), "b1": (8, 1, 1), "w2": (16, 8, 5, 5), "b2": (16, 1, 1), "w3": (256, 10), "b3": (1, 10)},
        values={"s": (1, 256)},
    )


def test_mnist_needs_what_the_build_log_says():
    # blocks: 8*28*28*4 = 25088, shared with 16*14*14*4; 8*14*14*4 = 6272, rounded up to 6656
    result = planned(mnist())
    assert result.phases["context"].allocated_peak_bytes == 25_088 + 6_656 == 31_744


def test_weights_are_the_engine():
    parameters = 8 * 25 + 8 + 16 * 8 * 25 + 16 + 2560 + 10
    assert planned(mnist()).weights.nominal_bytes == parameters * 4
    assert planned(mnist()).phases["engine"].allocated_peak_bytes == parameters * 4


def test_bindings_are_exact_and_outside_the_context():
    result = planned(mnist())
    assert (result.inputs.nominal_bytes, result.outputs.nominal_bytes) == (28 * 28 * 4, 40)
    assert result.inputs.evidence == "exact"


def test_parts_of_the_context_add_up_to_its_blocks():
    result = planned(mnist())
    own = result.activations.nominal_bytes + result.allocator_slack.nominal_bytes
    assert own == result.phases["context"].allocated_peak_bytes
    assert result.lower_bound_bytes == 31_744


def test_a_concatenation_is_written_in_place_by_what_can_write_strided():
    model = graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            ("MaxPool", "a", {"b": IMAGE}),
            ("Resize", "b", {"c": IMAGE}),
            ("Concat", "a b c", {"d": (1, 24, 16, 16)}),
            ("Conv", "d w2", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL, "w2": (8, 24, 3, 3)},
    )
    # a is read by MaxPool, b by Resize, c is written by Resize: all three are copied
    assert concat_homes(fuse(model, activations_join=True)) == {}


def test_a_result_that_only_convolutions_read_lives_in_the_concatenation():
    model = graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            ("Conv", "a w", {"b": IMAGE}),
            ("Concat", "a b", {"d": (1, 16, 16, 16)}),
            ("Conv", "d w2", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL, "w2": (8, 16, 3, 3)},
    )
    fused = fuse(model, activations_join=True)
    assert concat_homes(fused) == {"a": "d", "b": "d"}
    program = lower(fused, apply_policy(model, find_policy("fp32")))
    assert [buffer.name for buffer in program.buffers if buffer.role is Role.ACTIVATION] == ["d"]


def test_what_two_concatenations_read_is_copied_into_both():
    model = graph(
        {"x": IMAGE},
        [
            ("Conv", "x w", {"a": IMAGE}),
            ("Concat", "a x", {"d": (1, 16, 16, 16)}),
            ("Concat", "a d", {"e": (1, 24, 16, 16)}),
            ("Conv", "e w2", {"y": IMAGE}),
        ],
        "y",
        weights={"w": KERNEL, "w2": (8, 24, 3, 3)},
    )
    assert "a" not in concat_homes(fuse(model, activations_join=True))


@pytest.mark.parametrize(
    ("dtype", "channels", "padded"), [("float16", 12, 16), ("float32", 12, 12), ("int8", 6, 8), ("bfloat16", 8, 8)]
)
def test_image_channels_are_padded_to_the_vector_of_the_type(dtype, channels, padded):
    tensor = Tensor(name="t", dtype=DType(dtype), shape=(2, channels, 5, 7))
    assert padded_bytes(tensor) == 2 * padded * 5 * 7 * tensor.dtype.bits // 8


def test_matrices_are_not_padded():
    assert padded_bytes(Tensor(name="t", dtype=DType.FLOAT16, shape=(3, 7))) == 3 * 7 * 2


def test_a_workspace_cap_lowers_the_upper_limit_only():
    free, capped = planned(mnist()), planned(mnist(), workspace_cap_bytes=1024)
    assert free.workspace.high_bytes - capped.workspace.high_bytes == 25_088 - 1024
    assert free.workspace.nominal_bytes == capped.workspace.nominal_bytes


def test_a_workspace_cap_of_nothing_is_a_cap():
    assert planned(mnist(), workspace_cap_bytes=0).workspace.high_bytes == 2 * MIB


def test_a_result_of_unknown_size_widens_the_range_and_is_never_zero():
    tensors = {
        "x": Tensor(name="x", dtype=DType.FLOAT32, shape=(1024,)),
        "a": Tensor(name="a", dtype=DType.FLOAT32, shape=None, low_count=0, high_count=4096),
        "y": Tensor(name="y", dtype=DType.FLOAT32, shape=(1024,)),
    }
    nodes = (
        Node(name="n", op="Mystery", domain="custom", inputs=("x",), outputs=("a",)),
        Node(name="m", op="Mystery", domain="custom", inputs=("a",), outputs=("y",)),
    )
    model = Graph(name="m", tensors=tensors, nodes=nodes, inputs=("x",), outputs=("y",), weights=())
    result = planned(model)
    scratch = result.activations + result.workspace
    assert scratch.nominal_bytes >= 4096 * 4
    assert result.activations.low_bytes == 0


def test_without_reuse_the_results_inside_a_region_count_too():
    tokens, scores = (1, 64, 64), (1, 64, 64)
    model = graph(
        {"q": tokens, "k": tokens, "v": tokens},
        [("MatMul", "q k", {"s": scores}), ("Softmax", "s", {"p": scores}), ("MatMul", "p v", {"y": tokens})],
        "y",
    )
    result = planned(model)
    assert result.sum_of_outputs_bytes == 3 * 64 * 64 * 4
    assert result.lower_bound_bytes <= result.sum_of_outputs_bytes


def test_every_layer_is_listed_with_what_it_writes():
    layers = planned(mnist()).layers
    assert [layer.ops for layer in layers][:2] == [("Conv", "Add", "Relu"), ("MaxPool",)]
    assert layers[0].output_bytes == 25_088
    assert layers[0].weights_bytes == (200 + 8) * 4
    assert max(layer.live_bytes for layer in layers) == planned(mnist()).peak.live_bytes


def test_a_region_is_opened_at_its_own_peak():
    # s [0, 2) 16 KiB and p [1, 3) 16 KiB: both are alive while Softmax runs
    tokens, scores = (1, 64, 64), (1, 64, 64)
    model = graph(
        {"q": tokens, "k": tokens, "v": tokens},
        [("MatMul", "q k", {"s": scores}), ("Softmax", "s", {"p": scores}), ("MatMul", "p v", {"y": tokens})],
        "y",
    )
    moment = describe_peak(planned(model))
    inside = {item.name: (item.size_bytes, item.until) for item in moment.live if item.role == "workspace"}
    assert moment.op == "Softmax_1"
    assert inside == {"s": (16_384, "Softmax_1"), "p": (16_384, "MatMul_2")}
