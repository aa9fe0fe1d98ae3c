"""From what the user names to a PyTorch module, or to the weights when a file holds nothing else.

Imports torch: import this module only when `torch_spec.is_torch_model` says so, after `torch_spec.require_torch`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import tomllib
from collections.abc import Callable
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import show
from vramplan.sources.safetensors_header import read_safetensors
from vramplan.sources.torch_archive import kind_of
from vramplan.sources.torch_export import open_export
from vramplan.sources.torch_factory import Built, build, no_factory, unpack
from vramplan.sources.torch_model import DeclaredInput, TorchModel, WeightFact
from vramplan.sources.torch_pickle import open_pickle, weights_file
from vramplan.sources.torch_script import open_script
from vramplan.sources.torch_spec import FactorySpec, factory_spec
from vramplan.sources.zoo import PACKAGE, ZooModel, find_zoo_model

__all__ = ["TorchModel", "WeightFact", "module_sha256", "open_torch"]


def open_torch(model: str | os.PathLike[str] | torch.nn.Module, *, allow_pickle: bool = False) -> TorchModel:
    """Open *model*: a module, ``module:factory``, ``file.py:factory``, a zoo name, or a file that PyTorch wrote.

    A factory is the user's code and runs as such. A file runs nothing of its own unless *allow_pickle*. Modules come
    back in eval mode. ModelError when nothing can be read there, UsageError for a ``.py`` file without a factory,
    MachineError when the file's own library is missing.
    """
    if not isinstance(model, (str, os.PathLike)):
        return _given(model)
    text = os.fspath(model)
    if isinstance(model, str) and (spec := factory_spec(text)):
        return _from_factory(spec)
    if isinstance(model, str) and (entry := find_zoo_model(text)):
        return _from_zoo(entry)
    return _from_file(Path(text), allow_pickle=allow_pickle)


def module_sha256(module: torch.nn.Module) -> str:
    """Hash of the class and of every parameter's and buffer's name, shape and dtype. Values do not enter."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors]
    return hashlib.sha256("\n".join([type(module).__qualname__, *lines]).encode()).hexdigest()


def evaluated(module: torch.nn.Module) -> torch.nn.Module:
    """*module* in eval mode; an exported program has no other and refuses to be asked."""
    try:
        return module.eval()
    except NotImplementedError:
        return module


def _given(model: object) -> TorchModel:
    """In the mode it is in: the trace sets its own, and puts this one back."""
    built = unpack(model, "the model is")
    return _module(built, type(built.module).__name__, notes=())


def _from_factory(spec: FactorySpec) -> TorchModel:
    origin = Path(spec.where).name if spec.is_file else spec.where
    built = build(spec)
    evaluated(built.module)
    return _module(built, spec.what.rpartition(".")[2], notes=(f"runs the code of {origin}",))


def _module(built: Built, name: str, *, notes: tuple[str, ...]) -> TorchModel:
    module = built.module
    return TorchModel(
        name=name,
        format="module",
        module=module,
        args=built.args,
        kwargs=built.kwargs,
        notes=notes,
        sha256=lambda: module_sha256(module),
    )


def _from_zoo(entry: ZooModel) -> TorchModel:
    """On the meta device: only shapes are needed, and no zoo model reads a weight while it runs."""
    where, _, what = entry.factory.partition(":")
    factory: Callable[[], torch.nn.Module] = getattr(importlib.import_module(where), what)
    with torch.device("meta"):
        module = factory().eval().to("meta")  # some buffers are copies of constants
    return TorchModel(
        name=entry.name,
        format="zoo",
        module=module,
        declared=(_zoo_input(entry.name, module),),
        sha256=lambda: module_sha256(module),
    )


def _zoo_input(name: str, module: torch.nn.Module) -> DeclaredInput:
    """The one input of a zoo model: forward's first parameter, also known by its name in the ONNX file."""
    rows: list[dict[str, Any]] = tomllib.loads(files(PACKAGE).joinpath("zoo.toml").read_text(encoding="utf-8"))["model"]
    given = next(row["input"] for row in rows if row["name"] == name)
    parameter = next(iter(inspect.signature(module.forward).parameters))
    return DeclaredInput(parameter=parameter, aliases=(given["name"],), dims=tuple(given["dims"]), shape=tuple(given["shape"]))


def _from_file(path: Path, *, allow_pickle: bool) -> TorchModel:
    if path.suffix.lower() == ".py":
        raise no_factory(path)
    if path.suffix.lower() == ".onnx":
        raise ModelError(f"{show(str(path))} is an ONNX file; PyTorch cannot run it", hint="Add --runtime tensorrt.")
    match kind_of(path):
        case "pt2":
            return open_export(path, allow_pickle=allow_pickle)
        case "torchscript":
            return open_script(path, allow_pickle=allow_pickle)
        case "safetensors":
            return weights_file(path, read_safetensors(path))
        case kind:
            return open_pickle(path, zipped=kind == "zip", allow_pickle=allow_pickle)
