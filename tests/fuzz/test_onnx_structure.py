"""Well-formed files that make no sense: fields of a real model replaced by values from a list of usual attacks."""

import random
from typing import Any

import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from tests.fuzz.outcome import check, content

NUMBERS = (-1, 0, 1, 2, 7, 63, 64, 1 << 31, 1 << 40, 1 << 62, -(1 << 63), (1 << 63) - 1)
WORDS = (
    "",
    "x",
    "If",
    "Loop",
    "Scan",
    "Constant",
    "Reshape",
    "Split",
    "GatherND",
    "Einsum",
    "ai.onnx",
    "\x1b[2J",
    "n" * 3000,
    "…",
    "../up",
)


def numbers(chance: random.Random) -> int:
    return chance.choice(NUMBERS)


def change_node(graph: Any, chance: random.Random) -> None:
    node = chance.choice(graph.node)
    other = chance.choice(graph.node)
    match chance.randrange(8):
        case 0:
            node.op_type = chance.choice(WORDS)
        case 1:
            node.domain = chance.choice(("vendor", "com.microsoft", "ai.onnx.ml", "\n"))
        case 2:
            node.input.append(chance.choice((*other.output, *WORDS)))
        case 3:
            del node.input[:]
        case 4:
            node.output.append(chance.choice((*other.output, *WORDS)))
        case 5:
            node.op_type = other.op_type
        case 6:
            del node.output[chance.randrange(len(node.output)) :]
        case _:
            graph.node.append(node)


def change_attribute(graph: Any, chance: random.Random) -> None:
    node = chance.choice(graph.node)
    if not node.attribute or chance.random() < 0.2:
        node.attribute.add(
            name=chance.choice(("axis", "perm", "to", "then_branch", "num_outputs")), type=AttributeProto.INT, i=numbers(chance)
        )
        return
    attribute = chance.choice(node.attribute)
    match chance.randrange(5):
        case 0:
            attribute.i = numbers(chance)
        case 1 if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = numbers(chance)
        case 2:
            attribute.type = chance.choice(AttributeProto.AttributeType.values())
        case 3:
            attribute.ints.extend(numbers(chance) for _ in range(chance.choice((1, 5, 500))))
        case _:
            attribute.ref_attr_name = "axis"


def change_tensor(graph: Any, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    match chance.randrange(6):
        case 0:
            tensor.dims.append(numbers(chance))
        case 1 if tensor.dims:
            tensor.dims[0] = numbers(chance)
        case 2:
            tensor.data_type = chance.choice((0, 1, 6, 7, 8, 9, 16, 22, 99, -3))
        case 3:
            tensor.name = chance.choice((*WORDS, chance.choice(graph.initializer).name))
        case 4:
            tensor.raw_data = bytes(chance.choice((1, 8, 4096)))
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=chance.choice(WORDS))


def change_declaration(graph: Any, chance: random.Random) -> None:
    value = chance.choice((*graph.input, *graph.output))
    dims = value.type.tensor_type.shape.dim
    match chance.randrange(4):
        case 0 if dims:
            chance.choice(dims).dim_value = numbers(chance)
        case 1:
            value.type.tensor_type.elem_type = chance.choice((0, 8, 99))
        case 2:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case _:
            value.name = chance.choice(WORDS)


def wrap_in_branch(graph: Any, chance: random.Random) -> None:
    inner = helper.make_graph([onnx.NodeProto.FromString(chance.choice(graph.node).SerializeToString())], "inner", [], [])
    inner.output.extend(onnx.ValueInfoProto(name=name) for name in inner.node[0].output)
    kind, label = chance.choice((("If", "then_branch"), ("Loop", "body"), ("Scan", "body"), ("Relu", "body")))
    node = helper.make_node(kind, [chance.choice(graph.node).output[0]], [f"wrapped{len(graph.node)}"], **{label: inner})
    if chance.random() < 0.5:
        node.attribute.append(helper.make_attribute("else_branch", inner))
        node.attribute.append(helper.make_attribute("num_scan_inputs", 1))
    graph.node.append(node)


CHANGES = (change_node, change_attribute, change_tensor, change_declaration, wrap_in_branch)


@pytest.mark.parametrize("name", ["yolov8n", "vit_b_16"])
@pytest.mark.parametrize("part", range(4))
def test_changed_structure(name: str, part: int) -> None:
    original = content(name)
    for seed in range(part * 15, part * 15 + 15):
        chance = random.Random(seed)
        model = onnx.ModelProto.FromString(original)
        for _ in range(chance.choice((1, 1, 2, 5))):
            chance.choice(CHANGES)(model.graph, chance)
        check(model.SerializeToString())
