"""Shapes of what graphs compute: sizes computed in the graph, sizes that depend on data, sequences, unknown operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.graph import Graph
from vramplan.sources.onnx_file import bind, read_onnx

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, Any] | None = None,
    hints: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 17,
) -> Graph:
    last = next(name for name in nodes[-1].output if name)
    proto = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, dims) for name, (dtype, dims) in inputs.items()],
        [onnx.ValueInfoProto(name=last)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        value_info=list(hints),
    )
    domains = sorted({step.domain for step in nodes} - {""})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bind(read_onnx(helper.make_model(proto, opset_imports=imports).SerializeToString()))


def ints(*values: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, dtype=np.int64)


IMAGE = {"x": (FLOAT, [2, 8, 20, 30])}


def test_reshape_to_sizes_taken_from_a_shape() -> None:
    graph = graph_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"]),
            node("Concat", ["batch", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ],
        inputs=IMAGE,
        constants={"zero": ints(0), "rest": ints(-1)},
    )
    assert graph.tensors["y"].shape == (2, 8 * 20 * 30)
    assert graph.tensors["target"].value == (2, -1)


def test_division_rounds_towards_zero_and_where_picks() -> None:
    graph = graph_of(
        [
            node("Div", ["minus", "three"], ["quotient"]),
            node("Equal", ["quotient", "minus_two"], ["is"]),
            node("Where", ["is", "size", "minus"], ["n"]),
            node("ConstantOfShape", ["n"], ["y"]),
        ],
        inputs=IMAGE,
        constants={"minus": ints(-7), "three": ints(3), "minus_two": ints(-2), "size": ints(5)},
    )
    assert graph.tensors["quotient"].value == (-2,)
    assert graph.tensors["y"].shape == (5,)


def test_resize_to_a_computed_size() -> None:
    graph = graph_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Slice", ["shape", "two", "four"], ["hw"]),
            node("Mul", ["hw", "three"], ["larger"]),
            node("Slice", ["shape", "zero", "two"], ["nc"]),
            node("Concat", ["nc", "larger"], ["sizes"], axis=0),
            node("Resize", ["x", "", "", "sizes"], ["y"]),
        ],
        inputs=IMAGE,
        constants={"zero": ints(0), "two": ints(2), "three": ints(3), "four": ints(4)},
    )
    assert graph.tensors["y"].shape == (2, 8, 3 * 20, 3 * 30)


def test_resize_by_scales() -> None:
    graph = graph_of([node("Resize", ["x", "", "s"], ["y"])], inputs=IMAGE, constants={"s": np.float32([1, 1, 2, 0.5])})
    assert graph.tensors["y"].shape == (2, 8, 2 * 20, 30 // 2)


def test_range_and_expand_of_computed_sizes() -> None:
    graph = graph_of(
        [
            node("Size", ["x"], ["n"]),
            node("Range", ["zero", "n", "two"], ["r"]),
            node("Expand", ["r", "target"], ["y"]),
        ],
        inputs={"x": (FLOAT, [3, 5])},
        constants={"zero": np.int64(0), "two": np.int64(2), "target": ints(4, 1)},
    )
    assert graph.tensors["r"].value == (0, 2, 4, 6, 8, 10, 12, 14)
    assert graph.tensors["y"].shape == (4, 8)


def test_opset_9_keeps_sizes_in_attributes() -> None:
    graph = graph_of(
        [
            node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
            node("Slice", ["t"], ["s"], axes=[1, 2], starts=[1, 0], ends=[(1 << 63) - 1, -1]),
            node("Unsqueeze", ["s"], ["u"], axes=[0]),
            node("Upsample", ["s", "scales"], ["y"]),
        ],
        inputs={"x": (FLOAT, [2, 10, 10, 4])},
        constants={"scales": np.float32([1, 1, 2, 2])},
        opset=9,
    )
    assert graph.tensors["u"].shape == (1, 2, 3, 9, 10)
    assert graph.tensors["y"].shape == (2, 3, 18, 20)


def test_boxes_kept_are_at_most_what_is_asked_for() -> None:
    graph = graph_of(
        [node("NonMaxSuppression", ["boxes", "scores", "ten"], ["kept"]), node("Cast", ["kept"], ["y"], to=FLOAT)],
        inputs={"boxes": (FLOAT, [2, 100, 4]), "scores": (FLOAT, [2, 5, 100])},
        constants={"ten": ints(10)},
    )
    kept = graph.tensors["y"]
    assert (kept.shape, kept.count_low, kept.count_high) == ((2 * 5 * 10, 3), 0, 2 * 5 * 10 * 3)
    assert "2 tensors ('y', 'kept') depends on the data" in graph.notes[0] or "depends on the data" in graph.notes[0]


def test_nonzero_may_find_everything_or_nothing() -> None:
    found = graph_of([node("NonZero", ["x"], ["y"])], inputs={"x": (FLOAT, [4, 5])}).tensors["y"]
    assert (found.shape, found.count_low, found.dtype) == ((2, 4 * 5), 0, DType.INT64)


def test_what_depends_on_data_does_not_spread_to_what_does_not() -> None:
    graph = graph_of(
        [
            node("NonZero", ["x"], ["found"]),
            node("Transpose", ["found"], ["rows"]),
            node("GatherND", ["x", "rows"], ["picked"]),
            node("ScatterND", ["x", "rows", "picked"], ["y"]),
        ],
        inputs={"x": (FLOAT, [4, 5])},
    )
    assert (graph.tensors["picked"].shape, graph.tensors["picked"].count_low) == ((20,), 0)
    assert graph.tensors["y"].is_certain
    assert graph.tensors["y"].shape == (4, 5)


def test_topk_of_an_unknown_k_is_at_most_its_input() -> None:
    graph = graph_of([node("TopK", ["x", "k"], ["v", "y"])], inputs={"x": (FLOAT, [3, 9]), "k": (INT64, [1])})
    assert (graph.tensors["v"].shape, graph.tensors["v"].count_low) == ((3, 9), 0)


def test_reshape_to_an_unknown_shape_keeps_its_count() -> None:
    graph = graph_of(
        [node("Reshape", ["x", "s"], ["r"]), node("Relu", ["r"], ["y"])], inputs={"x": (FLOAT, [3, 9]), "s": (INT64, [2])}
    )
    assert (graph.tensors["y"].shape, graph.tensors["y"].count_low, graph.tensors["y"].count_high) == (None, 27, 27)


def test_unknown_operators_are_named_and_bounded_by_the_largest_tensor() -> None:
    graph = graph_of(
        [node("Mystery", ["x"], ["m"], domain="vendor"), node("Relu", ["m"], ["y"])], inputs={"x": (FLOAT, [7, 11])}
    )
    unknown = graph.tensors["m"]
    assert (unknown.shape, unknown.count_low, unknown.count, unknown.dtype) == (None, 0, 77, DType.FLOAT32)
    assert "2 tensors ('y', 'm') is not known; each is taken to lie between 0 and 77 elements" in graph.notes[0]


def test_unknown_operators_have_the_shape_the_file_declares() -> None:
    hint = helper.make_tensor_value_info("m", TensorProto.FLOAT16, [2, "n", 4])
    fixed = helper.make_tensor_value_info("m", TensorProto.FLOAT16, [2, 3, 4])
    steps = [node("Mystery", ["x"], ["m"], domain="vendor"), node("Relu", ["m"], ["y"])]
    assert graph_of(steps, inputs={"x": (FLOAT, [7])}, hints=[hint]).tensors["y"].shape is None
    known = graph_of(steps, inputs={"x": (FLOAT, [7])}, hints=[fixed]).tensors["y"]
    assert (known.shape, known.dtype) == ((2, 3, 4), DType.FLOAT16)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "shape"),
    [
        ("FusedConv", ["x", "w"], {"activation": "Relu", "pads": [1, 1, 1, 1]}, (1, 6, 10, 10)),
        ("Gelu", ["x"], {}, (1, 3, 10, 10)),
        ("QLinearAdd", ["x", "s", "z", "x", "s", "z", "s", "z"], {}, (1, 3, 10, 10)),
        ("QLinearConcat", ["s", "z", "x", "s", "z", "x", "s", "z"], {"axis": 1}, (1, 6, 10, 10)),
        ("FusedMatMul", ["x", "x"], {"transB": 1}, (1, 3, 10, 10)),
        ("QLinearGlobalAveragePool", ["x", "s", "z", "s", "z"], {}, (1, 3, 1, 1)),
    ],
)
def test_simple_operators_of_onnxruntime_are_known(op: str, inputs: list[str], attributes: Any, shape: tuple[int, ...]) -> None:
    graph = graph_of(
        [node(op, inputs, ["y"], domain="com.microsoft", **attributes)],
        inputs={"x": (FLOAT, [1, 3, 10, 10])},
        constants={"w": np.zeros((6, 3, 3, 3), np.float32), "s": np.float32(1), "z": np.uint8(0)},
    )
    assert graph.tensors["y"].shape == shape


def test_sequences_hold_the_sum_of_their_items() -> None:
    graph = graph_of(
        [
            node("SplitToSequence", ["x", "four"], ["pieces"], axis=0),
            node("SequenceAt", ["pieces", "two"], ["last"]),
            node("SequenceInsert", ["pieces", "last"], ["more"]),
            node("SequenceLength", ["more"], ["n"]),
            node("ConcatFromSequence", ["more"], ["y"], axis=0),
        ],
        inputs={"x": (FLOAT, [10, 3])},
        constants={"four": np.int64(4), "two": np.int64(2)},
    )
    assert graph.tensors["pieces"].count == 10 * 3
    assert graph.tensors["last"].shape == (10 - 2 * 4, 3)
    assert graph.tensors["n"].value == (4,)
    assert graph.tensors["y"].shape == (10 + 2, 3)


@pytest.mark.parametrize(
    ("equation", "shape"), [("bij,bkj->bik", (2, 3, 3)), ("bij,bkj", (3, 3)), ("...j,...j->...", (2, 3)), ("...j,...j", (2, 3))]
)
def test_einsum_follows_its_letters(equation: str, shape: tuple[int, ...]) -> None:
    graph = graph_of([node("Einsum", ["x", "x"], ["y"], equation=equation)], inputs={"x": (FLOAT, [2, 3, 4])})
    assert graph.tensors["y"].shape == shape


def test_unpooling_undoes_pooling() -> None:
    graph = graph_of(
        [
            node("MaxPool", ["x"], ["small", "places"], kernel_shape=[2, 2], strides=[2, 2]),
            node("MaxUnpool", ["small", "places"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        inputs=IMAGE,
    )
    assert graph.tensors["y"].shape == (2, 8, (10 - 1) * 2 + 2, (15 - 1) * 2 + 2)


def test_a_reshape_that_cannot_be_is_an_error() -> None:
    with pytest.raises(
        ModelError, match=r"'fold' \(Reshape\) cannot run on inputs of shape \[4, 4\], \[2\]: it makes shape \[3, 5\]"
    ):
        graph_of([node("Reshape", ["x", "s"], ["y"], name="fold")], inputs={"x": (FLOAT, [4, 4])}, constants={"s": ints(3, 5)})


def test_a_result_beyond_any_memory_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"output of node 'blow'.*larger than any"):
        graph_of(
            [node("Expand", ["x", "s"], ["y"], name="blow")],
            inputs={"x": (FLOAT, [1])},
            constants={"s": ints(1 << 39, 1 << 39)},
        )


def test_optional_inputs_may_be_absent() -> None:
    graph = graph_of([node("Clip", ["x", "", "six"], ["y"])], inputs=IMAGE, constants={"six": np.float32(6)})
    assert graph.nodes[0].inputs == ("x", "", "six")
    assert graph.nodes[0].reads == ("x", "six")
    assert graph.tensors["y"].shape == (2, 8, 20, 30)
