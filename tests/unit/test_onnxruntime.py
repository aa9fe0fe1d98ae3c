"""What a session holds, on graphs small enough to count by hand. Tensors are float32; sizes are in bytes."""

from pathlib import Path

import pytest

import vramplan
from tests.graphs import IMAGE, KERNEL, graph, silu
from vramplan.allocators.bfc import ExtendStrategy, replay
from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.graph import Node, Tensor
from vramplan.program import Buffer, ProgramBuilder, Role
from vramplan.runtimes.onnxruntime.options import OPTION_NAMES, Search, SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.order import execution_order
from vramplan.runtimes.onnxruntime.pattern import pattern_bytes
from vramplan.runtimes.onnxruntime.placement import place
from vramplan.runtimes.onnxruntime.plan import plan_session
from vramplan.runtimes.onnxruntime.planner import share_buffers
from vramplan.runtimes.onnxruntime.rewrites import rewrite
from vramplan.runtimes.onnxruntime.scratch import KERNELS, conv_call, copied_bytes, scratch_of
from vramplan.runtimes.onnxruntime.session import PATTERN, Declared, orders_by_size, prepare
from vramplan.sources import open_model
from vramplan.units import KIB, MIB
from vramplan.workspace.cudnn import conv_workspaces

IMAGE_BYTES = 1 * 8 * 16 * 16 * 4
PARTS = ("weights", "inputs", "activations", "outputs", "workspace", "allocator_slack")
CLOSED_FORM = conv_workspaces(None, libraries=())
BY_REQUEST = parse_session_options({"arena_extend_strategy": "kSameAsRequested"})


def chain(*ops):
    """Each op reads the result before it: x, t1, t2, ..."""
    nodes = [(op, "x" if index == 0 else f"t{index}", {f"t{index + 1}": IMAGE}) for index, op in enumerate(ops)]
    return graph({"x": IMAGE}, nodes, outputs=f"t{len(ops)}")


def test_orders_of_the_weights_are_sorted_by_the_arena_that_a_session_of_them_takes():
    weights = tuple(
        (f"w{index}", size) for index, size in enumerate((3 * MIB, 200 * KIB, 40 * MIB, 9 * MIB, 700 * KIB, 21 * MIB))
    )
    rules = SessionOptions().arena
    found = orders_by_size(weights, rules, is_reserved=False)
    taken = []
    for order in found:
        builder = ProgramBuilder()
        for name in order:
            builder.hold(Buffer(name=name, role=Role.WEIGHT, size_bytes=dict(weights)[name]))
        builder.phase("session")
        taken.append(replay(builder.build(), rules)["session"].device_bytes)
    assert taken == sorted(taken)
    assert len(set(taken)) > 1
    assert all(sorted(order) == sorted(dict(weights)) for order in found)


def buffers(made, dims=None, **others):
    """The buffers of a graph whose dimensions are all fixed, or are *dims*."""
    shapes = {name: tensor.shape for name, tensor in made.tensors.items()}
    return share_buffers(made.nodes, made.tensors, shapes if dims is None else dims, outputs=made.outputs, **others)


def members(made, dims=None, **others):
    return [buffer.members for buffer in buffers(made, dims, **others)]


def test_a_relu_works_in_place_when_nobody_else_reads_its_input():
    made = chain("Transpose", "Relu", "Transpose")
    assert members(made) == [("t1", "t2"), ("t3",)]


def test_a_relu_does_not_overwrite_an_input_of_the_graph():
    made = chain("Relu", "Transpose")
    assert members(made) == [("t1",), ("t2",)]


def test_a_relu_does_not_overwrite_what_is_still_read():
    nodes = [("Transpose", "x", {"a": IMAGE}), ("Relu", "a", {"b": IMAGE}), ("Add", "a b", {"c": IMAGE})]
    assert members(graph({"x": IMAGE}, nodes, outputs="c")) == [("a",), ("b",), ("c",)]


def test_a_sum_never_works_in_place():
    nodes = [("Transpose", "x", {"a": IMAGE}), ("Add", "a x", {"b": IMAGE}), ("Transpose", "b", {"c": IMAGE})]
    assert members(graph({"x": IMAGE}, nodes, outputs="c")) == [("a",), ("b",), ("c",)]


