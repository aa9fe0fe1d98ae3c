"""What a traced forward holds, and when: eager PyTorch lets go when the last Python reference dies."""

from __future__ import annotations

import gc

import pytest

import vramplan as vp

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.errors import ModelError  # noqa: E402
from vramplan.program import Action, Role  # noqa: E402
from vramplan.units import MIB  # noqa: E402

X = 64 * 64 * 4
"""Bytes of one 64 x 64 matrix of float32, which the small models here make."""


def estimate(module, *args, gpu="h200", **options):
    return vp.estimate(module.eval(), args=args or (torch.empty(64, 64, device="meta"),), gpu=gpu, **options)


def most_live(estimate, phase="first_run", roles=(Role.INPUT, Role.ACTIVATION, Role.OUTPUT)):
    """The most bytes of these roles that are alive at once in one phase."""
    program = estimate.program
    _, start, stop = program.phase(phase)
    live, most = 0, 0
    for step, (action, index, _) in enumerate(program.events[:stop]):
        buffer = program.buffers[index]
        if buffer.role in roles:
            live += buffer.size_bytes if action is Action.HOLD else -buffer.size_bytes
        most = max(most, live) if step >= start else most
    return most


def scratch(estimate):
    """Every workspace of the program, by the op that asks for it: its last words."""
    return {item.name: item.size_bytes for item in estimate.program.buffers if item.role is Role.WORKSPACE}


class Apply(nn.Module):
    """A module that is one function."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


# lifetimes


def doubled(self, x):
    return torch.neg(torch.neg(torch.neg(torch.neg(x))))


def reassigned(self, x):
    for _ in range(4):
        x = torch.neg(x)
    return x


def named(self, x):
    a = torch.neg(x)
    b = torch.neg(a)
    c = torch.neg(b)
    return torch.neg(c)


@pytest.mark.parametrize(("function", "count"), [(doubled, 1 + 2), (reassigned, 1 + 2), (named, 1 + 4)])
def test_results_live_as_long_as_python_names_them(function, count):
    """The caller's input is always there; beside it two results, or all four when each has a name."""
    assert most_live(estimate(Apply(function))) == count * X


