"""Writing a report to a file: all of it or nothing, and never over another file by accident."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from vramplan.errors import MachineError, UsageError
from vramplan.report.words import shorten


def check_target(path: Path, *, force: bool) -> None:
    """Whether *path* may be written, asked before any work is done. `UsageError` says why not."""
    name = repr(shorten(str(path), 80))
    if path.is_dir():
        raise UsageError(f"-o {name} is a folder", hint="Name a file in it, such as report.json.")
    if not path.parent.is_dir():
        raise UsageError(f"-o {name}: the folder {shorten(str(path.parent), 80)!r} does not exist", hint="Create it first.")
    if path.exists() and not path.is_file():
        raise UsageError(f"-o {name} is not a regular file", hint="Without -o the report goes to standard output.")
    if os.path.lexists(path) and not force:
        raise UsageError(f"-o {name} exists", hint="Add --force to replace it.")


def write_atomically(path: Path, text: str, *, force: bool = False) -> None:
    """Put *text* into *path* in one step: readers see the old file or the whole new one, also after a crash.

    Raises `UsageError` as `check_target` does, and `MachineError` when the disk refuses.
    """
    check_target(path, force=force)
    target = path.resolve()
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        try:
            _write_synced(part, text)
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write {shorten(str(path), 80)!r}: {error.strerror}") from error


def _write_synced(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