def test_a_freed_buffer_of_the_same_shape_serves_again_and_is_held_in_between():
    made = chain("Transpose", "Transpose", "Transpose", "Transpose")
    first, second, last = buffers(made)
    assert (first.members, second.members, last.members) == (("t1", "t3"), ("t2",), ("t4",))
    assert (first.first_step, first.last_step) == (0, 3)


def test_the_most_recently_freed_buffer_is_taken_first():
    nodes = [
        ("Transpose", "x", {"a": IMAGE}),
        ("Transpose", "x", {"b": IMAGE}),
        ("ReduceSum", "a", {"s": (1,)}),
        ("ReduceSum", "b", {"t": (1,)}),
        ("Transpose", "x", {"c": IMAGE}),
        ("Concat", "s t c", {"d": (2,)}),
    ]
    assert ("b", "c") in members(graph({"x": IMAGE}, nodes, outputs="d"))


def test_another_shape_of_the_same_size_does_not_serve():
    nodes = [
        ("Transpose", "x", {"a": (4, 4)}),
        ("Transpose", "a", {"b": (2, 8)}),
        ("Transpose", "b", {"c": (8, 2)}),
        ("Transpose", "c", {"d": (16,)}),
    ]
    assert members(graph({"x": (4, 4)}, nodes, outputs="d")) == [("a",), ("b",), ("c",), ("d",)]


def test_a_reshape_is_its_input_whatever_its_shape():
    nodes = [("Transpose", "x", {"a": (4, 4)}), ("Reshape", "a", {"b": (16,)}), ("Transpose", "b", {"c": (16,)})]
    assert members(graph({"x": (4, 4)}, nodes, outputs="c")) == [("a", "b"), ("c",)]


def test_an_input_under_another_shape_takes_nothing():
    nodes = [("Reshape", "x", {"a": (16,)}), ("Relu", "a", {"b": (16,)}), ("Transpose", "b", {"c": (16,)})]
    assert members(graph({"x": (4, 4)}, nodes, outputs="c")) == [("b",), ("c",)]


def test_outputs_of_the_graph_have_buffers_of_their_own():
    made = chain("Transpose", "Transpose", "Transpose")
    assert [buffer.is_output for buffer in buffers(made)] == [False, False, True]


def test_nothing_is_shared_where_shapes_are_not_known():
    made = chain("Transpose", "Relu", "Transpose", "Transpose")
    unknown = [{}, dict.fromkeys(made.tensors, ("batch", None, 8, 8))]
    assert [len(members(made, dims)) for dims in unknown] == [4, 4]
    named = dict.fromkeys(made.tensors, ("batch", 8, 8, 8))
    assert len(members(made, named)) == len(members(made)) < 4


def test_a_buffer_on_the_cpu_does_not_serve_the_gpu():
    made = chain("Transpose", "Transpose", "Transpose", "Transpose")
    assert ("t1", "t3") in members(made)
    assert ("t1", "t3") not in members(made, host={"t1"})


def test_a_pattern_fills_the_smallest_gap_that_fits():
    events = [("a", 512), ("b", 256), ("c", 1024), ("d", 256), ("a", -1), ("c", -1), ("e", 256)]
    assert pattern_bytes(events) == 512 + 256 + 1024 + 256
    assert pattern_bytes([*events, ("f", 768)]) == 512 + 256 + 1024 + 256  # where c was


def test_a_pattern_grows_at_its_end_and_rounds_to_256():
    assert pattern_bytes([("a", 1), ("b", 257)]) == 256 + 512
    assert pattern_bytes([("a", 512), ("a", -1), ("b", 1024)]) == 1024


def test_the_latest_of_several_inputs_runs_first():
    nodes = [("Relu", "x", {"a": IMAGE}), ("Relu", "x", {"b": IMAGE}), ("Add", "a b", {"c": IMAGE})]
    order = execution_order(graph({"x": IMAGE}, nodes, outputs="c").nodes)
    assert [node.outputs[0] for node in order] == ["b", "a", "c"]


