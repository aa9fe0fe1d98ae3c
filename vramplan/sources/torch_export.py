"""Saved ``torch.export`` programs (``.pt2``)."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vramplan.sources.torch_archive import damaged, file_sha256, first_line
from vramplan.sources.torch_export_check import check_export, refusal
from vramplan.sources.torch_model import DeclaredInput, TorchModel

NO_GUARDS = "a torch.export program: the operations and branches that were exported are what runs"


def open_export(path: Path, *, allow_pickle: bool) -> TorchModel:
    """The program at *path* with the inputs it was exported with. ModelError when it cannot be read safely.

    Nothing is unpickled but tensors, unless *allow_pickle*.
    """
    if not allow_pickle:
        check_export(path)
    try:
        with contextlib.nullcontext() if allow_pickle else _tensors_only(), _quiet():
            program = torch.export.load(str(path))
            module = program.module(check_guards=False)
            args, kwargs = _examples(program)
    except pickle.UnpicklingError:
        raise refusal(path, "its example inputs are pickled objects, not tensors") from None
    except Exception as error:  # noqa: BLE001,RUF100  whatever hostile bytes make of torch
        raise damaged(path, first_line(error)) from None
    return TorchModel(
        name=path.stem,
        format="pt2",
        module=module,
        args=args,
        kwargs=kwargs,
        declared=_declared(program),
        notes=(NO_GUARDS,),
        sha256=lambda: file_sha256(path),
    )


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.load unpickles tensors only, whatever its caller asks: torch.export falls back to plain pickle otherwise."""
    forced = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    with mock.patch.dict(os.environ, forced):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback before it raises; the error says it once."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _examples(program: torch.export.ExportedProgram) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The stored example inputs, or new ones of the shapes that the graph's placeholders record."""
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        return tuple(args), dict(kwargs)
    leaves = [_example(value) for _, value in _user_inputs(program)]
    args, kwargs = torch.utils._pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return tuple(args), dict(kwargs)


def _example(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty([_size(dim) for dim in value.shape], dtype=value.dtype, device="meta")


def _size(dim: int | torch.SymInt) -> int:
    """The size at export; two where it is not recorded, since torch.export treats 0 and 1 as constants."""
    return int(dim) if isinstance(dim, int) else int(dim.node.hint or 2)


def _user_inputs(program: torch.export.ExportedProgram) -> list[tuple[str, Any]]:
    """Name and traced value of every leaf of args and kwargs, in order."""
    wanted = set(program.graph_signature.user_inputs)
    inputs = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted)
    return [(node.name, node.meta.get("val")) for node in inputs]


def _declared(program: torch.export.ExportedProgram) -> tuple[DeclaredInput, ...]:
    """Tensor inputs with the dimensions that were exported as dynamic."""
    return tuple(
        DeclaredInput(
            parameter=name,
            dims=tuple(int(dim) if isinstance(dim, int) else str(dim) for dim in value.shape),
            shape=tuple(_size(dim) for dim in value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
        )
        for name, value in _user_inputs(program)
        if isinstance(value, torch.Tensor)
    )
