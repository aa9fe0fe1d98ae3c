"""ONNX files for the board's tests."""

from __future__ import annotations

from onnx import TensorProto, helper


def tiny_onnx(batch: int | str = "batch") -> bytes:
    """One convolution of 8 filters over an image whose height and width are open."""
    return chain_onnx(1, batch)


def chain_onnx(nodes: int, batch: int | str = "batch") -> bytes:
    """*nodes* convolutions, one after the other: as slow to estimate as it is long."""
    names = ["x", *(f"t{index}" for index in range(nodes))]
    made = [
        helper.make_node("Conv", [names[index], "w"], [names[index + 1]], pads=[1, 1, 1, 1], name=f"conv{index}")
        for index in range(nodes)
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 3, 3], bytes(3 * 3 * 9 * 4), raw=True)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, "height", "width"])
    result = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "chain", [given], [result], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