def test_a_silu_becomes_one_kernel_and_identities_go():
    made = graph({"x": IMAGE}, [("Identity", "x", {"y": IMAGE}), *silu("y", "z"), ("Relu", "z", {"w": IMAGE})], outputs="w")
    assert [node.op for node in rewrite(made).nodes] == ["Relu", "QuickGelu"]
    assert [node.op for node in rewrite(made, "basic").nodes] == ["Sigmoid", "Mul", "Relu"]
    assert len(rewrite(made, "disabled").nodes) == 4


def test_a_batch_norm_joins_its_convolution_and_a_relu_does_not():
    vectors = dict.fromkeys(("scale", "shift", "mean", "variance"), (8,))
    nodes = [
        ("Conv", "x w", {"a": IMAGE}),
        ("BatchNormalization", "a scale shift mean variance", {"b": IMAGE}),
        ("Relu", "b", {"c": IMAGE}),
    ]
    rewritten = rewrite(graph({"x": IMAGE}, nodes, outputs="c", weights={"w": KERNEL, **vectors}))
    assert [node.op for node in rewritten.nodes] == ["Conv", "Relu"]
    assert sum(rewritten.tensors[name].count for name in rewritten.initializers) == 8 * 8 * 3 * 3 + 8


def test_twins_are_one():
    nodes = [
        ("MaxPool", "x", {"a": IMAGE}),
        ("MaxPool", "x", {"b": IMAGE}),
        ("Add", "a b", {"c": IMAGE}),
        ("Relu", "c", {"d": IMAGE}),
    ]
    made = rewrite(graph({"x": IMAGE}, nodes, outputs="d"))
    assert [node.op for node in made.nodes] == ["MaxPool", "Add", "Relu"]
    assert made.nodes[1].inputs == ("a", "a")
    assert len(rewrite(graph({"x": IMAGE}, nodes, outputs="d b")).nodes) == 4


def test_a_product_takes_factors_and_swaps_of_its_operands():
    nodes = [
        ("Mul", "x scale", {"a": (2, 4, 8)}),
        ("Transpose", "y", {"b": (2, 8, 6)}, {"perm": (0, 2, 1)}),
        ("MatMul", "a b", {"c": (2, 4, 6)}),
    ]
    made = rewrite(graph({"x": (2, 4, 8), "y": (2, 6, 8)}, nodes, "c", {"scale": (1,)}))
    (product,) = made.nodes
    assert (product.op, product.inputs) == ("FusedMatMul", ("x", "y"))
    assert (product.attributes["transA"], product.attributes["transB"]) == (0, 1)


def test_a_product_and_its_bias_are_one_kernel_where_shapes_are_fixed():
    nodes = [("MatMul", "x w", {"a": (2, 4, 6)}), ("Add", "a b", {"c": (2, 4, 6)})]
    made = graph({"x": (2, 4, 8)}, nodes, "c", {"w": (8, 6), "b": (6,)})
    assert [node.op for node in rewrite(made).nodes] == ["Gemm"]
    assert [node.op for node in rewrite(made, is_static=False).nodes] == ["MatMul", "Add"]


def test_a_gelu_is_found_and_nothing_is_fused_over_an_output():
    nodes = [
        ("Div", "x root", {"a": (2, 8)}),
        ("Erf", "a", {"b": (2, 8)}),
        ("Add", "b one", {"c": (2, 8)}),
        ("Mul", "x c", {"d": (2, 8)}),
        ("Mul", "d half", {"e": (2, 8)}),
    ]
    constants = {"root": (1,), "one": (1,), "half": (1,)}
    assert [node.op for node in rewrite(graph({"x": (2, 8)}, nodes, "e", constants)).nodes] == ["Gelu"]
    assert len(rewrite(graph({"x": (2, 8)}, nodes, "e b", constants)).nodes) == 5


def test_constants_are_folded_and_known_shapes_only_where_every_dimension_is_fixed():
    nodes = [("Shape", "x", {"s": (4,)}), ("Relu", "k", {"folded": (8,)}), ("Add", "x folded", {"y": IMAGE})]
    made = graph({"x": IMAGE}, nodes, outputs="y", weights={"k": (8,)})
    assert [node.op for node in rewrite(made).nodes] == ["Add"]
    assert rewrite(made).initializers == ("folded",)


