"""Calls the user's own factory. This runs their code, with everything it may do, and says so."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vramplan.errors import ModelError, UsageError, close_matches
from vramplan.sources.onnx_types import show
from vramplan.sources.torch_errors import user_error
from vramplan.sources.torch_spec import FactorySpec

WANTED = "an nn.Module, (module, args) or (module, args, kwargs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A module and the example inputs its factory returned with it, if any."""

    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any]


def build(spec: FactorySpec) -> Built:
    """Import *spec* and call its factory as plain Python would, outside any device or tracing context.

    The factory may be a function, a class of modules, or a module. What the code prints goes to stderr. ModelError
    with the user's own line when it raises.
    """
    text = f"{spec.where}:{spec.what}"
    with _user_code(_folder(spec)):
        try:
            found = _find(_import(spec), spec)
            made = found if isinstance(found, torch.nn.Module) else found()
        except (Exception, SystemExit) as error:
            raise user_error(error, f"{show(text)} failed") from None
    return unpack(made, f"{show(text)} returned")


def unpack(made: Any, subject: str) -> Built:
    """What a factory returned, told apart. ModelError when it is none of what is `WANTED`."""
    if isinstance(made, torch.export.ExportedProgram):
        made = made.module(check_guards=False)
    if isinstance(made, torch.nn.Module):
        _check_eager(made, subject)
        return Built(module=made, kwargs={})
    if isinstance(made, tuple) and 2 <= len(made) <= 3 and isinstance(made[0], torch.nn.Module):
        return _with_inputs(*made, subject=subject)
    shown = f"a tuple ({', '.join(type(part).__name__ for part in made)})" if isinstance(made, tuple) else _described(made)
    raise ModelError(f"{subject} {shown}, not {WANTED}", hint=f"Let it return {WANTED}.")


def _check_eager(module: torch.nn.Module, subject: str) -> None:
    """What ``torch.compile`` wraps runs another program. Told by name: importing its class takes a second."""
    if type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
        raise UsageError(
            f"{subject} a compiled module: what torch.compile fuses is not modelled yet",
            hint="Give the module itself (model._orig_mod): the estimate is of eager PyTorch.",
        )


def _with_inputs(module: torch.nn.Module, args: Any, kwargs: Any = None, *, subject: str) -> Built:
    """Inputs are a tuple or list; a lone tensor and a lone mapping of kwargs are understood."""
    if isinstance(args, torch.Tensor):
        args = (args,)
    if isinstance(args, Mapping) and kwargs is None:
        args, kwargs = (), args
    if isinstance(args, (tuple, list)) and isinstance(kwargs, (Mapping, type(None))):
        return Built(module=module, args=tuple(args), kwargs=dict(kwargs or {}))
    raise ModelError(f"{subject} inputs of type {type(args).__name__}", hint=f"Let it return {WANTED}; args is a tuple.")


def _described(made: Any) -> str:
    return "None" if made is None else f"a value of type {type(made).__name__}"


def _folder(spec: FactorySpec) -> Path:
    return Path(spec.where).resolve().parent if spec.is_file else Path.cwd()


@contextlib.contextmanager
def _user_code(folder: Path) -> Iterator[None]:
    """Imports find *folder* first while the factory runs, and last from then on: forward may import lazily.

    Last, so that a file of the user's that is called like a library never hides the library from us.
    """
    text = str(folder)
    known = text in sys.path
    sys.path.insert(0, text)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path.remove(text)
        if not known:
            sys.path.append(text)


def _import(spec: FactorySpec) -> ModuleType:
    return _import_file(Path(spec.where)) if spec.is_file else _import_module(spec.where)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ModelError(
                f"no module is called {show(name)}", hint="Install it or check the name; for a file of yours: file.py:factory."
            ) from None
        raise


def _import_file(path: Path) -> ModuleType:
    """Under a name of its own, so that a file called like a library does not replace it."""
    _check_file(path)
    name = f"user_file_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path.resolve())
    assert found is not None  # noqa: S101  a .py file always has a loader
    assert found.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"no file is called {show(str(path))}", hint="Check the path.")


def _find(module: ModuleType, spec: FactorySpec) -> Callable[[], Any]:
    found: Any = module
    for part in spec.what.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_") and callable(getattr(found, name))]
            raise ModelError(f"{show(spec.where)} has no {show(spec.what)}", hint=close_matches(part, names))
        found = getattr(found, part)
    if not callable(found):
        shown = show(f"{spec.where}:{spec.what}")
        raise ModelError(f"{shown} is {_described(found)}, not a function", hint=f"Name a function that returns {WANTED}.")
    return found  # type: ignore[no-any-return]


def no_factory(path: Path) -> UsageError:
    """A ``.py`` file without ``:factory``: the error names what could stand there, without running the file."""
    _check_file(path)
    try:
        nodes = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, RecursionError):
        nodes = []
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")]
    tries = " or ".join(f"{path}:{name}" for name in names[:3])
    return UsageError(
        f"{show(str(path))} needs the name of a factory in it",
        hint=f"Type: {tries}" if names else f"Type: {path}:NAME, where NAME returns {WANTED}.",
    )
