"""Files made to exhaust memory, time or the stack: one clear error each, in a process that may not use much of either."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

MEMORY_BYTES = 2 << 30
SECONDS = 20
OWN = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from vramplan.errors import VramplanError
from vramplan.sources.onnx_file import bind, read_onnx
try:
    print("graph", len(bind(read_onnx(sys.argv[1])).nodes))
except VramplanError as error:
    print("error", error.exit_code, error.message)
"""


def outcome(content: bytes, folder: Path) -> str:
    """What a limited child process says of the file."""
    path = folder / "attack.onnx"
    path.write_bytes(content)
    start = time.monotonic()
    command = [sys.executable, "-c", CHILD, str(path), str(MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert time.monotonic() - start < SECONDS
    return done.stdout.strip()


def model(nodes: list[onnx.NodeProto], weights: list[TensorProto] = (), functions: list[Any] = ()) -> onnx.ModelProto:  # type: ignore[assignment]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], list(weights))
    return helper.make_model(graph, opset_imports=OWN, functions=list(functions))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def constant(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def calls(name: str, callee: str, count: int) -> Any:
    steps = [
        helper.make_node(callee, ["a" if i == 0 else f"t{i}"], ["b" if i == count - 1 else f"t{i + 1}"], domain="own")
        for i in range(count)
    ]
    return helper.make_function("own", name, ["a"], ["b"], steps, OWN)


def leaf(name: str) -> Any:
    return helper.make_function("own", name, ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], OWN)


def a_million_nodes() -> bytes:
    return field(7, field(1, b"\x0a\x01x\x12\x01y\x22\x04Relu") * 1_000_000)


def a_million_empty_dims() -> bytes:
    return field(7, field(11, field(2, field(1, field(2, b"\x0a\x00" * 20_000_000)))))


def nested_branches() -> bytes:
    graph = b""
    for _ in range(3000):
        graph = field(1, b"\x12\x01y\x22\x02If" + field(5, b"\x0a\x01b" + field(6, graph)))
    return field(7, graph)


def nested_types() -> bytes:
    kind = b"\x0a\x02\x08\x01"
    for _ in range(5000):
        kind = field(4, field(1, kind))
    return field(7, field(11, b"\x0a\x01x" + field(2, kind)) + field(1, b"\x0a\x01x\x12\x01y\x22\x04Relu"))


def a_chain_of_functions() -> bytes:
    functions = [leaf("F0"), *(calls(f"F{level}", f"F{level - 1}", 1) for level in range(1, 3000))]
    return model([helper.make_node("F2999", ["x"], ["y"], domain="own")], functions=functions).SerializeToString()  # type: ignore[arg-type]


def an_explosion_of_functions() -> bytes:
    functions = [leaf("F0"), *(calls(f"F{level}", f"F{level - 1}", 10) for level in range(1, 40))]
    return model([helper.make_node("F39", ["x"], ["y"], domain="own")], functions=functions).SerializeToString()  # type: ignore[arg-type]


def one_node(op: str, inputs: list[str], *weights: TensorProto, **attributes: Any) -> bytes:
    return model([helper.make_node(op, inputs, ["y"], **attributes)], list(weights)).SerializeToString()


def pooled(**attributes: Any) -> bytes:
    image = helper.make_node("ConstantOfShape", ["shape"], ["image"])
    nodes = [image, helper.make_node("MaxPool", ["image"], ["y"], **attributes)]
    return model(nodes, [constant("shape", 1, 3, 8, 8)]).SerializeToString()


def hidden_rank() -> bytes:
    return model(
        [helper.make_node("Expand", ["x", "rank"], ["y"])],
        [TensorProto(name="rank", dims=[1 << 33], data_type=TensorProto.INT64)],
    ).SerializeToString()


def an_endless_range() -> bytes:
    ends = [numpy_helper.from_array(np.int64(value), name) for name, value in (("a", 0), ("b", 1 << 61), ("c", 1))]
    return one_node("Range", ["a", "b", "c"], *ends)


ATTACKS = {
    "a million nodes": (a_million_nodes, "error 3"),
    "a million empty dimensions": (a_million_empty_dims, "error 3"),
    "branches without end": (nested_branches, "error 3"),
    "types without end": (nested_types, "error 3"),
    "a chain of functions": (a_chain_of_functions, "error 3"),
    "an explosion of functions": (an_explosion_of_functions, "error 3"),
    "a shape with 2^33 dimensions": (hidden_rank, "graph 1"),
    "an endless split": (lambda: one_node("Split", ["x"], num_outputs=1 << 40), "graph 1"),
    "an endless range": (an_endless_range, "error 3"),
    "an endless tile": (lambda: one_node("Tile", ["x", "n"], constant("n", 1 << 62)), ("error 3", "graph 1")),
    "an einsum that never ends": (lambda: one_node("Einsum", ["x"], equation="." * 40), "graph 1"),
    "strides of zero": (lambda: pooled(kernel_shape=[1, 1], strides=[0, 0]), "graph 2"),
    "strides for axes that are not there": (lambda: pooled(kernel_shape=[1], strides=[1]), "graph 2"),
    "blocks whose square overflows": (lambda: one_node("DepthToSpace", ["x"], blocksize=1 << 32), "graph 1"),
    "an index out of range": (lambda: one_node("GatherND", ["x", "n"], constant("n", *range(50))), "graph 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_in_a_sentence(name: str, tmp_path: Path) -> None:
    make, expected = ATTACKS[name]
    said = outcome(make(), tmp_path)
    assert said.startswith(expected), said
    assert len(said.splitlines()) == 1