def test_shapes_stay_on_the_cpu_and_ops_without_a_kernel_are_named():
    small = {name: Tensor(name=name, dtype=DType.INT64, shape=(4,)) for name in ("s", "t")}
    images = {name: Tensor(name=name, dtype=DType.FLOAT32, shape=IMAGE) for name in ("x", "y", "z")}
    nodes = (
        Node(name="shape", op="Shape", inputs=("x",), outputs=("s",)),
        Node(name="gather", op="Gather", inputs=("s",), outputs=("t",)),
        Node(name="mish", op="Mish", inputs=("x",), outputs=("y",)),
        Node(name="relu", op="Relu", inputs=("y",), outputs=("z",)),
    )
    placed = place(nodes, small | images, ())
    assert (placed.host, placed.copies, placed.weights) == ({"s", "t", "y"}, {"y"}, set())
    (note,) = placed.notes
    assert "no CUDA kernel for Mish" in note
    assert f"copies {IMAGE_BYTES} bytes" in note


def placed_ops(nodes, tensors, constants=()):
    """What runs on the GPU, and where the tensors are; tensors as name: (dtype, shape)."""
    known = {name: Tensor(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in tensors.items()}
    made = tuple(Node(name=f"{op}{i}", op=op, inputs=reads, outputs=(out,)) for i, (op, reads, out) in enumerate(nodes))
    found = place(made, known, constants)
    return [node.op for node in made if not found.host.issuperset(node.writes)], found


def test_arithmetic_behind_a_shape_runs_on_the_cpu_and_the_range_that_it_is_for_does_not():
    integer, real = DType.INT64, DType.FLOAT32
    tensors = {
        "x": (real, IMAGE), "p": (real, IMAGE), "s": (integer, (4,)), "zero": (integer, ()), "one": (integer, ()),
        "n": (integer, ()),
        "f": (real, ()), "root": (real, ()), "r": (integer, (64,)), "y": (real, IMAGE),
    }  # fmt: skip
    nodes = [
        ("Relu", ("x",), "p"),
        ("Shape", ("p",), "s"),
        ("Gather", ("s", "zero"), "n"),
        ("Cast", ("n",), "f"),
        ("Sqrt", ("f",), "root"),
        ("Range", ("zero", "n", "one"), "r"),  # reads its limits on the CPU anyway, so its kernel runs on the GPU
        ("Div", ("p", "root"), "y"),
    ]
    ops, found = placed_ops(nodes, tensors, ("zero", "one"))
    assert ops == ["Relu", "Range", "Div"]
    assert found.copies == {"root"}  # the only result of the CPU that a kernel reads on the GPU
    assert found.weights == set()


def test_weights_that_kernels_read_on_the_cpu_are_not_on_the_gpu():
    integer, real = DType.INT64, DType.FLOAT32
    tensors = {
        "x": (real, (2, 32)),
        "target": (integer, (2,)),
        "y": (real, (4, 16)),
        "w": (real, (4, 16)),
        "z": (real, (4, 16)),
    }
    ops, found = placed_ops([("Reshape", ("x", "target"), "y"), ("Add", ("y", "w"), "z")], tensors, ("target", "w"))
    assert (ops, found.weights) == (["Reshape", "Add"], {"w"})


def test_a_large_table_keeps_its_lookup_on_the_gpu():
    integer = DType.INT64
    tensors = {"x": (integer, (4, 4)), "s": (integer, (2,)), "table": (integer, (101,)), "y": (integer, (2,))}
    nodes = [("Shape", ("x",), "s"), ("Gather", ("table", "s"), "y")]
    assert placed_ops(nodes, tensors, ("table",))[0] == ["Gather"]
    small = tensors | {"table": (integer, (100,))}
    assert placed_ops(nodes, small, ("table",))[0] == []


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ([(1, 3, 8, 8)], Declared(is_static=True, knows_sides=True)),
        ([("batch", 3, 8, 8)], Declared(is_static=False, knows_sides=True, dims=(("batch", 3, 8, 8),))),
        ([("n", 3, "h", 8)], Declared(is_static=False, knows_sides=False, dims=(("n", 3, "h", 8),))),
        ([None], Declared(is_static=False, knows_sides=False, dims=(None,))),
    ],
)
def test_what_a_file_fixes_decides_what_the_planner_can_compare(dims, expected):
    assert Declared.of(dims) == expected