class Block(nn.Module):
    """conv and relu, its result under a name of its own in the frame of forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return torch.relu(y)


def flat(count):
    return nn.Sequential(*(part for _ in range(count) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())))


def nested(count):
    return nn.Sequential(*(nn.Sequential(Block()) for _ in range(count)))


@pytest.mark.parametrize(("build", "count"), [(flat, 2), (nested, 3)])
def test_the_same_chain_peaks_higher_when_its_modules_nest(build, count):
    """conv + relu twice: 2 results at once when one Sequential runs them; in a block its frame holds what it was given."""
    image = 4 * 32 * 32 * 4
    found = estimate(build(2), torch.empty(1, 4, 32, 32))
    assert most_live(found, roles=(Role.ACTIVATION, Role.OUTPUT)) == count * image


def test_a_residual_is_held_across_its_branch():
    def forward(self, x):
        y = torch.neg(x)
        return y + torch.neg(torch.neg(y))

    assert most_live(estimate(Apply(forward))) == (1 + 1 + 2) * X  # x, y, and the last two of the branch, or branch and sum


def test_a_fold_keeps_the_storage_of_its_patches():
    patches, folded = 8 * 192 * 9 * 196 * 4, 8 * 192 * 28 * 28 * 4
    result = estimate(nn.Fold(28, 3, stride=2, padding=1), torch.empty(8, 192 * 9, 196, device="meta"))
    assert folded < patches == 10_838_016  # as an H200 allocated for the result (fp32, torch 2.11)
    assert most_live(result) == patches + patches  # the input, and a result that began as large


@pytest.mark.parametrize(("batch", "wants_gradient", "copies"), [(8, True, 1), (8, False, 0), (1, True, 0)])
def test_a_transposed_operand_is_folded_by_a_copy_where_the_weight_requires_a_gradient(batch, wants_gradient, copies):
    """As an H200 did in gMLP (torch 2.11, under `inference_mode`): two blocks of 4,816,896 B for this product at batch 8."""
    mixing = nn.Linear(196, 196).requires_grad_(wants_gradient)
    swapped = Apply(lambda self, x: self.mixing(x.transpose(-1, -2)), mixing=mixing)
    result = estimate(swapped, torch.empty(batch, 196, 768, device="meta"))
    folded = [buffer.size_bytes for buffer in result.program.buffers if buffer.name.endswith("folded operand")]
    assert folded[:1] == [batch * 196 * 768 * 4] * copies


def test_in_place_ops_make_nothing():
    assert most_live(estimate(Apply(lambda self, x: torch.neg(x).relu_().add_(1).mul_(2)))) == (1 + 1) * X


def test_views_hold_nothing_and_keep_their_base():
    def forward(self, x):
        y = torch.neg(x)
        part = y.t().unsqueeze(0).expand(100, 64, 64)[:, :1].transpose(0, 1)
        del y
        return torch.neg(part[:, 0])

    found = estimate(Apply(forward))
    assert most_live(found) == X + X + 64 * 4  # input, the base that the view keeps, and one row
    assert [item.size_bytes for item in found.program.buffers][:3] == [X, X, 64 * 4]


def test_an_output_that_is_a_view_of_an_input_takes_nothing():
    found = estimate(Apply(lambda self, x: x[:1]))
    assert found.budget.outputs_bytes == 0
    assert found.lower_bound_bytes == X


def test_cycles_stay_since_the_collector_rests():
    def forward(self, x):
        knot = [torch.neg(x)]
        knot.append(knot)
        return torch.neg(x)

    assert most_live(estimate(Apply(forward))) == (1 + 1 + 1) * X
    assert gc.isenabled()
    gc.collect()


# weights, inputs, outputs


def test_weights_are_exact_to_the_byte():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    batch_norm = (8 + 8 + 8 + 8) * 4 + 8  # weight, bias, mean, variance, and num_batches_tracked, an int64
    found = estimate(module, torch.empty(1, 3, 8, 8))
    assert found.budget.weights_bytes == (8 * 3 * 9 + 8) * 4 + batch_norm + (288 * 10 + 10) * 4
    assert found.model.parameters == 8 * 3 * 9 + 8 + 8 + 8 + 288 * 10 + 10


def test_half_halves_the_floats_only():
    module = nn.Sequential(nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64))
    assert estimate(module, precision="fp16").budget.weights_bytes == (64 * 64 + 4 * 64) * 2 + 8


def test_tied_weights_move_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(1000, 16)
            self.head = nn.Linear(16, 1000, bias=False)
            self.head.weight = self.embedding.weight
            self.register_buffer("scale", torch.ones(16))
            self.alias = self.head

        def forward(self, tokens):
            return self.alias(self.embedding(tokens) * self.scale)

    found = estimate(Tied(), torch.zeros(2, 5, dtype=torch.int64))
    assert found.budget.weights_bytes == 1000 * 16 * 4 + 16 * 4
    assert found.budget.inputs_bytes == 2 * 5 * 8


def test_inputs_and_outputs_are_what_goes_in_and_comes_out():
    found = estimate(Apply(lambda self, x, k: {"a": torch.neg(x), "b": [x * k, (x > 0,)]}), torch.empty(64, 64), 3)
    assert found.budget.inputs_bytes == X
    assert [item.shape for item in found.model.outputs] == [(64, 64)] * 3
    assert found.budget.outputs_bytes == 2 * (X + X + 64 * 64)  # two of float32 and a mask; those of the last run, and new ones


def test_load_is_weights_and_inputs():
    found = estimate(nn.Linear(64, 64))
    assert most_live(found, "load", tuple(Role)) == 64 * 64 * 4 + 64 * 4 + X
    assert found.phases["load"].allocated_peak_bytes == 64 * 64 * 4 + 512 + X  # blocks are multiples of 512


def test_an_input_that_is_not_dense_is_copied_dense():
    assert estimate(Apply(doubled), torch.empty(64, 4096)[:, ::64]).budget.inputs_bytes == X
    assert estimate(Apply(doubled), torch.empty(1, 64).expand(64, 64)).budget.inputs_bytes == X


# the steady loop


def test_the_loop_holds_the_previous_output():
    module = nn.Sequential(nn.Flatten(0), nn.Identity(), Apply(lambda self, x: x.repeat(4)))
    held, dropped = estimate(module), estimate(module, drop_outputs=True)
    assert most_live(held) == most_live(dropped) == X + 4 * X
    assert most_live(held, "steady") == X + 2 * 4 * X
    assert most_live(dropped, "steady") == X + 4 * X
    assert held.budget.outputs_bytes - dropped.budget.outputs_bytes == 4 * X


class Cache:
    """What a KV cache looks like: no pytree, tensors inside."""

    def __init__(self):
        self.layers = []


def test_a_result_that_is_no_tree_still_counts_as_output():
    def forward(self, x):
        cache = Cache()
        cache.layers += [torch.neg(x), torch.neg(x)]
        return torch.neg(x), cache

    found = estimate(Apply(forward))
    assert most_live(found, "steady", (Role.OUTPUT, Role.ACTIVATION)) == 2 * 3 * X
    assert found.budget.outputs_bytes >= 3 * X


def test_what_a_module_keeps_on_itself_is_made_once_and_not_left_behind():
    def forward(self, x):
        if self.grid is None or self.grid.shape != x.shape:
            self.grid = torch.zeros(64, 64, device=x.device)
            self.masks[64] = torch.neg(self.grid)
            self.later = torch.neg(x)
        return x + self.grid

    module = Apply(forward, grid=None, masks={})
    found = estimate(module)
    assert most_live(found) == (1 + 3 + 1) * X
    assert most_live(found, "steady") == (1 + 3 + 2) * X
    assert module.grid is None
    assert module.masks == {}
    assert not hasattr(module, "later")


# kernels' own memory


@pytest.mark.parametrize(("gpu", "workspace"), [("h200", 33_554_432), ("3090", 8_519_680)])
def test_cublas_takes_its_workspace_at_the_first_product_and_keeps_it(gpu, workspace):
    module = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    found = estimate(module, gpu=gpu)
    assert [item.size_bytes for item in found.program.buffers if item.role is Role.WORKSPACE] == [workspace]
    assert most_live(found, "load", (Role.WORKSPACE,)) == 0
    assert most_live(found, "steady", (Role.WORKSPACE,)) == workspace


def test_a_bias_in_the_epilogue_takes_cublaslts_too():
    assert sorted(scratch(estimate(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)))).values()) == [MIB, 33_554_432]


def test_no_product_no_workspace():
    assert scratch(estimate(nn.ReLU())) == {}


def test_layer_norm_keeps_two_numbers_a_row():
    assert sorted(scratch(estimate(nn.LayerNorm(64))).values()) == [64 * 4, 64 * 4]


def test_max_pool_writes_an_index_for_each_result():
    found = estimate(nn.MaxPool2d(2), torch.empty(1, 8, 32, 32))
    assert list(scratch(found).values()) == [8 * 16 * 16 * 8]


def test_every_scratch_is_let_go_but_the_libraries():
    module = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.LayerNorm(64))
    assert most_live(estimate(module), "steady", (Role.WORKSPACE,)) <= 33_554_432 + MIB + 2 * 64 * 4


# what the module's code sees


def test_the_code_meets_a_cuda_device():
    seen = {}

    def forward(self, x):
        seen.update(type=x.device.type, index=x.device.index, is_cuda=x.is_cuda, text=str(x.device), where=x.get_device())
        seen.update(weight=self.linear.weight.is_cuda, available=torch.cuda.is_available(), count=torch.cuda.device_count())
        made = [
            torch.zeros(3, device=x.device),
            torch.zeros(3, device="cuda"),
            torch.zeros(3, device="cuda:0"),
            torch.arange(3, device=x.device),
            torch.zeros(3).to("cuda"),
            torch.zeros(3).to(x.device, torch.float16),
            torch.zeros(3).to(x),
            torch.zeros(3).cuda(),
            torch.tensor([1, 2, 3], device=x.device),
            torch.full((3,), 1.0, device=x.device),
            torch.eye(3, device=x.device),
            torch.linspace(0, 1, 3, device=x.device),
            torch.randn(3, device=x.device),
            torch.empty_like(x),
            x.new_zeros(3),
            x.new_tensor([1.0]),
        ]
        seen["made"] = [tensor.is_cuda for tensor in made]
        seen["host"] = torch.zeros(3).is_cuda
        seen["back"] = x.cpu().device.type
        return self.linear(x)

    estimate(Apply(forward, linear=nn.Linear(64, 64)))
    assert seen.pop("made") == [True] * 16
    assert seen == {
        "type": "cuda",
        "index": 0,
        "is_cuda": True,
        "text": "cuda:0",
        "where": 0,
        "weight": True,
        "available": True,
        "count": 1,
        "host": False,
        "back": "cpu",
    }


def test_the_compute_capability_is_the_cards():
    seen = []
    estimate(Apply(lambda self, x: seen.append(torch.cuda.get_device_capability()) or x), gpu="3090")
    assert seen == [(8, 6)]


def test_the_pretence_ends_with_the_trace():
    before = torch.cuda.is_available(), torch.cuda.device_count(), nn.Module.__call__, torch.overrides.has_torch_function
    estimate(nn.Linear(64, 64))
    with pytest.raises(ModelError):
        estimate(nn.Linear(63, 64))
    after = torch.cuda.is_available(), torch.cuda.device_count(), nn.Module.__call__, torch.overrides.has_torch_function
    assert after == before
    assert torch.zeros(2).device.type == "cpu"
    assert torch.empty(2, device="meta").is_meta


def test_what_comes_back_to_the_host_is_real_and_takes_nothing():
    def forward(self, x):
        y = torch.neg(x).cpu()
        assert y.tolist()[0][:2] == [0.0, 0.0]
        assert torch.arange(3, device=x.device).tolist() == [0, 1, 2]
        kept = torch.empty(64, 64)
        kept.copy_(x)
        return torch.neg(y) + kept

    found = estimate(Apply(forward))
    assert most_live(found) == X + X  # the input and neg(x), for the length of the copy
    assert "elements that a device would bring back to the host are taken to be zero" in found.notes


def test_a_copy_to_the_host_is_made_dense_first():
    assert scratch(estimate(Apply(lambda self, x: x.t().to("cpu", torch.float16)))) == {"copy to the host": 64 * 64 * 2}
    assert scratch(estimate(Apply(lambda self, x: x.cpu()))) == {}


def test_a_shadow_can_be_printed():
    seen = []
    estimate(Apply(lambda self, x: seen.append(f"{x} {torch.ones(1)}") or x))
    assert seen == ["tensor(..., device='cuda:0', size=(64, 64), dtype=torch.float32) tensor([1.])"]


# the module afterwards


def state(module):
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: (id(tensor), tensor.data_ptr(), tensor.dtype, tensor._version) for name, tensor in tensors}


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_left_as_it_was(fails):
    def forward(self, x):
        self.count += 1
        self.seen.add_(1)
        self.seen = self.seen + self.norm(x).sum()
        self.cached = torch.neg(x)
        if fails:
            raise ValueError("no such luck")
        return x

    module = Apply(forward, norm=nn.BatchNorm1d(64), count=torch.zeros(()))
    module.register_buffer("seen", torch.zeros(3))
    before, attributes, values = state(module), set(vars(module)), module.seen.clone()
    if fails:
        with pytest.raises(ModelError, match="no such luck"):
            estimate(module)
    else:
        estimate(module)
    assert state(module) == before
    assert set(vars(module)) == attributes
    assert torch.equal(module.seen, values)
    assert isinstance(module.norm.weight, nn.Parameter)
    assert module.norm.weight.requires_grad
    assert module.norm(torch.zeros(2, 64)).shape == (2, 64)  # and it still runs


def test_inputs_are_left_as_they_were():
    x = torch.ones(64, 64)
    found = estimate(Apply(lambda self, x: x.zero_()), x)
    assert found.lower_bound_bytes == X
    assert x.sum() == 64 * 64


def test_a_training_module_is_estimated_in_eval_mode():
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(64)).train()
    found = vp.estimate(module, args=(torch.empty(64, 64, device="meta"),))
    assert most_live(found) == (1 + 1) * X  # dropout passes its input on


# where the bytes are


def test_every_buffer_names_its_module():
    found = estimate(Apply(lambda self, x: self.stem(x), stem=nn.Sequential(nn.Linear(64, 64), nn.GELU())))
    paths = {item.name: item.path for item in found.program.buffers}
    assert paths["stem.0.weight"] == "stem.0.weight"
    assert paths["stem.0 linear"] == "stem.0"
    assert paths["stem.1 gelu"] == "stem.1"


def test_phases_are_in_order_and_the_peak_is_theirs():
    found = estimate(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)))
    assert list(found.phases) == ["load", "first_run", "steady"]
    peaks = [phase.allocated_peak_bytes for phase in found.phases.values()]
    assert peaks == sorted(peaks)
    assert all(phase.reserved_peak_bytes >= phase.allocated_peak_bytes for phase in found.phases.values())
    assert found.total_bytes == sum(part.nominal_bytes for part in found.budget.parts.values())


def test_a_module_in_training_mode_is_traced_in_eval_mode_and_left_training():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    module[0].eval()
    found = vp.estimate(module, args=(torch.empty(1, 4),))  # a batch of one: batch norm would refuse it in training
    assert [part.training for part in module.modules()] == [True, False, True]
    assert found == vp.estimate(module.eval(), args=(torch.empty(1, 4),))
