"""Kinds of modules that people have: each is traced, and what it holds is what its code says."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
from collections import OrderedDict
from typing import NamedTuple

import pytest

import vramplan as vp

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

from vramplan.errors import ModelError, UsageError  # noqa: E402
from vramplan.program import Role  # noqa: E402
from vramplan.ranges import Evidence  # noqa: E402

X = 64 * 64 * 4
"""Bytes of one 64 x 64 matrix of float32."""


def estimate(module, *args, gpu="h200", **options):
    return vp.estimate(module.eval(), args=args or (torch.empty(64, 64, device="meta"),), gpu=gpu, **options)


def shapes(estimate):
    return [item.shape for item in estimate.model.outputs]


class Apply(nn.Module):
    """A module that is one function."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def run(function, *args, **attributes):
    return estimate(Apply(function, **attributes), *args)


# Python that looks at elements


def test_branches_on_constants_are_taken():
    def forward(self, x):
        if self.factor > 2 and bool((self.strides == 8).any()) and self.strides.tolist() == [8.0, 16.0]:
            return torch.cat([x, x])
        return x

    found = run(forward, factor=torch.tensor(3), strides=torch.tensor([8.0, 16.0]))
    assert shapes(found) == [(128, 64)]
    assert found.coverage.bounded == 0


def test_items_of_constants_and_of_what_follows_from_them_are_right():
    def forward(self, x):
        count = self.sizes.cumsum(0).max().item()
        stride = float(self.strides[1] / 2)
        assert int(stride) == 8
        return x.new_zeros(count, int(stride))

    found = run(forward, sizes=torch.tensor([3, 4, 5]), strides=torch.tensor([8.0, 16.0]))
    assert shapes(found) == [(3 + 4 + 5, 8)]


def test_half_precision_rounds_the_constants_too():
    def forward(self, x):
        return x.new_zeros(int(self.count))

    module = Apply(forward, count=torch.tensor(2049.0))
    assert shapes(estimate(module, precision="fp16")) == [(2048,)]  # 2049 is no float16
    assert shapes(estimate(module, precision="fp32")) == [(2049,)]


def test_small_integer_inputs_keep_their_values():
    def forward(self, x, lengths):
        return x[: int(lengths.max())]

    assert shapes(run(forward, torch.empty(64, 64), torch.tensor([5, 9, 2]))) == [(9, 64)]


def test_elements_that_nobody_knows_are_taken_to_be_zero_and_that_is_said():
    found = run(lambda self, x: x.new_zeros(4 + int(x.sum().item())), torch.empty(64, 64, device="meta"))
    assert shapes(found) == [(4,)]
    assert any("elements are not known" in note for note in found.notes)
    assert found.budget.activations.evidence is Evidence.BOUNDED


def test_tensors_made_in_forward_count():
    def forward(self, x):
        grid = torch.stack(torch.meshgrid(torch.arange(64, device=x.device), torch.arange(64, device=x.device), indexing="ij"))
        return x + grid.sum(0) + torch.ones_like(x) + torch.eye(64).to(x)

    found = run(forward)
    assert shapes(found) == [(64, 64)]
    assert max(item.size_bytes for item in found.program.buffers) == 2 * 64 * 64 * 8  # the stack of two int64 grids


def test_buffers_written_in_place_stay_where_they_are():
    def forward(self, x):
        self.cache[:, :64] = x
        self.step += 1
        return self.cache[:, : 64 + int(self.step)].sum(1)

    module = Apply(forward, cache=torch.zeros(64, 128), step=torch.tensor(0))
    found = estimate(module)
    assert found.budget.weights_bytes == 64 * 128 * 4 + 8
    assert shapes(found) == [(64,)]
    assert int(module.step) == 0


# attention, recurrence


@pytest.mark.parametrize("is_causal", [False, True])
def test_functional_attention(is_causal):
    q = torch.empty(2, 8, 128, 64, device="meta")
    found = vp.estimate(
        Apply(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)),
        args=(q, q, q),
        precision="fp16",
        gpu="h200",
    )
    assert shapes(found) == [(2, 8, 128, 64)]
    assert found.budget.inputs_bytes == 3 * 2 * 8 * 128 * 64 * 2
    assert max(item.size_bytes for item in found.program.buffers if item.role is Role.WORKSPACE) < 2 * 8 * 128 * 128 * 2