def test_run_two_takes_one_block_on_top_of_run_one_when_the_arena_grows_by_request():
    big = (1, 1, 1024, 1024)  # 4 MiB
    nodes = [("Transpose", "x", {"a": big}), ("Transpose", "a", {"b": big}), ("Transpose", "b", {"c": big})]
    made = graph({"x": big}, nodes, outputs="c")
    solved = plan_session(made, BY_REQUEST, Declared(), CLOSED_FORM)
    sizes = {name: phase.reserved_peak_bytes for name, phase in solved.plan.phases.items()}
    assert sizes["session"] == 0
    assert sizes["run1"] == 3 * 4 * MIB  # x, a and b; c comes when a has gone, into the same chunk
    assert sizes["run2"] == sizes["run1"] + 2 * 4 * MIB  # the block of a and b
    assert sizes["steady"] == sizes["run2"]


def test_without_a_pattern_run_two_is_run_one():
    made = chain("Transpose", "Transpose", "Transpose")
    solved = plan_session(made, parse_session_options({"enable_mem_pattern": "0"}), Declared(), CLOSED_FORM)
    assert solved.plan.phases["run2"] == solved.plan.phases["run1"]
    assert PATTERN not in {buffer.name for buffer in solved.plan.program.buffers}


def test_the_parts_and_the_account_sum_to_the_arena():
    nodes = [("Conv", "x w", {"a": IMAGE}), ("Relu", "a", {"b": IMAGE})]
    made = graph({"x": IMAGE}, nodes, outputs="b", weights={"w": KERNEL})
    solved = plan_session(made, SessionOptions(), Declared(), CLOSED_FORM)
    plan = solved.plan
    parts = (plan.weights, plan.inputs, plan.activations, plan.outputs, plan.workspace, plan.allocator_slack)
    assert sum(part.nominal_bytes for part in parts) == solved.device_bytes["steady"] == 2 * MIB
    assert sum(size for _, size in solved.account) == solved.device_bytes["steady"]
    assert plan.weights.nominal_bytes == 8 * 8 * 3 * 3 * 4


def test_a_pattern_is_opened_at_its_fullest_step():
    made = chain("Transpose", "Transpose", "Transpose")
    inside = plan_session(made, SessionOptions(), Declared(), CLOSED_FORM).plan.inside[PATTERN]
    assert inside.op == "Transpose_1"
    assert [(name, size) for name, size, _ in inside.live] == [("t1", IMAGE_BYTES), ("t2", IMAGE_BYTES)]


def test_nhwc_copies_the_weights_of_convolutions_when_the_session_is_made():
    nodes = [("Conv", "x w", {"a": IMAGE}), ("Relu", "a", {"b": IMAGE})]
    made = graph({"x": IMAGE}, nodes, outputs="b", weights={"w": KERNEL})
    prefers = parse_session_options({"prefer_nhwc": "1"})
    names = {buffer.name for buffer in plan_session(made, prefers, Declared(), CLOSED_FORM).plan.program.buffers}
    assert {"w", "w in NHWC"} <= names
    assert not prepare(made, prefers, Declared(is_static=False, knows_sides=False)).is_nhwc


def test_an_exhaustive_search_takes_copies_of_all_three_where_a_heuristic_takes_some():
    shape = (8, 64, 80, 80)
    made = graph({"x": shape}, [("Conv", "x w", {"y": shape}, {"pads": (1, 1, 1, 1)})], "y", {"w": (64, 64, 3, 3)})
    found = {
        search: scratch_of(made.nodes, made.tensors, SessionOptions(search=search), CLOSED_FORM, is_nhwc=False)[0][
            0
        ].nominal_bytes
        for search in Search
    }
    image = 8 * 64 * 80 * 80 * 4
    assert 0 < found[Search.HEURISTIC] < found[Search.EXHAUSTIVE] == 2 * image + 64 * 64 * 9 * 4
    assert found[Search.DEFAULT] == 0


