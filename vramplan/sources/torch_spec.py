"""Whether what the user names is meant for PyTorch, decided without importing it; and what to do when it is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vramplan.errors import MachineError

OLDEST_TORCH = (2, 9)

TORCH_SUFFIXES = frozenset({".pt", ".pth", ".pt2", ".ts", ".torchscript", ".safetensors"})

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_STARTS = (b"PK\x03\x04", b"\x80\x02")  # a zip archive, a pickle of protocol 2: what torch.save writes


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorySpec:
    """``where:what``: a module's dotted name or the path of a ``.py`` file, and the callable inside it."""

    where: str
    what: str

    @property
    def is_file(self) -> bool:
        """Whether *where* is a path and not the name of a module."""
        return self.where.endswith(".py")


def factory_spec(text: str) -> FactorySpec | None:
    """*text* as ``package.module:factory`` or ``file.py:factory``; None when it is neither or a file of that name exists.

    The last colon parts the two, so that a path with a drive letter is read as its author meant it.
    """
    where, colon, what = text.rpartition(":")
    if not colon or not _DOTTED.fullmatch(what) or Path(text).exists():
        return None
    return FactorySpec(where=where, what=what) if where.endswith(".py") or _DOTTED.fullmatch(where) else None


def is_torch_model(model: object) -> bool:
    """Whether *model* names something that only PyTorch can read: a module, a factory, or one of its files.

    Objects are recognised by ``forward`` and ``parameters``. Zoo names are not among them: those have an ONNX file.
    """
    if isinstance(model, (bytes, bytearray)):
        return False
    if not isinstance(model, (str, os.PathLike)):
        return hasattr(model, "forward") and hasattr(model, "parameters")
    text = os.fspath(model)
    if isinstance(model, str) and factory_spec(text):
        return True
    suffix = Path(text).suffix.lower()
    return suffix in TORCH_SUFFIXES or suffix == ".py" or (suffix == ".bin" and _starts_like_torch(Path(text)))


def require_torch() -> None:
    """MachineError when PyTorch is not installed or too old. Does not import it."""
    install = "Type: pip install 'vramplan[torch]'"
    if not _is_installed():
        raise MachineError("PyTorch is needed for this model and is not installed", hint=install)
    version = _installed_version()
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise MachineError(f"PyTorch {version} is too old: {oldest} or newer is needed", hint=f"{install} --upgrade")


def _is_installed() -> bool:
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None
    return importlib.util.find_spec("torch") is not None


def _installed_version() -> str:
    """The version that pip knows, empty for a build it does not know; such a build is taken at its word."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _starts_like_torch(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_STARTS)
    except OSError:
        return False