def test_attention_written_out_holds_its_scores():
    def forward(self, q):
        return (q @ q.transpose(-1, -2)).softmax(-1) @ q

    scores = 2 * 8 * 128 * 128 * 4
    found = run(forward, torch.empty(2, 8, 128, 64))
    _, start, stop = found.program.phase("first_run")
    made = [found.program.buffers[event.buffer_index].size_bytes for event in found.program.events[start:stop]]
    assert made.count(scores) == 2 * 2  # scores and their softmax, each held and freed


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention(need_weights):
    module = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=need_weights)

    found = run(forward, torch.empty(2, 16, 64), attention=module)
    assert shapes(found) == [(2, 16, 64)] + [(2, 16, 16)] * need_weights
    assert found.budget.weights_bytes == (3 * 64 * 64 + 3 * 64 + 64 * 64 + 64) * 4
    assert found.coverage.unmodelled == ()


@pytest.mark.parametrize("mask", [None, "padding"])
def test_encoder_layers_with_and_without_a_mask(mask):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        padding = torch.zeros(2, 16, dtype=torch.bool, device=x.device) if mask else None
        return self.encoder(x, src_key_padding_mask=padding)

    found = run(forward, torch.empty(2, 16, 64), encoder=encoder)
    one = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64
    assert shapes(found) == [(2, 16, 64)]
    assert found.budget.weights_bytes == 2 * one * 4


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_recurrent_layers(kind, gates, is_bidirectional):
    sides = 1 + is_bidirectional
    found = estimate(kind(32, 16, batch_first=True, bidirectional=is_bidirectional), torch.empty(4, 10, 32))
    state = (sides, 4, 16)
    assert shapes(found) == [(4, 10, 16 * sides), state, *([state] if kind is nn.LSTM else [])]
    assert found.model.parameters == sides * gates * (16 * 32 + 16 * 16 + 16 + 16)


# scripts, rearrangements


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:
            return torch.sigmoid(x) * x
        return x


@torch.jit.script
def scripted_function(x: torch.Tensor) -> torch.Tensor:
    return torch.neg(x) + 1


def test_scripted_parts_are_seen_through():
    found = run(lambda self, x: scripted_function(self.gate(x)), gate=torch.jit.script(Gate()))
    assert shapes(found) == [(64, 64)]
    names = {item.name.rpartition(" ")[2] for item in found.program.buffers}
    assert {"sigmoid", "mul", "neg", "add"} <= names


def test_a_compiled_module_is_refused():
    with pytest.raises(UsageError, match=r"what torch\.compile fuses is not modelled yet"):
        estimate(torch.compile(nn.Linear(64, 64)))


def test_compiled_functions_inside_run_as_they_are_written():
    found = run(lambda self, x: self.compiled(x), compiled=torch.compile(lambda x: torch.neg(torch.neg(x))))
    assert found.lower_bound_bytes == 4 * X  # steady: input, the last result, and two


def test_einops():
    einops = pytest.importorskip("einops", reason="einops is not installed")
    torch_layer = pytest.importorskip("einops.layers.torch")

    def forward(self, x):
        y = einops.rearrange(x, "(h a) (w b) -> (h w) (a b)", a=4, b=4)
        return self.layer(einops.repeat(einops.reduce(y, "p d -> d", "mean"), "d -> n d", n=4))

    assert shapes(run(forward, layer=torch_layer.Rearrange("n (a b) -> n b a", a=4))) == [(4, 4, 4)]


# what goes in and comes out


@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    more: dict


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    hidden: tuple


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def test_nested_inputs_and_outputs():
    def forward(self, batch, pair, *, flags):
        total = batch.image + batch.more["depth"][0] + pair.first + flags["scale"]
        return Result(logits=total, hidden=(torch.neg(total), [pair.second]))

    x = torch.empty(64, 64)
    found = vp.estimate(
        Apply(forward),
        args=(Batch(x, {"depth": [torch.empty(64, 64)], "name": "a"}), Pair(torch.empty(64, 64), torch.empty(2))),
        kwargs={"flags": OrderedDict(scale=torch.ones(1))},
    )
    assert found.budget.inputs_bytes == 3 * X + 2 * 4 + 1 * 4
    assert shapes(found) == [(64, 64), (64, 64), (2,)]
    made = [item.size_bytes for item in found.program.buffers if item.role is Role.OUTPUT]
    assert made == [X, X] * 4  # total and neg(total) in each of four runs; the third is an input


def test_one_tensor_given_twice_is_moved_twice():
    x = torch.empty(64, 64)
    assert run(lambda self, a, b: a + b, x, x).budget.inputs_bytes == 2 * X


