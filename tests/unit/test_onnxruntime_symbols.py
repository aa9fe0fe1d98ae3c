"""Which dimensions a session knows before it runs."""

import pytest

from vramplan.dtypes import DType
from vramplan.graph import Node, Tensor
from vramplan.runtimes.onnxruntime.symbols import known_dims


def known(op, reads, shape, *, constants=None, inputs=None, shapes=None, **attributes):
    """What is known of the result of one node; *inputs* are declared, *shapes* the actual ones of all."""
    given = {"x": (2, 32, 8, 8), **(shapes or {})}
    tensors = {name: Tensor(name=name, dtype=DType.FLOAT32, shape=size) for name, size in given.items()}
    for name, value in (constants or {}).items():
        size = (len(value),)
        tensors[name] = Tensor(name=name, dtype=DType.INT64, shape=size, value=value)
    tensors["y"] = Tensor(name="y", dtype=DType.FLOAT32, shape=shape)
    node = Node(name="n", op=op, inputs=tuple(reads.split()), outputs=("y",), attributes=attributes)
    declared = {"x": ("batch", 32, 8, 8)} if inputs is None else inputs
    return known_dims([node], tensors, tuple(constants or {}), declared)["y"]


@pytest.mark.parametrize(
    ("op", "reads", "shape", "others", "expected"),
    [
        ("Relu", "x", (2, 32, 8, 8), {}, ("batch", 32, 8, 8)),
        ("Transpose", "x", (2, 8, 8, 32), {"perm": (0, 2, 3, 1)}, ("batch", 8, 8, 32)),
        ("Flatten", "x", (2, 2048), {}, ("batch", 2048)),
        ("Reshape", "x t", (2, 32, 64), {"constants": {"t": (0, 32, -1)}}, ("batch", 32, 64)),
        ("Reshape", "x t", (2, 32, 64), {"constants": {"t": (-1, 32, 64)}}, (None, 32, 64)),
        ("Reshape", "x t", (2, 32, 64), {"shapes": {"t": (3,)}}, None),
        ("Expand", "x t", (2, 32, 8, 8), {"shapes": {"t": (4,)}}, None),
        ("Slice", "x a b c", (2, 16, 8, 8), {"constants": {"a": (0,), "b": (16,), "c": (1,)}}, ("batch", 16, 8, 8)),
        ("Resize", "x", (2, 32, 16, 16), {}, (None, 32, 16, 16)),
        ("ReduceMean", "x", (2, 32, 1, 1), {"axes": (2, 3)}, ("batch", 32, 1, 1)),
        ("GlobalAveragePool", "x", (2, 32, 1, 1), {}, ("batch", 32, 1, 1)),
        ("Unsqueeze", "x a", (1, 2, 32, 8, 8), {"constants": {"a": (0,)}}, (1, "batch", 32, 8, 8)),
        ("NonZero", "x", (4, 7), {}, None),
    ],
)
def test_a_name_is_followed_as_far_as_inference_follows_it(op, reads, shape, others, expected):
    assert known(op, reads, shape, **others) == expected


def test_a_convolution_with_open_sides_has_open_sides():
    shapes = {"w": (64, 32, 3, 3)}
    open_sides = {"x": ("batch", 32, "height", "width"), "w": (64, 32, 3, 3)}
    assert known("Conv", "x w", (2, 64, 8, 8), shapes=shapes, inputs=open_sides) == ("batch", 64, None, None)
    closed = {"x": ("batch", 32, 8, 8), "w": (64, 32, 3, 3)}
    assert known("Conv", "x w", (2, 64, 8, 8), shapes=shapes, inputs=closed) == ("batch", 64, 8, 8)


def test_a_join_knows_what_one_of_its_parts_knows():
    parts = {"x": ("batch", 32, 8, 8), "z": (None, 16, 8, 8)}
    assert known("Concat", "x z", (2, 48, 8, 8), shapes={"z": (2, 16, 8, 8)}, inputs=parts, axis=1) == ("batch", 48, 8, 8)
    assert known("Add", "x z", (2, 32, 8, 8), shapes={"z": (2, 32, 8, 8)}, inputs=parts | {"z": (None, 32, 8, 8)}) == (
        None, 32, 8, 8,
    )  # fmt: skip


def test_numbers_are_followed_through_a_shape_and_names_are_not():
    nodes = [
        Node(name="a", op="Shape", inputs=("x",), outputs=("s",)),
        Node(name="b", op="Reshape", inputs=("z", "s"), outputs=("y",)),
    ]
    image = (2, 32, 8, 8)
    tensors = {name: Tensor(name=name, dtype=DType.FLOAT32, shape=image) for name in ("x", "z", "y")}
    tensors["s"] = Tensor(name="s", dtype=DType.INT64, shape=(4,))
    declared = {"x": ("batch", 32, 8, 8), "z": ("batch", 2048)}
    assert known_dims(nodes, tensors, (), declared)["y"] == (None, 32, 8, 8)


def test_everything_is_known_where_the_file_fixes_everything():
    fixed = {"x": (2, 32, 8, 8)}
    assert known("NonMaxSuppression", "x", (7, 3), inputs=fixed) == (7, 3)
    assert known("Resize", "x", (2, 32, 16, 16), inputs=fixed) == (2, 32, 16, 16)
