"""Reading a file: what is declared, what is wrong, and where external data may lie."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.sources.onnx_file import bind, read_onnx
from vramplan.sources.onnx_tree import ANY_DIM
from vramplan.sources.onnx_types import DTYPES

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def info(name: str, dims: list[int | str] | None = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def model(
    nodes: list[onnx.NodeProto], *, inputs: list = (), outputs: list = (), weights: list = (), **kwargs: object
) -> onnx.ModelProto:  # type: ignore[type-arg]
    graph = helper.make_graph(nodes, "g", list(inputs) or [info("x", [1, 4])], list(outputs) or [info("y")], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **kwargs)


def relu(source: str = "x", target: str = "y", **kwargs: object) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target], **kwargs)


def external(name: str, dims: list[int], **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def read(proto: onnx.ModelProto):  # type: ignore[no-untyped-def]
    return read_onnx(proto.SerializeToString())


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    proto = model([relu()], inputs=[info("x", ["batch", 3, None, 4])], producer_name="tool", producer_version="1.2")
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    read_model = read_onnx(path)
    assert (read_model.name, read_model.path, read_model.opset, read_model.producer) == ("net", str(path), 17, "tool 1.2")
    assert read_model.file_bytes == path.stat().st_size
    assert read_model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read_model.inputs[0].name, read_model.inputs[0].dtype) == ("x", DType.FLOAT32)
    assert read_model.inputs[0].dims == ("batch", 3, ANY_DIM, 4)
    assert [output.name for output in read_model.outputs] == ["y"]


def test_a_file_that_changes_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model([relu()]).SerializeToString())
    read_model = read_onnx(path)
    path.write_bytes(path.read_bytes() + b"\x0a\x00")
    with pytest.raises(ModelError, match="changed while it was being read"):
        _ = read_model.sha256


def test_bytes_are_a_source_too() -> None:
    content = model([relu()]).SerializeToString()
    assert read_onnx(content).sha256 == hashlib.sha256(content).hexdigest()


def test_the_element_types_of_onnx_are_known_but_for_six_bit_floats() -> None:
    names = {name for name, number in TensorProto.DataType.items() if number not in DTYPES}
    assert names <= {"UNDEFINED", "FLOAT6E2M3", "FLOAT6E3M2"}


def test_sub_byte_weights_are_packed() -> None:
    weight = TensorProto(name="w", dims=[5, 3], data_type=TensorProto.INT4)
    proto = model(
        [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])], weights=[weight, numpy_helper.from_array(np.float32(1), "s")]
    )
    assert bind(read(proto)).tensors["w"].size_bytes == (5 * 3 * 4 + 7) // 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04....", "zip archive"),
        (b"<html>", "web page"),
        (b"\x08\x07", "has no graph"),
    ],
)
def test_other_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_onnx(path)


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*No such file"):
        read_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"cannot read|not a file"):
        read_onnx(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a file"):
        read_onnx(tmp_path / "pipe")


@pytest.mark.parametrize("dims", [[-5, 4], [1 << 62], [1 << 30, 1 << 30], [1 << 41], [0, 1 << 40, 1 << 40]])
def test_impossible_dimensions_name_the_tensor(dims: list[int]) -> None:
    with pytest.raises(ModelError, match="'huge'"):
        read(
            model(
                [helper.make_node("Add", ["x", "huge"], ["y"])], weights=[TensorProto(name="huge", dims=dims, data_type=FLOAT)]
            )
        )


def test_minus_one_is_an_open_dimension() -> None:
    assert read(model([relu()], inputs=[info("x", [-1, 4])])).inputs[0].dims == (ANY_DIM, 4)


def test_an_unknown_element_type_is_an_error() -> None:
    with pytest.raises(ModelError, match="'w' has element type number 99"):
        read(model([relu()], weights=[TensorProto(name="w", dims=[1], data_type=99)]))


def test_a_cycle_names_a_node() -> None:
    first = helper.make_node("Add", ["x", "b"], ["a"], name="first")
    second = helper.make_node("Add", ["a", "x"], ["b"], name="second")
    with pytest.raises(ModelError, match=r"node '(first|second)' \(Add\) needs its own output"):
        read(model([first, second, relu("b")]))


def test_nodes_in_the_wrong_order_are_sorted_with_a_note() -> None:
    graph = bind(read(model([relu("a", "y", name="last"), relu("x", "a", name="first")])))
    assert [node.name for node in graph.nodes] == ["first", "last"]
    assert "not in an order" in graph.notes[0]


def test_a_second_producer_is_an_error() -> None:
    with pytest.raises(ModelError, match="'y' is written twice, the second time by node 'again'"):
        read(model([relu(), relu(name="again")]))


def test_a_name_that_nothing_writes_is_an_error() -> None:
    with pytest.raises(ModelError, match="'reader' reads tensor 'nowhere', which nothing writes"):
        bind(read(model([relu("nowhere", name="reader")])))
    with pytest.raises(ModelError, match=r"list of outputs.*'z'"):
        bind(read(model([relu()], outputs=[info("z")])))


def test_unused_initializers_are_left_out_with_a_note() -> None:
    graph = bind(read(model([relu()], weights=[TensorProto(name="spare", dims=[3, 5], data_type=FLOAT)])))
    assert graph.weights == ()
    assert graph.notes == (f"1 initializers that no node reads are left out ({3 * 5 * 4} bytes): 'spare'",)


def test_constants_become_weights_and_their_nodes_go() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([[2, 3]], np.int64))),
        helper.make_node("Constant", [], ["f"], value_floats=[1.0, 2.0]),
        helper.make_node("Add", ["x", "f"], ["y"]),
        helper.make_node("Identity", ["k"], ["z"]),
    ]
    graph = bind(read(model(nodes, inputs=[info("x", [4, 2])], outputs=[info("y"), info("z")])))
    assert [node.op for node in graph.nodes] == ["Add", "Identity"]
    assert set(graph.weights) == {"k", "f"}
    assert (graph.tensors["k"].shape, graph.tensors["k"].value, graph.tensors["f"].value) == ((1, 2), (2, 3), None)


def test_initializers_listed_as_inputs_are_weights() -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs=[info("x", ["n", 4]), info("w", [4, 5])],
                  weights=[numpy_helper.from_array(np.zeros((4, 5), np.float32), "w")], ir_version=3)  # fmt: skip
    graph = bind(read(proto))
    assert (graph.inputs, graph.weights, graph.tensors["y"].shape) == (("x",), ("w",), (1, 5))


def test_sparse_initializers_count_as_dense() -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 7], np.int64), "i")
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 5]))
    assert bind(read(proto)).tensors["w"].size_bytes == 4 * 5 * 4


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "a/../../b", "C:\\weights", "a\\..\\..\\b", "", "a\0b"])
def test_external_data_outside_the_folder_is_an_error(location: str) -> None:
    with pytest.raises(ModelError, match="external data of tensor 'w'"):
        read(model([helper.make_node("Add", ["x", "w"], ["y"])], weights=[external("w", [4], location=location)]))


def test_external_data_behind_a_link_is_an_error(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_bytes(bytes(16))
    (inside / "w.bin").symlink_to(outside / "secret")
    path = inside / "m.onnx"
    path.write_bytes(
        model([helper.make_node("Add", ["x", "w"], ["y"])], weights=[external("w", [4], location="w.bin")]).SerializeToString()
    )
    with pytest.raises(ModelError, match=r"'w' is at 'w.bin', which is a link that leads out"):
        read_onnx(path)


def test_external_data_is_not_needed(tmp_path: Path) -> None:
    weights = [external("w", [4], location="gone.bin"), external("v", [1 << 20, 1024], location="short.bin", offset=0)]
    (tmp_path / "short.bin").write_bytes(bytes(10))
    path = tmp_path / "m.onnx"
    path.write_bytes(model([helper.make_node("Sum", ["x", "w"], ["y"]), relu("v", "z")], weights=weights).SerializeToString())
    graph = bind(read_onnx(path))
    assert graph.tensors["v"].size_bytes == (1 << 20) * 1024 * 4
    assert any("not there: 'gone.bin'" in note for note in graph.notes)
    assert any("shorter than the model says: 'short.bin'" in note for note in graph.notes)


@pytest.mark.parametrize("entries", [{"length": 15}, {"length": "many"}, {"offset": -1}])
def test_external_sizes_are_checked(entries: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="tensor 'w'"):
        read(model([helper.make_node("Add", ["x", "w"], ["y"])], weights=[external("w", [4], location="w.bin", **entries)]))


def test_control_characters_in_names_are_escaped() -> None:
    graph = bind(read(model([relu("x", "\x1b[2Jboo"), relu("\x1b[2Jboo", "y")])))
    assert graph.nodes[0].outputs == ("\\x1b[2Jboo",)


def test_a_name_that_is_no_text_is_an_error() -> None:
    content = model([relu(name="AAAA")]).SerializeToString().replace(b"AAAA", b"\xff\xfe\xff\xfe")
    with pytest.raises(ModelError, match="a name that is not text"):
        read_onnx(content)


def test_functions_that_call_themselves_are_an_error() -> None:
    own = [helper.make_opsetid("own", 1)]
    first = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("G", ["a"], ["b"], domain="own")], own)
    second = helper.make_function("own", "G", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], own)
    with pytest.raises(ModelError, match=r"local function '[FG]' calls itself"):
        read(model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[first, second]))


def test_functions_that_multiply_are_counted_before_they_are_written_out() -> None:
    own = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [relu("a", "b")], own)]
    for level in range(1, 30):
        calls = [
            helper.make_node(f"F{level - 1}", ["a" if i == 0 else f"t{i}"], ["b" if i == 9 else f"t{i + 1}"], domain="own")
            for i in range(10)
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, own))
    with pytest.raises(ModelError, match="more than 250,000 nodes once its local functions are written out"):
        read(model([helper.make_node("F29", ["x"], ["y"], domain="own")], functions=functions))