# ops of other libraries


@pytest.fixture
def library():
    with torch.library._scoped_library("vramplan_test", "FRAGMENT") as found:
        yield found


def test_an_unknown_op_with_a_shape_function_is_named_and_widens_the_range(library):
    library.define("blur(Tensor x) -> Tensor")
    torch.library.register_fake("vramplan_test::blur", torch.empty_like, lib=library)
    large = torch.empty(4096, 4096, device="meta")
    found = run(lambda self, x: torch.ops.vramplan_test.blur(x), large)
    assert found.coverage.unmodelled == ("vramplan_test.blur",)
    assert shapes(found) == [(4096, 4096)]
    assert found.total_high_bytes - found.total_bytes >= 2 * 4096 * 4096 * 4  # scratch of all it touches: operand and result
    assert found.coverage.exact + found.coverage.bounded + 1 == found.coverage.ops


def test_an_unknown_op_without_one_is_one_error(library):
    library.define("sharpen(Tensor x) -> Tensor")
    library.impl("sharpen", torch.clone, "CPU")
    with pytest.raises(ModelError, match=r"PyTorch cannot tell the result shapes of vramplan_test::sharpen") as error:
        run(lambda self, x: torch.ops.vramplan_test.sharpen(x))
    assert "register_fake" in error.value.hint


def test_a_composite_op_of_a_library_is_taken_apart(library):
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: torch.neg(torch.neg(x)), "CompositeImplicitAutograd")
    found = run(lambda self, x: torch.ops.vramplan_test.twice(x))
    assert found.coverage.unmodelled == ()
    assert found.lower_bound_bytes == 4 * X  # steady: input, the last result, and two


# shapes that depend on elements


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda self, x: torch.nonzero(x), (4096, 2)),
        (lambda self, x: x[x > 0], (4096,)),
        (lambda self, x: torch.masked_select(x, x > 0), (4096,)),
        (lambda self, x: x[(x > 0).any(1)], (64, 64)),
        (lambda self, x: torch.where(x > 0)[0], (4096,)),
    ],
)
def test_what_depends_on_elements_is_as_large_as_it_can_be_and_that_is_said(function, shape):
    found = run(function)
    assert shapes(found) == [shape]
    assert any("all elements are taken to be hits" in note for note in found.notes)
    assert found.coverage.bounded >= 1
    assert found.budget.outputs.evidence is Evidence.BOUNDED


def test_a_known_mask_is_no_guess():
    found = run(lambda self, x: x[self.mask], mask=torch.arange(64) % 2 == 0)
    assert shapes(found) == [(32, 64)]
    assert found.coverage.bounded == 0


# precisions


def linear(rows=256, columns=512):
    return nn.Linear(columns, rows)


WEIGHT, BIAS = 256 * 512, 256


@pytest.mark.parametrize(
    ("precision", "size_bytes"),
    [
        ("fp32", WEIGHT * 4 + BIAS * 4),
        ("fp16", WEIGHT * 2 + BIAS * 2),
        ("bf16", WEIGHT * 2 + BIAS * 2),
        ("int8", WEIGHT + 256 * 2 + BIAS * 2),  # a scale of half a row
        ("fp8", WEIGHT + 256 * 4 + BIAS * 2),  # a float32 scale a row
        ("int4", WEIGHT // 2 + 256 * (512 // 128) * (2 + 2) + BIAS * 2),  # scale and zero for 128 elements
        ("autocast-fp16", WEIGHT * 4 + BIAS * 4),
    ],
)
def test_weights_of_one_linear_layer(precision, size_bytes):
    found = estimate(linear(), torch.empty(8, 512), precision=precision)
    assert found.budget.weights_bytes == size_bytes
    assert found.model.parameters == WEIGHT + BIAS


@pytest.mark.parametrize(("precision", "copies"), [("int8", 1), ("fp8", 1), ("int4", 0)])
def test_the_unpacked_copy_is_bounded(precision, copies):
    found = estimate(linear(), torch.empty(8, 512), precision=precision)
    unpacked = [item.size_bytes for item in found.program.buffers if item.name == "unpacked weight"]
    assert set(unpacked) == {copies * WEIGHT * 2}
    assert found.budget.workspace.evidence is Evidence.BOUNDED
    assert any("1 weights of linear layers are kept as torchao stores them" in note for note in found.notes)


def test_autocast_keeps_weights_wide_and_casts_them_for_every_call():
    module = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    x = torch.empty(4096, 512, device="meta")
    half, mixed, full = (estimate(module, x, precision=name) for name in ("fp16", "autocast-fp16", "fp32"))
    weights = 8 * (512 * 512 + 512)
    assert mixed.budget.weights_bytes == full.budget.weights_bytes == weights * 4
    assert half.lower_bound_bytes < mixed.lower_bound_bytes < full.lower_bound_bytes
    casts = [item for item in mixed.program.buffers if item.size_bytes == 512 * 512 * 2]
    assert len(casts) == 8 * 4  # one of each weight, in the first run and in three more
    twice = estimate(nn.Sequential(module[0], module[0]), x, precision="autocast-fp16")
    casts = [item for item in twice.program.buffers if item.size_bytes == 512 * 512 * 2]
    assert len(casts) == 2 * 4  # the same weight, cast for each of two calls: under inference_mode no cast is kept
    assert mixed.model.outputs[0].dtype == "float16"


def test_autocast_in_the_modules_own_code():
    def forward(self, x):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = self.linear(x)
            assert y.dtype is torch.bfloat16
            with torch.autocast("cuda", enabled=False):
                z = self.linear(x)
        return y, z, self.linear(x)

    found = run(forward, linear=nn.Linear(64, 64))
    assert [item.dtype for item in found.model.outputs] == ["bfloat16", "float32", "float32"]


def test_the_layer_that_autocast_widens():
    module = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Softmax(-1), nn.Linear(64, 64))
    assert estimate(module, precision="autocast-bf16").model.outputs[0].dtype == "bfloat16"
    assert estimate(module[:2], precision="autocast-bf16").model.outputs[0].dtype == "float32"


