"""If, Loop, Scan and local functions, written down flat."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vramplan.graph import Graph
from vramplan.sources.onnx_file import bind, read_onnx

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def info(name: str, dims: list[Any] | None = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def constants(**values: Any) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def flat(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str], weights: list[TensorProto], **kwargs: Any
) -> Graph:
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    found = bind(read_onnx(helper.make_model(graph, opset_imports=imports, **kwargs).SerializeToString()))
    written = {name for step in found.nodes for name in step.writes} | set(found.inputs) | set(found.weights)
    assert set(found.outputs) <= written
    return found


def branch(*nodes: onnx.NodeProto, result: str = "r") -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [info(result)])


def doubled() -> onnx.GraphProto:
    return branch(node("Concat", ["x", "x"], ["r"], axis=0))


def squared() -> onnx.GraphProto:
    return branch(node("Mul", ["x", "x"], ["r"]))


def test_the_larger_branch_is_inlined_and_the_other_noted() -> None:
    for first, second, kept in ((doubled(), squared(), "then"), (squared(), doubled(), "else")):
        graph = flat(
            [node("If", ["c"], ["y"], name="if", then_branch=first, else_branch=second)],
            [info("x", [3, 4]), info("c", [], BOOL)],
            ["y"],
            [],
        )
        assert [step.op for step in graph.nodes] == ["Concat"]
        assert graph.nodes[0].outputs == ("y",)
        y = graph.tensors["y"]
        assert (y.shape, y.count_low, y.count_high) == ((6, 4), 3 * 4, 6 * 4)
        assert f"counted with its {kept} branch, which writes {6 * 4 * 4} bytes" in graph.notes[0]


def test_a_constant_condition_picks_its_branch() -> None:
    nodes = [node("Equal", ["one", "two"], ["c"]), node("If", ["c"], ["y"], then_branch=doubled(), else_branch=squared())]
    graph = flat(nodes, [info("x", [3, 4])], ["y"], constants(one=np.int64(1), two=np.int64(2)))
    assert graph.tensors["y"].shape == (3, 4)
    assert graph.tensors["y"].is_certain
    assert graph.notes == ()


def test_a_branch_that_cannot_run_gives_way_to_the_other() -> None:
    wrong = branch(node("Reshape", ["x", "five"], ["r"], name="wrong"))
    graph = flat(
        [node("If", ["c"], ["y"], then_branch=wrong, else_branch=squared())],
        [info("x", [3, 4]), info("c", [], BOOL)],
        ["y"],
        constants(five=np.array([5], np.int64)),
    )
    assert [step.op for step in graph.nodes] == ["Mul"]
    assert "one branch cannot run at these sizes" in graph.notes[0]


def test_a_branch_may_hand_out_an_outer_value() -> None:
    through = helper.make_graph([], "branch", [], [info("x")])
    graph = flat(
        [node("If", ["c"], ["y"], then_branch=through, else_branch=through)],
        [info("x", [3, 4]), info("c", [], BOOL)],
        ["y"],
        [],
    )
    assert [(step.op, step.inputs, step.outputs) for step in graph.nodes] == [("Identity", ("x",), ("y",))]


def test_nested_branches_get_the_path_of_their_nodes_as_prefix() -> None:
    two, one = branch(node("Exp", ["t"], ["s"]), node("Exp", ["s"], ["r"])), branch(node("Neg", ["t"], ["r"]))
    inner = branch(node("Relu", ["x"], ["t"]), node("If", ["c"], ["r"], name="in", then_branch=two, else_branch=one))
    graph = flat(
        [node("If", ["c"], ["y"], name="out", then_branch=inner, else_branch=squared())],
        [info("x", [3]), info("c", [], BOOL)],
        ["y"],
        [],
    )
    assert [step.outputs for step in graph.nodes] == [("out/then/t",), ("out/then/in/then/s",), ("y",)]


def loop_body() -> onnx.GraphProto:
    nodes = [node("Relu", ["v"], ["t"]), node("Add", ["t", "w"], ["v_out"]), node("Identity", ["v_out"], ["row"])]
    inputs = [info("i", [], INT64), info("c_in", [], BOOL), info("v")]
    return helper.make_graph(nodes, "body", inputs, [info("c_in", [], BOOL), info("v_out"), info("row")])


def test_a_loop_is_inlined_once_and_its_scan_output_grows() -> None:
    nodes = [node("Loop", ["trips", "", "x"], ["v_last", "rows"], name="loop", body=loop_body())]
    graph = flat(nodes, [info("x", [3, 4])], ["v_last", "rows"], constants(trips=np.int64(6), w=np.zeros(4, np.float32)))
    assert [step.op for step in graph.nodes] == ["Loop", "Relu", "Add", "Identity"]
    assert graph.tensors["v_last"].shape == (3, 4)
    assert graph.tensors["rows"].shape == (6, 3, 4)
    assert graph.tensors["rows"].is_certain
    assert "rows" in graph.nodes[0].outputs
    assert graph.notes == ()


def test_a_loop_of_unknown_length_is_noted_and_bounded() -> None:
    nodes = [node("Loop", ["trips", "", "x"], ["v_last", "rows"], name="loop", body=loop_body())]
    graph = flat(nodes, [info("x", [3, 4]), info("trips", [], INT64)], ["rows"], constants(w=np.zeros(4, np.float32)))
    assert graph.tensors["v_last"].shape == (3, 4)
    assert (graph.tensors["rows"].shape, graph.tensors["rows"].count_low, graph.tensors["rows"].count_high) == (None, 0, 3 * 4)
    assert "Loop node 'loop' runs a number of times that depends on the data" in graph.notes


def test_a_value_that_grows_in_a_loop_is_bounded_by_its_last_size() -> None:
    nodes = [node("Concat", ["v", "x"], ["v_out"], axis=0)]
    body = helper.make_graph(
        nodes, "b", [info("i", [], INT64), info("c_in", [], BOOL), info("v")], [info("c_in", [], BOOL), info("v_out")]
    )
    graph = flat([node("Loop", ["trips", "", "x"], ["y"], body=body)], [info("x", [2, 4])], ["y"], constants(trips=np.int64(5)))
    assert (graph.tensors["y"].count_low, graph.tensors["y"].count_high) == (2 * 4, 2 * 4 + 5 * 2 * 4)


def test_a_sequence_that_a_loop_fills_has_an_item_for_each_trip() -> None:
    sequence = helper.make_tensor_sequence_value_info
    body = helper.make_graph(
        [node("SequenceInsert", ["s", "x"], ["s_out"])],
        "b",
        [info("i", [], INT64), info("c_in", [], BOOL), sequence("s", FLOAT, None)],
        [info("c_in", [], BOOL), sequence("s_out", FLOAT, None)],
    )
    nodes = [node("SequenceEmpty", [], ["none"]), node("Loop", ["trips", "", "none"], ["all"], body=body),
             node("ConcatFromSequence", ["all"], ["y"], axis=0)]  # fmt: skip
    graph = flat(nodes, [info("x", [2, 4])], ["y"], constants(trips=np.int64(5)))
    assert graph.tensors["y"].shape == (5 * 2, 4)


def test_a_counter_in_a_loop_is_not_a_constant() -> None:
    nodes = [node("Add", ["n", "one"], ["n_out"])]
    body = helper.make_graph(nodes, "b", [info("i", [], INT64), info("c_in", [], BOOL), info("n", [], INT64)],
                             [info("c_in", [], BOOL), info("n_out", [], INT64)])  # fmt: skip
    graph = flat(
        [node("Loop", ["trips", "", "one"], ["y"], body=body)],
        [info("x", [2])],
        ["y"],
        constants(trips=np.int64(5), one=np.int64(1)),
    )
    assert (graph.tensors["y"].shape, graph.tensors["y"].value) == ((), None)


def test_a_scan_slices_and_stacks() -> None:
    body = helper.make_graph([node("Add", ["s", "slice"], ["s_out"]), node("Exp", ["s_out"], ["out"])], "b",
                             [info("s"), info("slice")], [info("s_out"), info("out")])  # fmt: skip
    nodes = [
        node(
            "Scan",
            ["start", "x"],
            ["last", "y"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
            name="scan",
        )
    ]
    graph = flat(nodes, [info("start", [4]), info("x", [4, 9])], ["last", "y"], [])
    assert graph.tensors["scan/body/slice"].shape == (4,)
    assert (graph.tensors["last"].shape, graph.tensors["y"].shape) == ((4,), (4, 9))


def test_local_functions_are_inlined_with_their_attributes() -> None:
    inside = [node("Constant", [], ["k"]), node("Expand", ["a", "k"], ["b"])]
    inside[0].attribute.add(name="value_ints", ref_attr_name="sizes", type=onnx.AttributeProto.INTS)
    function = helper.make_function("own", "Grow", ["a"], ["b"], inside, [helper.make_opsetid("", 17)], attributes=["sizes"])
    nodes = [
        node("Grow", ["x"], ["t"], domain="own", name="first", sizes=[3, 4]),
        node("Grow", ["t"], ["y"], domain="own", name="second", sizes=[2, 3, 4]),
    ]
    graph = flat(nodes, [info("x", [1, 4])], ["y"], [], functions=[function])
    assert [(step.name, step.outputs) for step in graph.nodes] == [("first/b", ("t",)), ("second/b", ("y",))]
    assert (graph.tensors["t"].shape, graph.tensors["y"].shape) == ((3, 4), (2, 3, 4))
    assert graph.weights == ("first/k", "second/k")