def test_one_row_an_op_of_scratch():
    boxes = {"b": Tensor(name="b", dtype=DType.FLOAT32, shape=(1, 8400, 4))}
    node = Node(name="n", op="NonMaxSuppression", inputs=("b",), outputs=("k",))
    assert KERNELS["NonMaxSuppression"](node, boxes) == (8400 * 32 + 8400 * 132 * 8,)
    top = Node(name="t", op="TopK", inputs=("b",), outputs=("v", "i"), attributes={"axis": 1})
    assert KERNELS["TopK"](top, boxes) == (2 * 8400 * (4 + 8),)


def test_parts_of_different_lengths_go_through_tables():
    shapes = {
        "a": (8, 512, 40, 40),
        "b": (8, 256, 40, 40),
        "c": (8, 768, 40, 40),
        "d": (8, 512, 40, 40),
        "e": (8, 1024, 40, 40),
    }
    tensors = {name: Tensor(name=name, dtype=DType.FLOAT32, shape=shape) for name, shape in shapes.items()}
    uneven = Node(name="n", op="Concat", inputs=("a", "b"), outputs=("c",), attributes={"axis": 1})
    even = Node(name="n", op="Concat", inputs=("a", "d"), outputs=("e",), attributes={"axis": 1})
    assert KERNELS["Concat"](uneven, tensors) == (2 * 8, 2 * 8, 768 * 8, 2 * 8)  # as an H200's arena logged for YOLOv8s
    assert KERNELS["Concat"](even, tensors) == ()
    parts = Node(name="n", op="Split", inputs=("c",), outputs=("a", "b"), attributes={"axis": 1})
    assert KERNELS["Split"](parts, tensors) == (2 * 8, 2 * 8, 2 * 8, 768 * 8)


def test_a_softmax_along_an_inner_axis_is_transposed_off_the_stream():
    image = (8, 16, 4, 8400)
    made = graph({"x": image}, [("Softmax", "x", {"y": image}, {"axis": 1}), ("Relu", "y", {"z": image})], "z")
    assert KERNELS["Softmax"](made.nodes[0], made.tensors) == (8 * 16 * 4 * 8400 * 4,) * 2
    assert KERNELS["Softmax"](Node(name="s", op="Softmax", inputs=("x",), outputs=("y",)), made.tensors) == ()
    program = plan_session(made, BY_REQUEST, Declared(), CLOSED_FORM).plan.program
    assert {buffer.is_on_stream for buffer in program.buffers if buffer.role is Role.WORKSPACE} == {False}


