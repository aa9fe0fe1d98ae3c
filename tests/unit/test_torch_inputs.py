"""The tensors a module is traced with: where they come from, what they are called, which of them follow the batch."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.errors import UsageError  # noqa: E402
from vramplan.sources.torch_inputs import bind_inputs  # noqa: E402
from vramplan.sources.torch_model import TorchModel, WeightFact  # noqa: E402
from vramplan.sources.torch_module import open_torch  # noqa: E402
from vramplan.sources.torch_trees import map_tensors, named_tensors  # noqa: E402


class One(nn.Module):
    def forward(self, x):
        return x


class Two(nn.Module):
    def forward(self, image, mask, scale=1.0, *, extra=None):
        return image


class Tokens(nn.Module):
    def forward(
        self,
        input_ids: Optional[torch.Tensor] = None,  # noqa: UP045
        attention_mask: Any = None,
        pixel_values: Any = None,
        my_ids: Any = None,
        flags: "torch.BoolTensor | None" = None,
        index: torch.LongTensor = None,  # type: ignore[assignment]
    ):
        return input_ids


class Many(nn.Module):
    def forward(self, *tensors, **options):
        return tensors


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Batch:
    images: torch.Tensor
    sizes: list[Any]
    count: int = field(init=False, default=0)


def bind(module, **options):
    return bind_inputs(open_torch(module), **options)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_given_inputs_are_kept_as_they_are():
    x = torch.ones(2, 3)
    bound = bind(One(), args=(x,))
    assert bound.args[0] is x
    assert bound.named == (("x", x),)
    assert bound.batch == 2


def test_names_follow_the_signature_and_the_nesting():
    args = ([meta(2, 3), (meta(2),)], {"a": meta(2, 1), "n": 3})
    bound = bind(Two(), args=args, kwargs={"extra": Batch(meta(2, 8), [meta(1)])})
    assert list(bound.shapes) == ["image[0]", "image[1][0]", "mask.a", "extra.images", "extra.sizes[0]"]


def test_positional_arguments_beyond_the_signature_are_named_too():
    assert list(bind(Many(), args=(meta(1), meta(2))).shapes) == ["tensors[0]", "tensors[1]"]
    assert list(bind(One(), args=(meta(1), meta(2))).shapes) == ["x", "args[0]"]


def test_batch_replaces_dimension_0_where_it_equals_that_of_the_first_tensor():
    args = (meta(2, 3, 8, 8), [meta(2, 5, dtype=torch.float16), meta(3, 2), 7])
    bound = bind(Two(), args=args, batch=6)
    assert bound.shapes == {"image": (6, 3, 8, 8), "mask[0]": (6, 5), "mask[1]": (3, 2)}
    assert bound.args[1][0].dtype is torch.float16
    assert bound.args[1][1] is args[1][1]
    assert bound.args[1][2] == 7


def test_the_same_batch_changes_nothing():
    x = torch.ones(2, 3)
    assert bind(One(), args=(x,), batch=2).args[0] is x


def test_small_integer_inputs_keep_real_values():
    lengths = torch.tensor([5, 3])
    bound = bind(Two(), args=(torch.ones(2, 9), lengths), batch=5)
    assert bound.args[0].is_meta
    assert bound.args[1].tolist() == [5, 3, 5, 3, 5]


def test_channels_last_stays():
    x = meta(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert bind(One(), args=(x,), batch=4).args[0].stride() == (192, 1, 24, 3)


def test_a_shape_replaces_one_tensor_by_name():
    bound = bind(Two(), args=(meta(2, 3), [meta(2), meta(2)]), shapes={"mask[1]": (2, 7)})
    assert bound.shapes == {"image": (2, 3), "mask[0]": (2,), "mask[1]": (2, 7)}


def test_scalars_have_no_batch():
    bound = bind(Two(), args=(torch.tensor(3.0), meta(4, 2)), batch=8)
    assert bound.shapes == {"image": (), "mask": (8, 2)}


def test_shapes_make_meta_tensors_of_float32():
    bound = bind(One(), shapes={"x": (1, 3, 640, 640)}, batch=8)
    assert bound.args[0].is_meta
    assert (bound.args[0].shape, bound.args[0].dtype) == ((8, 3, 640, 640), torch.float32)


def test_token_ids_are_integers():
    shapes = dict.fromkeys(("input_ids", "attention_mask", "pixel_values", "my_ids", "flags", "index"), (1, 16))
    dtypes = {name: tensor.dtype for name, tensor in bind(Tokens(), shapes=shapes).named}
    assert dtypes == {
        "input_ids": torch.int64, "attention_mask": torch.int64, "pixel_values": torch.float32,
        "my_ids": torch.int64, "flags": torch.bool, "index": torch.int64,
    }  # fmt: skip


def test_parameters_after_a_gap_go_by_name():
    bound = bind(Tokens(), shapes={"pixel_values": (1, 3), "input_ids": (1, 4)})
    assert [tensor.shape for tensor in bound.args] == [(1, 4)]
    assert list(bound.kwargs) == ["pixel_values"]


def test_a_variadic_forward_takes_shapes_in_order():
    bound = bind(Many(), shapes={"a": (1, 2), "b": (1, 3)})
    assert list(bound.shapes.values()) == [(1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (One(), {}, r"forward\(x\) needs a shape for x\nAdd --shape x:1x3x640x640"),
        (
            Two(),
            {"shapes": {"image": (1, 3)}},
            r"forward\(image, mask, scale, extra\) needs a shape for mask\nAdd --shape mask:",
        ),
        (Tokens(), {}, r"no input has a shape; forward takes input_ids, .*\nAdd --shape input_ids:1x128"),
        (Many(), {}, r"no input has a shape; forward takes \*tensors"),
        (One(), {"shapes": {"images": (1, 3)}}, r"no input is called 'images'\nKnown: x"),
        (Two(), {"shapes": {"imag": (1, 3)}}, r"no input is called 'imag'\nDid you mean: image"),
        (One(), {"args": (meta(1),), "shapes": {"y": (2,)}}, r"no input is called 'y'\nKnown: x"),
        (One(), {"args": (meta(1),), "dims": {"H": 2}}, r"no dimension is called 'H'\nGive the whole shape"),
        (One(), {"args": (meta(1),), "batch": 0}, "batch 0 is not a positive number"),
        (One(), {"shapes": {"x": (1, -3)}}, "a size is negative"),
        (One(), {"shapes": {"x": (1 << 40, 1 << 40)}}, "no tensor can have the shape"),
        (One(), {"shapes": {"x": (1 << 70,)}}, "no tensor can have the shape"),
    ],
)
def test_what_is_wrong_is_said(module, options, message):
    with pytest.raises(UsageError, match=message):
        bind(module, **options)


def test_zoo_models_know_their_size():
    assert bind("yolov8n").shapes == {"images": (1, 3, 640, 640)}
    assert bind("yolov8n", batch=4, dims={"height": 480}).shapes == {"images": (4, 3, 480, 640)}


def test_zoo_inputs_answer_to_both_their_names():
    model = open_torch("resnet50")
    (declared,) = model.declared
    for name in (declared.parameter, "input"):
        assert list(bind_inputs(model, shapes={name: (2, 3, 64, 64)}).shapes.values()) == [(2, 3, 64, 64)]
        given = bind_inputs(model, args=(meta(1, 3, 32, 32),), shapes={name: (2, 3, 64, 64)})
        assert list(given.shapes.values()) == [(2, 3, 64, 64)]


def test_zoo_dimensions_have_names():
    with pytest.raises(UsageError, match="Did you mean: height"):
        bind("yolov8n", dims={"heigth": 480})


def test_weights_have_no_inputs():
    weight = WeightFact(name="w", shape=(1,), dtype="float32", size_bytes=4)
    model = TorchModel(name="w", format="weights", module=None, weights=(weight,), sha256=lambda: "")
    assert bind_inputs(model, batch=4).named == ()
    with pytest.raises(UsageError, match="holds weights only"):
        bind_inputs(model, shapes={"x": (1,)})


def test_containers_keep_their_types():
    value = {"pair": Pair(meta(2), 5), "batch": Batch(meta(2), [meta(3)]), "text": "x"}
    new = map_tensors("v", value, lambda _, tensor: meta(9) if tensor.shape == (2,) else tensor)
    assert type(new["pair"]) is Pair
    assert new["batch"].images.shape == (9,)
    assert new["batch"].sizes is value["batch"].sizes
    assert value["batch"].images.shape == (2,)
    assert [name for name, _ in named_tensors("v", new)] == ["v.pair[0]", "v.batch.images", "v.batch.sizes[0]"]


def test_containers_without_a_change_are_the_same_object():
    value = {"pair": Pair(meta(2), 5)}
    assert map_tensors("v", value, lambda _, tensor: tensor) is value
