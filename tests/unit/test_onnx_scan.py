"""The copy of a model's structure: values stay behind, lengths are checked, limits hold."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vramplan.errors import ModelError
from vramplan.sources import protobuf_scan
from vramplan.sources.protobuf_scan import scan


def model_with(*initializers: TensorProto, **kwargs: object) -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu", doc_string="a comment " * 100)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    return helper.make_model(helper.make_graph([node], "g", [value], [out], list(initializers)), **kwargs)


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(scan(model.SerializeToString(), where="m").model_bytes)


def test_big_values_are_left_behind_and_small_ones_kept() -> None:
    big = numpy_helper.from_array(np.zeros((64, 64), np.float32), "big")
    small = numpy_helper.from_array(np.array([1, 3, -1], np.int64), "small")
    left, kept = slimmed(model_with(big, small)).graph.initializer
    assert (left.name, list(left.dims), left.data_type, left.raw_data) == ("big", [64, 64], TensorProto.FLOAT, b"")
    assert numpy_helper.to_array(kept).tolist() == [1, 3, -1]


@pytest.mark.parametrize(
    ("dtype", "field"),
    [(TensorProto.FLOAT, "float_data"), (TensorProto.INT64, "int64_data"), (TensorProto.INT32, "int32_data")],
)
def test_values_in_typed_fields_are_left_behind_too(dtype: int, field: str) -> None:
    tensor = helper.make_tensor("t", dtype, [2000], range(2000))
    assert len(getattr(tensor, field)) == 2000
    left = slimmed(model_with(tensor)).graph.initializer[0]
    assert len(getattr(left, field)) == 0
    assert list(left.dims) == [2000]


def test_values_inside_attributes_and_branches_are_left_behind() -> None:
    value = numpy_helper.from_array(np.zeros(10_000, np.float32))
    branch = helper.make_graph([helper.make_node("Constant", [], ["z"], value=value)], "b", [], [])
    model = model_with()
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    structure = scan(model.SerializeToString(), where="m")
    assert len(structure.model_bytes) < 1000
    assert structure.node_count == 1 + 1 + 2


def test_comments_are_left_behind() -> None:
    assert slimmed(model_with()).graph.node[0].doc_string == ""


def test_a_model_without_anything_to_drop_is_unchanged() -> None:
    content = slimmed(model_with()).SerializeToString()
    assert scan(content, where="m").model_bytes == content


def test_values_that_contradict_the_dimensions_are_an_error() -> None:
    tensor = numpy_helper.from_array(np.zeros(1000, np.float32), "liar")
    tensor.dims[0] = 1 << 33
    with pytest.raises(
        ModelError, match=r"tensor 'liar' declares \[8589934592\] of float32, 34,359,738,368 bytes, but has 4,000"
    ):
        scan(model_with(tensor).SerializeToString(), where="m")


@pytest.mark.parametrize("length", [1, 10, 50, 100])
def test_a_truncated_file_is_an_error(length: int) -> None:
    content = model_with(numpy_helper.from_array(np.zeros(1000, np.float32), "w")).SerializeToString()
    with pytest.raises(ModelError, match="not an ONNX model, or is damaged"):
        scan(content[:length], where="m")


@pytest.mark.parametrize(
    "content", [b"\xff" * 40, b"\x0b\x0c", b"\x00\x00\x00", b"hello world, this is no model", b"\x3a\xff\xff\xff\x7f"]
)
def test_what_is_no_protobuf_is_an_error(content: bytes) -> None:
    with pytest.raises(ModelError, match="damaged"):
        scan(content, where="m")


def test_nodes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_scan, "MAX_NODES", 3)
    model = model_with()
    model.graph.node.extend([model.graph.node[0]] * 3)
    with pytest.raises(ModelError, match="more than 3 nodes"):
        scan(model.SerializeToString(), where="m")


def test_nesting_is_limited() -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(protobuf_scan.MAX_GRAPH_DEPTH):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(ModelError, match=f"nests graphs more than {protobuf_scan.MAX_GRAPH_DEPTH} deep"):
        scan(helper.make_model(graph).SerializeToString(), where="m")


def test_structure_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_scan, "MAX_STRUCTURE_BYTES", 1 << 16)
    model = model_with()
    model.graph.node[0].name = "n" * (1 << 17)
    with pytest.raises(ModelError, match="MiB for its structure alone"):
        scan(model.SerializeToString(), where="m")


def test_fields_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_scan, "MAX_FIELDS", 10)
    with pytest.raises(ModelError, match="more than 10 protobuf fields"):
        scan(model_with().SerializeToString(), where="m")