def test_options_are_read_by_the_names_of_onnxruntime():
    options = parse_session_options({
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "1073741824",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "session.use_device_allocator_for_initializers": "1",
        "graph_optimization_level": "ORT_ENABLE_BASIC",
    })  # fmt: skip
    assert options.arena.strategy is ExtendStrategy.SAME_AS_REQUESTED
    assert options.arena.limit_bytes == 1073741824
    assert (options.search, options.uses_tf32, options.reserves_weights) == (Search.HEURISTIC, False, True)
    assert options.level == "basic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nope": "1"}, "unknown runtime option 'nope'"),
        ({"cudnn_conv_algo_search": "FAST"}, "'FAST' is no search"),
        ({"use_tf32": "maybe"}, "'maybe' is not 0 or 1"),
        ({"graph_optimization_level": "9"}, "'9' is no level"),
        ({"arena_extend_strategy": "kMore"}, "kMore"),
        ({"prefer_nhwc": "\x1b[31m"}, "is not 0 or 1"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(UsageError) as caught:
        parse_session_options(options)
    assert message in caught.value.message
    assert "\x1b" not in caught.value.message


def test_an_unknown_option_names_the_near_ones_and_all_of_them():
    with pytest.raises(UsageError) as caught:
        parse_session_options({"arena_extend": "kSameAsRequested"})
    near, known = caught.value.hint.splitlines()
    assert near == "Did you mean: arena_extend_strategy?"
    assert all(name in known for name in OPTION_NAMES)


def test_every_option_of_the_list_is_understood():
    assert {"arena_extend_strategy", "enable_mem_pattern", "prefer_nhwc", "use_tf32"} <= set(OPTION_NAMES)


def test_a_limit_that_is_too_small_is_an_error_with_its_size():
    limited = parse_session_options({"gpu_mem_limit": str(16 * KIB)})
    with pytest.raises(UsageError, match="gpu_mem_limit"):
        plan_session(chain("Transpose", "Transpose", "Transpose"), limited, Declared(), CLOSED_FORM)


def test_a_limit_without_room_for_the_pattern_is_met_without_it():
    big = (1, 1, 1024, 1024)  # 4 MiB
    nodes = [("Transpose", "x", {"a": big}), ("Transpose", "a", {"b": big}), ("Transpose", "b", {"c": big})]
    made = graph({"x": big}, nodes, outputs="c")
    limited = parse_session_options({"gpu_mem_limit": str(16 * MIB), "arena_extend_strategy": "kSameAsRequested"})
    solved = plan_session(made, limited, Declared(), CLOSED_FORM)
    assert solved.device_bytes["run2"] == solved.device_bytes["run1"] == 3 * 4 * MIB  # a block of 8 MiB more would be 20
    assert any("does not fit into gpu_mem_limit" in note for note in solved.notes)


def test_the_phases_of_an_estimate_have_the_size_of_the_process():
    estimate = vramplan.estimate("resnet50", runtime="onnxruntime", gpu="h200", batch=8)
    assert list(estimate.phases) == ["session", "run1", "run2", "steady"]
    assert estimate.phases["steady"].process_bytes == estimate.total_bytes
    assert sum(size for _, size in estimate.account) == estimate.total_bytes
    assert estimate.total_low_bytes < estimate.total_bytes < estimate.total_high_bytes
    assert estimate.phases["session"].process_bytes < estimate.phases["run1"].process_bytes


def test_options_of_a_session_are_refused_elsewhere():
    with pytest.raises(UsageError, match="runtime options are ONNX Runtime's"):
        vramplan.estimate("resnet50", runtime="tensorrt", runtime_options={"use_tf32": "0"})


def test_a_session_does_not_quantise():
    with pytest.raises(UsageError, match="does not quantise"):
        vramplan.estimate("resnet50", runtime="onnxruntime", precision="int8")


def test_copies_are_of_all_three_tensors():
    made = graph({"x": IMAGE}, [("Conv", "x w", {"y": IMAGE}, {"pads": (1, 1, 1, 1)})], "y", {"w": KERNEL})
    call = conv_call(made.nodes[0], made.tensors, is_nhwc=False)
    assert copied_bytes(call) == 2 * IMAGE_BYTES + 8 * 8 * 9 * 4


@pytest.mark.parametrize("model", ["yolov8s", "resnet50"])
def test_the_peak_is_named_by_the_op_of_its_step(model):
    """The block of the memory pattern is held for the whole run: which op it was packed for is not where the peak is."""
    found = vramplan.estimate(model, batch=8, precision="fp32", runtime="onnxruntime", gpu="h200")
    assert found.peak.op == found.program.ops[found.peak.index]


def test_the_range_holds_what_several_orders_of_the_weights_come_to_after_the_runs(monkeypatch):
    """VGG16's largest weight is 392 MiB of 528: whether it comes early decides how far regions double, and what fits after."""
    path = Path(__file__).parents[2] / "benchmarks" / "data" / "onnxruntime_models" / "vgg16.onnx"
    source = open_model(str(path))
    made = source.bind(batch=8, shapes={}, dims={})
    declared = Declared.of([item.dims for item in source.inputs])
    solved = plan_session(made, SessionOptions(), declared, CLOSED_FORM)
    low = sum(getattr(solved.plan, part).low_bytes for part in PARTS)
    high = sum(getattr(solved.plan, part).high_bytes for part in PARTS)

    def single(order):
        monkeypatch.setattr("vramplan.runtimes.onnxruntime.plan.orders_by_size", lambda *_, **__: (order,))
        return plan_session(made, SessionOptions(), declared, CLOSED_FORM).device_bytes["steady"]

    weights = tuple((name, made.tensors[name].size_bytes) for name in made.weights)
    orders = orders_by_size(weights, SessionOptions().arena, is_reserved=False)
    settled = [single(orders[index]) for index in (0, 15, 30)]  # of 31 draws
    assert low <= min(settled) < max(settled) <= high
