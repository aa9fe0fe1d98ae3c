"""Open dimensions get sizes: the batch, names, whole shapes; what is missing or wrong is said with the flag to type."""

import onnx
import pytest
from onnx import TensorProto, helper

import vramplan
from vramplan.errors import ModelError, UsageError
from vramplan.graph import Graph
from vramplan.sources.onnx_file import OnnxModel, bind, read_onnx

Dims = list[int | str | None] | None


def model(**inputs: Dims) -> OnnxModel:
    """A model that hands each input through Relu."""
    nodes = [helper.make_node("Relu", [name], [f"{name}_out"]) for name in inputs]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
    outputs = [onnx.ValueInfoProto(name=f"{name}_out") for name in inputs]
    return read_onnx(helper.make_model(helper.make_graph(nodes, "g", values, outputs)).SerializeToString())


def shapes(graph: Graph) -> dict[str, tuple[int, ...] | None]:
    return {name: graph.tensors[name].shape for name in graph.inputs}


IMAGES: dict[str, Dims] = {"images": ["batch", 3, "height", "width"]}


def test_a_fixed_model_needs_nothing() -> None:
    assert shapes(bind(model(x=[2, 3]))) == {"x": (2, 3)}


def test_the_batch_is_one_when_only_it_is_open() -> None:
    assert shapes(bind(model(x=["batch", 3]))) == {"x": (1, 3)}
    assert shapes(bind(model(x=[None, 3], y=[None, 5]))) == {"x": (1, 3), "y": (1, 5)}


def test_batch_and_names_bind() -> None:
    graph = bind(model(**IMAGES), batch=4, dims={"height": 480, "width": 640})
    assert graph.tensors["images_out"].shape == (4, 3, 480, 640)


def test_a_whole_shape_binds_its_symbols_everywhere() -> None:
    graph = bind(model(**IMAGES, mask=["batch", "height"]), shapes={"images": (2, 3, 64, 32)})
    assert shapes(graph) == {"images": (2, 3, 64, 32), "mask": (2, 64)}


def test_the_batch_binds_unnamed_leading_axes_and_its_symbol() -> None:
    graph = bind(model(a=["N", 3], b=[None, 4], c=["N", 5]), batch=7)
    assert shapes(graph) == {"a": (7, 3), "b": (7, 4), "c": (7, 5)}


def test_a_dimension_called_batch_wins_over_the_leading_axis() -> None:
    assert shapes(bind(model(tokens=["seq", "batch_size"]), batch=2, dims={"seq": 9})) == {"tokens": (9, 2)}


def test_arithmetic_in_names_follows_from_its_symbols() -> None:
    inputs: dict[str, Dims] = {"past": ["batch", "past"], "new": ["batch", "new"], "mask": ["batch", "past + 2*new"]}
    graph = bind(model(**inputs), batch=2, dims={"past": 5, "new": 3})
    assert shapes(graph)["mask"] == (2, 5 + 2 * 3)


def test_a_zero_dimension_is_allowed() -> None:
    assert shapes(bind(model(past=["batch", "past"]), dims={"past": 0})) == {"past": (1, 0)}


def test_an_open_dimension_names_input_dimension_and_flag() -> None:
    with pytest.raises(UsageError) as error:
        bind(model(**IMAGES), batch=1)
    assert error.value.message == (
        "input 'images' leaves 'height' (axis 2) and 'width' (axis 3) open: the file says [batch, 3, height, width]"
    )
    assert error.value.hint == "For example: --dim height=640 --dim width=640, or --shape images:1x3x640x640"


def test_an_unnamed_open_axis_needs_a_shape() -> None:
    with pytest.raises(UsageError, match=r"leaves axis 0 and axis 1 open(.|\n)*--shape x:1x128"):
        bind(model(x=[None, None]))


def test_an_input_of_unknown_rank_needs_a_shape() -> None:
    with pytest.raises(UsageError, match="no declared shape"):
        bind(model(x=None))
    assert shapes(bind(model(x=None), shapes={"x": (2, 5)})) == {"x": (2, 5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 8}, "-b 8: the batch of input 'x' is fixed at 1"),
        ({"shapes": {"x": (2, 3)}}, "axis 0 of input 'x' is fixed at 1"),
        ({"shapes": {"x": (1, 3, 3)}}, "has 2 dimensions"),
        ({"shapes": {"y": (1, 3)}}, "no input 'y'"),
        ({"dims": {"n": 3}}, "no dimension 'n'"),
    ],
)
def test_a_fixed_model_refuses_other_sizes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(model(x=[1, 3]), **arguments)  # type: ignore[arg-type]


def test_the_fixed_batch_may_be_said() -> None:
    assert shapes(bind(model(x=[4, 3]), batch=4)) == {"x": (4, 3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 2, "dims": {"batch": 3}}, "-b 2: dimension 'batch' is already 3, by --dim batch=3"),
        ({"batch": 2, "shapes": {"x": (3, 4), "y": (3, 1)}}, "'batch' is already 3"),
        ({"shapes": {"x": (3, 4), "y": (2, 1)}}, "'batch' is already 3, by --shape x:3x4"),
        ({"dims": {"seq": -1}}, "cannot be -1"),
        ({"batch": 0, "dims": {"seq": 1}}, "at least one item"),
        ({"dims": {"sec": 1}}, "Did you mean: seq"),
        ({"dims": {"seq": 1 << 41}}, "which no tensor can have"),
        ({"batch": 1 << 30, "dims": {"seq": 1 << 30}}, "larger than any GPU"),
    ],
)
def test_contradictions_are_usage_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(model(x=["batch", "seq"], y=["batch", 1]), **arguments)  # type: ignore[arg-type]


def test_an_unnamed_batch_may_not_contradict_a_shape() -> None:
    with pytest.raises(UsageError, match="already gives input 'x' a batch of 3"):
        bind(model(x=[None, 4]), batch=2, shapes={"x": (3, 4)})


def test_sizes_that_do_not_fit_the_graph_name_the_node() -> None:
    node = helper.make_node("Add", ["x", "y"], ["z"], name="plus")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name, size in (("x", "a"), ("y", "b"))]
    proto = helper.make_model(helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name="z")]))
    with pytest.raises(ModelError, match=r"node 'plus' \(Add\) cannot run on inputs of shape \[3\], \[4\]"):
        bind(read_onnx(proto.SerializeToString()), dims={"a": 3, "b": 4})


def test_one_model_binds_many_times() -> None:
    parsed = model(x=["batch", 3])
    assert [bind(parsed, batch=batch).tensors["x_out"].shape for batch in (1, 4, 8)] == [(1, 3), (4, 3), (8, 3)]


def test_a_dimension_may_be_named_by_its_beginning() -> None:
    whole, short = (vramplan.estimate("yolov8s", dims=dims) for dims in ({"height": 320}, {"H": 320}))
    assert whole.model.inputs[0].shape == short.model.inputs[0].shape == (1, 3, 320, 640)
