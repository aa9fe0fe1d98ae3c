"""Which runtimes a model can run in, which of them is meant, and which precisions each of them has."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from vramplan.errors import UsageError, close_matches
from vramplan.options import ModelLike
from vramplan.precision import Policy
from vramplan.sources import engine_path
from vramplan.sources.torch_spec import is_torch_model
from vramplan.sources.zoo import find_zoo_model

RUNTIMES = ("tensorrt", "torch", "onnxruntime")


def find_runtime(model: ModelLike, runtime: str | None) -> str:
    """The runtime that was asked for, or the one that *model* calls for; `UsageError` when the two do not go together."""
    needs_torch = is_torch_model(model)
    chosen = runtime or ("torch" if needs_torch else "tensorrt")
    if chosen not in RUNTIMES:
        raise UsageError(f"runtime {chosen[:40]!r} is not modelled", hint=close_matches(chosen, RUNTIMES))
    if needs_torch and chosen != "torch":
        raise UsageError(f"{chosen} takes an ONNX file, not a PyTorch model", hint="Use --runtime torch, or export it to ONNX.")
    if chosen == "torch" and not needs_torch and not (isinstance(model, str) and find_zoo_model(model)):
        raise UsageError("PyTorch runs modules, not ONNX files", hint="Name file.py:factory, a zoo model, or a .pt2 file.")
    return chosen


def usual_runtimes(model: ModelLike) -> tuple[str, ...]:
    """What a table shows when no runtime is named: both that people run an ``.onnx`` file in; one for any other model."""
    is_file = isinstance(model, str | os.PathLike) and Path(model).suffix.lower() == ".onnx"
    if engine_path(model) or not is_file:
        return (find_runtime(model, None),)
    return ("tensorrt", "onnxruntime")


def possible_runtimes(model: ModelLike) -> tuple[str, ...]:
    """Every runtime that can run *model* here, by its kind: PyTorch for zoo models only where it is installed."""
    if is_torch_model(model):
        return ("torch",)
    if engine_path(model):
        return ("tensorrt",)
    is_zoo = isinstance(model, str) and find_zoo_model(model) is not None
    has_torch = is_zoo and importlib.util.find_spec("torch") is not None
    return ("tensorrt", "onnxruntime", *(("torch",) if has_torch else ()))


def why_not(runtime: str, policy: Policy) -> str:
    """Why *runtime* has no such precision; empty when it has."""
    if policy.autocast_type is not None and runtime != "torch":
        return "automatic mixed precision is PyTorch's: a graph has none"
    if policy.weight_type is not None and runtime == "onnxruntime":
        return "ONNX Runtime runs the types of the file: name the quantised .onnx file with --precision as-is"
    return ""
