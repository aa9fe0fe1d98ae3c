"""Cameras in front of a PyTorch module: memory from the trace, operations from PyTorch's counter on the same trace."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vramplan as vp
from vramplan.errors import UsageError
from vramplan.opened import open_engine
from vramplan.options import Options

SHAPES = {"input": (1, 3, 64, 64)}


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64 * 64, 10)).eval()


def test_operations_are_those_of_pytorchs_counter():
    module, counter = net(), FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        module(torch.zeros(1, 3, 64, 64))
    work = open_engine(module, "fp16", Options.of(gpu="3090", shapes=SHAPES)).engine.work
    assert work.matrix_flops == counter.get_total_flops() == 2 * (8 * 3 * 9 * 64 * 64 + 8 * 64 * 64 * 10)
    assert (work.input_bytes, work.output_bytes) == (3 * 64 * 64 * 2, 10 * 2)


def test_memory_is_what_the_estimate_reserves_beyond_the_context():
    engine = open_engine(net(), "fp16", Options.of(gpu="3090", shapes=SHAPES)).engine
    alone = vp.estimate(net(), shapes={"input": (4, 3, 64, 64)}, batch=4, precision="fp16", gpu="3090")
    memory = engine.memory(4)
    assert memory.weights.nominal_bytes == alone.budget.weights_bytes
    reserved = max(phase.reserved_peak_bytes for phase in alone.phases.values())
    assert memory.weights.nominal_bytes + memory.context.nominal_bytes == reserved


def test_a_plan_says_what_runs_it_and_that_speeds_are_not_its_own():
    plan = vp.streams(net(), gpu="3090", shapes=SHAPES)
    assert plan.streams > 0
    assert plan.card.load.engines[0].runtime == "PyTorch"
    assert any("eager PyTorch is slower" in source for source in plan.limits["compute"].sources)


def test_a_module_without_a_shape_is_one_clear_error():
    with pytest.raises(UsageError, match="needs a shape for input"):
        vp.streams(net(), gpu="3090")
