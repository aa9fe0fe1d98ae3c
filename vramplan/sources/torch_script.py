"""TorchScript archives. Their code is interpreted by TorchScript, which cannot import; what it can write is refused."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import torch

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import show
from vramplan.sources.torch_archive import damaged, file_sha256, first_line
from vramplan.sources.torch_model import TorchModel

INTERPRETED = "a TorchScript archive: its own code is what runs"

# The operators of TorchScript that reach the file system.
_TOUCHES_FILES = re.compile(rb"\b(?:torch|ops\.\w+)\.(save|from_file|load)\s*\(")


def open_script(path: Path, *, allow_pickle: bool) -> TorchModel:
    """The module of a TorchScript archive, on the CPU. ModelError when it cannot be read or touches files."""
    _check_members(path, any_code=allow_pickle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; files written with it live on
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001,RUF100  whatever hostile bytes make of torch
        raise damaged(path, first_line(error)) from None
    return TorchModel(
        name=path.stem, format="torchscript", module=module.eval(), notes=(INTERPRETED,), sha256=lambda: file_sha256(path)
    )


def _check_members(path: Path, *, any_code: bool) -> None:
    """Every pickle is whole, and no code touches files unless *any_code*."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                if name.endswith("pkl"):
                    _check_pickle(archive.read(name))
            code = (archive.read(name) for name in names if "/code/" in name and name.endswith(".py"))
            found = next((match for text in code if (match := _TOUCHES_FILES.search(text))), None)
    except Exception as error:  # noqa: BLE001,RUF100  zipfile raises a dozen kinds on hostile bytes
        raise damaged(path, first_line(error)) from None
    if found and not any_code:
        raise ModelError(
            f"{show(str(path))}: its TorchScript code calls {found[1].decode()}, which reaches the file system",
            hint="If you trust the file, add --allow-pickle.",
        )


def _check_pickle(content: bytes) -> None:
    """ValueError when a text claims more bytes than there are: torch's reader makes room for it before it looks."""
    for _ in pickletools.genops(content):
        pass
