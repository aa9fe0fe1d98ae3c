"""How long a trace takes, beside one forward of the same module on meta tensors by PyTorch alone.

    python benchmarks/torch/speed.py

Zoo models, and a decoder of the size of Llama 3.2 1B made of plain modules; medians of five.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from vramplan.allocators.caching import replay
from vramplan.ranges import Range
from vramplan.runtimes.torch_eager.shadow import Target
from vramplan.runtimes.torch_eager.trace import trace
from vramplan.sources.torch_module import open_torch

TARGET = Target(capability=(9, 0), sm_count=132, torch_version=(2, 11), conv_workspace=lambda call: Range.exact(0))


class Block(nn.Module):
    """Grouped-query attention and a gated feed-forward layer."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.before, self.after = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, groups * self.size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        batch, length, _ = y.shape
        q = self.q(y).view(batch, length, self.heads, self.size).transpose(1, 2)
        k, v = (p(y).view(batch, length, self.groups, self.size).transpose(1, 2) for p in (self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        y = self.after(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """16 blocks of width 2048, vocabulary 128,256: 1.24 G parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128_256, 2048)
        self.blocks = nn.ModuleList(Block(2048, 32, 8, 8192) for _ in range(16))
        self.norm = nn.RMSNorm(2048)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return nn.functional.linear(self.norm(x), self.embed.weight)


def seconds(run: Callable[[], Any], count: int = 5) -> float:
    """Median time of *count* runs."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)


def main() -> None:
    """Print one line a model."""
    warnings.filterwarnings("ignore")
    models: dict[str, tuple[nn.Module, torch.Tensor]] = {}
    for name, side in (("resnet50", 224), ("vit_b_16", 224), ("yolov8s", 640), ("yolov8x", 640)):
        module = open_torch(name).module
        assert isinstance(module, nn.Module)
        models[name] = module, torch.empty(8, 3, side, side, device="meta")
    with torch.device("meta"):
        models["decoder of 1.24 G parameters"] = Decoder().eval(), torch.zeros(1, 1024, dtype=torch.int64)
    print(f"{'model':32} {'meta forward':>13} {'trace':>9} {'ratio':>6} {'replay':>9}")
    for name, (module, x) in models.items():
        with torch.inference_mode():
            forward = seconds(lambda module=module, x=x: module(x))
        traced = seconds(lambda module=module, x=x: trace(module, (x,), {}, TARGET))
        program = trace(module, (x,), {}, TARGET).program
        replayed = seconds(lambda program=program: replay(program))
        print(f"{name:32} {forward:11.3f} s {traced:7.3f} s {traced / forward:6.2f} {replayed:7.3f} s")


if __name__ == "__main__":
    main()
