"""What we answer for a few models on cards that nobody measured for us, as lines of ``cards.csv``: how answers move by card.

The trace is that of the accuracy rows, with the capability and the multiprocessors of the card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from predictions import cudnn_on
from replay import H200

from vramplan.allocators.caching import replay
from vramplan.gpus import Gpu, context_bytes, find_gpu
from vramplan.runtimes.torch_eager.shadow import Target
from vramplan.runtimes.torch_eager.trace import Traced, trace
from vramplan.sources.torch_module import open_torch

GPUS = ("t4", "3090", "l4", "a100-sxm-40gb", "h200")
MODELS = {"yolov8s": (3, 640, 640), "resnet50": (3, 224, 224)}
BATCH = 8


NAMES = ("first_allocated", "steady_reserved")


def answers(nvidia: Path | None) -> list[dict[str, Any]]:
    """A line a model and card; cuDNN's way is blank without its libraries below *nvidia*."""
    modules = {model: open_torch(model).module for model in MODELS}
    return [_answer(model, modules[model], find_gpu(name), nvidia) for model in MODELS for name in GPUS]


def _answer(model: str, module: Any, gpu: Gpu, nvidia: Path | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "model": model,
        "dtype": "fp16",
        "batch": BATCH,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
    }
    for way, libraries in (("cudnn", nvidia), ("closed", None)):
        if way == "cudnn" and nvidia is None:
            line |= dict.fromkeys((f"{way}_{name}" for name in NAMES), "")
            continue
        traced = _traced(module, MODELS[model], gpu, libraries)
        phases = replay(traced.program)
        line |= {
            f"{way}_first_allocated": phases["first_run"].allocated_peak_bytes,
            f"{way}_steady_reserved": phases["steady"].reserved_peak_bytes,
        }
    context = context_bytes(gpu, "torch", uses_gemm=traced.findings.uses_gemm)
    return line | {
        "context_low": context.low_bytes,
        "context_nominal": context.nominal_bytes,
        "context_high": context.high_bytes,
    }


def _traced(module: Any, image: tuple[int, ...], gpu: Gpu, nvidia: Path | None) -> Traced:
    workspaces = cudnn_on(gpu, nvidia)
    major, _, minor = str(gpu.compute_capability).partition(".")
    target = Target(
        conv_workspace=workspaces.of,
        capability=(int(major), int(minor)),
        sm_count=gpu.sm_count or H200["sm_count"],
        torch_version=H200["torch_version"],
    )
    traced = trace(module, (torch.empty(BATCH, *image, device="meta"),), {}, target, dtype=torch.float16)
    workspaces.save()
    return traced
