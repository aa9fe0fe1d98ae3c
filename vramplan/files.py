"""Writing a file: all of it or nothing, and never over another file by accident."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from vramplan.errors import MachineError, UsageError

_SHOWN_CHARS = 80


def check_target(path: Path, *, force: bool, what: str = "-o") -> None:
    """Whether *path* may be written, asked before any work is done. `UsageError` says why not; *what* names it there."""
    name = f"{what} {_shown(path)}"
    if path.is_dir():
        raise UsageError(f"{name} is a folder", hint="Name a file in it, such as report.json.")
    if not path.parent.is_dir():
        raise UsageError(f"{name}: the folder {_shown(path.parent)} does not exist", hint="Create it first.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{name} is not a regular file", hint="Name another file.")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{name} exists", hint="Add --force to replace it.")


def write_atomically(path: Path, content: str | bytes, *, force: bool = False, what: str = "-o") -> None:
    """Put *content* into *path* in one step: readers see the old file or the whole new one, also after a crash.

    Raises `UsageError` as `check_target` does, and `MachineError` when the disk refuses.
    """
    check_target(path, force=force, what=what)
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    target = path.resolve()
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        try:
            _write_synced(part, data)
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write {_shown(path)}: {error.strerror}") from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _shown(path: Path) -> str:
    """The path in quotes, without control characters; a long one is cut in the middle."""
    text = str(path)
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:26]}…{text[-53:]}")
