"""Files that ``torch.save`` wrote: weights are read without running anything, whole modules only when the user says so."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vramplan.errors import MachineError, ModelError
from vramplan.sources.onnx_types import printable, show
from vramplan.sources.torch_archive import damaged, file_sha256, first_line
from vramplan.sources.torch_errors import user_error
from vramplan.sources.torch_model import TorchModel, WeightFact
from vramplan.sources.torch_weights import state_of, weight_facts

WEIGHTS_ONLY = "weights only: no activations are counted"
RUNS_CODE = "loading it runs the code of the file"

_GLOBAL = re.compile(r"(?:Unsupported global: GLOBAL|Trying to (?:load|call) .*?|function) ([\w.]+)")
_UNSAFE_WORDS = ("Unsupported global", "Unsupported class", "Unsupported operand", "Trying to", "Can only")


def open_pickle(path: Path, *, zipped: bool, allow_pickle: bool) -> TorchModel:
    """A state_dict as weights; a pickled module as a module, when *allow_pickle*.

    ModelError for a pickled module without it, with the ways out. MachineError when Ultralytics is needed and missing.
    """
    try:
        checkpoint = _load(path, weights_only=True, map_location="cpu", mmap=zipped)
    except pickle.UnpicklingError as error:
        return _open_with_code(path, str(error), allow_pickle=allow_pickle)
    except Exception as error:  # noqa: BLE001,RUF100  whatever hostile bytes make of torch
        raise damaged(path, first_line(error)) from None
    return weights_model(path, checkpoint)


def weights_model(path: Path, checkpoint: object) -> TorchModel:
    """The tensors inside *checkpoint* as a model without a forward. ModelError when there are none."""
    state, key = state_of(checkpoint)
    weights = weight_facts(state)
    claimed_bytes = sum(weight.size_bytes for weight in weights)
    if not weights:
        raise ModelError(f"{show(str(path))} holds no tensors ({type(checkpoint).__name__})", hint="Name a file with weights.")
    if claimed_bytes > path.stat().st_size:
        raise damaged(path, f"its tensors claim {claimed_bytes:,} bytes, more than the file has")
    notes = (WEIGHTS_ONLY, f"only what lies under {key!r} is counted, not the rest of the checkpoint" if key else "")
    return weights_file(path, weights, notes=tuple(filter(None, notes)))


def weights_file(path: Path, weights: tuple[WeightFact, ...], *, notes: tuple[str, ...] = (WEIGHTS_ONLY,)) -> TorchModel:
    """A file of which only the weights are known."""
    return TorchModel(
        name=path.stem, format="weights", module=None, weights=weights, notes=notes, sha256=lambda: file_sha256(path)
    )


def _load(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, **options)


def _open_with_code(path: Path, reason: str, *, allow_pickle: bool) -> TorchModel:
    if not any(word in reason for word in _UNSAFE_WORDS):
        raise damaged(path, "it is not what torch.save writes, or cut short")
    if not allow_pickle:
        raise _refusal(path, reason)
    try:
        checkpoint = _load(path, weights_only=False, map_location="cpu")
    except ModuleNotFoundError as error:
        raise _needs(path, error) from None
    except (Exception, SystemExit) as error:
        raise user_error(error, f"loading {show(str(path))} failed") from None
    module = _module_of(checkpoint)
    return _whole(path, module) if module is not None else _weights_with_code(path, checkpoint)


def _refusal(path: Path, reason: str) -> ModelError:
    """Why a pickle is not opened, and the ways out of it."""
    found = _GLOBAL.search(reason)
    named = f" (it names {printable(found[1])[:80]})" if found else ""
    ultralytics = found is not None and found[1].startswith("ultralytics")
    export = f"yolo export model={path} format=onnx" if ultralytics else "export it with torch.export.save or torch.onnx.export"
    return ModelError(
        f"{show(str(path))} is a pickled model{named}; loading it would run code that the file brings along",
        hint=f"Ways out: {export}; or save model.state_dict(); or, if you trust the file, add --allow-pickle.",
    )


def _needs(path: Path, error: ModuleNotFoundError) -> MachineError | ModelError:
    """Which library the file's classes come from."""
    package = (error.name or "").partition(".")[0]
    message = f"{show(str(path))} needs the module {show(error.name or '?')}, which cannot be imported here"
    if package == "ultralytics":
        return MachineError(message, hint="Type: pip install ultralytics")
    return ModelError(message, hint="Install it, or run in the folder where the model was saved.")


def _module_of(checkpoint: object) -> torch.nn.Module | None:
    """The module itself, or the one of a training checkpoint: the averaged weights when they are there."""
    if isinstance(checkpoint, torch.nn.Module):
        return checkpoint
    if isinstance(checkpoint, Mapping):
        found = (checkpoint.get(key) for key in ("ema", "model"))
        return next((module.float() for module in found if isinstance(module, torch.nn.Module)), None)
    return None


def _whole(path: Path, module: torch.nn.Module) -> TorchModel:
    return TorchModel(
        name=path.stem, format="pickle", module=module.eval(), notes=(RUNS_CODE,), sha256=lambda: file_sha256(path)
    )


def _weights_with_code(path: Path, checkpoint: object) -> TorchModel:
    state, key = state_of(checkpoint)
    weights = weight_facts(state)
    if not weights:
        kind = printable(type(checkpoint).__name__)
        raise ModelError(f"{show(str(path))} holds neither a module nor tensors ({kind})", hint="Save the module itself.")
    notes = (WEIGHTS_ONLY, RUNS_CODE, f"only what lies under {key!r} is counted" if key else "")
    return weights_file(path, weights, notes=tuple(filter(None, notes)))