# layouts


def test_channels_last_goes_through_the_layers():
    seen = []

    def forward(self, x):
        y = self.body(x)
        seen.append((x.is_contiguous(memory_format=torch.channels_last), y.is_contiguous(memory_format=torch.channels_last)))
        return y

    body = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    estimate(Apply(forward, body=body), torch.empty(2, 8, 32, 32), memory_format="channels_last")
    estimate(Apply(forward, body=body), torch.empty(2, 8, 32, 32))
    assert seen == [(True, True), (False, False)]


# size


def test_seventy_billion_parameters_on_meta_cost_no_memory():
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(65_536, 65_536, bias=False) for _ in range(16)), nn.Linear(65_536, 20_000))
    tracemalloc.start()
    found = estimate(module, torch.empty(1, 65_536, device="meta"), precision="bf16")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    count = 16 * 65_536**2 + 65_536 * 20_000 + 20_000
    assert found.model.parameters == count > 70e9
    assert found.budget.weights_bytes == count * 2
    assert peak_bytes < 2**24


def test_a_batch_is_set_without_making_it():
    started = time.process_time()
    found = vp.estimate(nn.ReLU(), args=(torch.empty(1, 64, 64),), batch=100_000)
    assert found.budget.inputs_bytes == 100_000 * X
    assert time.process_time() - started < 20


# files


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval()


PARAMETERS = 64 * 32 + 32 + 32 * 8 + 8


def test_an_exported_program(module, tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(4, 64),)), path)
    found, direct = vp.estimate(path, gpu="h200"), estimate(module, torch.empty(4, 64))
    assert (found.model.format, found.batch) == ("pt2", 4)
    assert found.budget.weights_bytes == PARAMETERS * 4
    assert found.phases["load"] == direct.phases["load"]
    assert found.phases["steady"].allocated_peak_bytes == direct.phases["steady"].allocated_peak_bytes


def test_a_torchscript_archive(module, tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(module).save(path)
    found = vp.estimate(path, shapes={"input": (4, 64)}, gpu="h200")
    assert found.model.format == "torchscript"
    assert found.budget.weights_bytes == PARAMETERS * 4
    assert shapes(found) == [(4, 8)]


def test_a_traced_torchscript_archive_at_another_batch(module, tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.trace(module, torch.zeros(1, 64)).save(path)
    assert shapes(vp.estimate(path, shapes={"input": (3, 64)})) == [(3, 8)]


def test_a_state_dict_is_weights_only(module, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(module.state_dict(), path)
    found = vp.estimate(path)
    assert found.model.format == "weights"
    assert found.budget.weights_bytes == PARAMETERS * 4
    assert found.budget.activations_bytes == found.budget.workspace_bytes == 0
    assert any("weights only" in note for note in found.notes)
    with pytest.raises(UsageError, match="holds weights only"):
        vp.estimate(path, precision="fp16")
