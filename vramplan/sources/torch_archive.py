"""What kind of PyTorch file lies at a path, told from its content; archives made to exhaust memory are refused here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Literal

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import show

Kind = Literal["pt2", "torchscript", "zip", "legacy", "safetensors"]

MAX_INFLATED_BYTES = 512 << 20
"""Text and code of one archive, inflated. torch compresses nothing else; the code of a large TorchScript model is 5 MB."""

MAX_MEMBERS = 1_000_000

_SCRIPT_CODE = "/code/"


def kind_of(path: Path) -> Kind:
    """The kind of file at *path*. ModelError for folders, empty files and what PyTorch does not write."""
    start = _first_bytes(path)
    if start.startswith(b"PK"):
        return _kind_of_archive(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors"
    if path.suffix.lower() == ".safetensors":
        return "safetensors"  # its reader says what is wrong with it
    if start.startswith(b"\x80"):
        return "legacy"
    raise ModelError(f"{show(str(path))} is not a PyTorch file", hint="Name a file that torch.save or torch.export.save wrote.")


def damaged(path: Path, reason: str) -> ModelError:
    """The one error about a file that cannot be read."""
    return ModelError(f"{show(str(path))} cannot be read: {reason}", hint="Write or download the file again.")


def file_sha256(path: Path) -> str:
    """Hash of the file as it lies on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member_names(path: Path) -> tuple[str, ...]:
    """Names of an archive's members, after checking that what it inflates to is sane."""
    return tuple(member.filename for member in _members(path))


def _first_bytes(path: Path) -> bytes:
    shown = show(str(path))
    if path.is_dir():
        raise ModelError(f"{shown} is a folder", hint="Name the file inside it.")
    if not path.exists():
        raise ModelError(f"no file is called {shown}", hint="Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise damaged(path, (error.strerror or str(error)).lower()) from None
    if not start:
        raise damaged(path, "it is empty")
    return start


def _kind_of_archive(path: Path) -> Kind:
    names = member_names(path)
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return "pt2"
    if "serialized_exported_program.json" in names:
        raise ModelError(f"{show(str(path))} was written by a torch.export older than PyTorch 2.8", hint="Export it again.")
    if "constants.pkl" in inner and any(_SCRIPT_CODE in name for name in names):
        return "torchscript"
    if "data.pkl" in inner:
        return "zip"
    raise ModelError(f"{show(str(path))} is a zip archive, but not one that PyTorch writes")


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # noqa: BLE001,RUF100  zipfile raises a dozen kinds on hostile bytes
        raise damaged(path, f"it is not a whole zip archive ({first_line(error)})") from None
    if len(members) > MAX_MEMBERS:
        raise damaged(path, f"it has {len(members):,} members, more than {MAX_MEMBERS:,}")
    _check_sizes(path, members)
    return members


def _check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Stored members cannot hold more than the file; inflated ones are text, and bounded."""
    stored_bytes = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    if stored_bytes > path.stat().st_size:
        raise damaged(path, f"its members claim {stored_bytes:,} bytes, more than the file has")
    inflated_bytes = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if inflated_bytes > MAX_INFLATED_BYTES:
        raise damaged(path, f"its members inflate to {inflated_bytes:,} bytes; PyTorch compresses code only")


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, printable and short; its type when it has none."""
    lines = str(error).strip().splitlines()
    return show(lines[0])[1:-1] if lines else type(error).__name__
