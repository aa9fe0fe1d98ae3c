"""Where calibrations are kept: the user's own in the folder of settings, and those that came with vramplan.

A broken file of the user never breaks an estimate: it is skipped, and the logger ``vramplan`` warns of it once, which
Python prints on standard error unless a program set up logging otherwise.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

from vramplan.errors import MachineError, ModelError, UsageError, show
from vramplan.files import write_atomically
from vramplan.folders import config_folder
from vramplan.gpus.calibration import Calibration, calibration_text, read_calibration

MAX_FILES = 1_000
"""Files that are looked at in one folder."""

_LOG = logging.getLogger("vramplan")

_FORMAT_HINT = "Run `vramplan calibrate` on the machine again, or correct the file: docs/how-to/calibrate.md."


def user_folder() -> Path:
    """Where the user's calibrations are; it need not exist."""
    return config_folder() / "calibrations"


def shipped_folder() -> Path:
    """Where those are that came with vramplan."""
    return Path(__file__).with_name("calibrations")


def calibrations_of(gpu_key: str) -> tuple[Calibration, ...]:
    """What was measured on cards of *gpu_key*: the newest of the user's files first, then those that came with vramplan."""
    return (*_in_folder(user_folder(), gpu_key), *_in_folder(shipped_folder(), gpu_key))


def shipped_calibrations() -> tuple[Calibration, ...]:
    """Those that came with vramplan."""
    return tuple(calibration for _, calibration in _read_folder(shipped_folder(), ""))


def all_calibrations() -> tuple[tuple[Path, Calibration], ...]:
    """Every calibration with its file, in the same order."""
    return (*_read_folder(user_folder(), ""), *_read_folder(shipped_folder(), ""))


def store_calibration(calibration: Calibration, *, force: bool) -> Path:
    """Put *calibration* among the user's, in one step; the path it is kept at. `UsageError` when there is one and not *force*.

    Raises `MachineError` when the folder cannot be written.
    """
    folder = user_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"cannot make the folder {show(str(folder))}: {error.strerror}", hint="Set VRAMPLAN_CONFIG_DIR to a folder you own."
        ) from None
    path = folder / calibration.file_name
    write_atomically(path, calibration_text(calibration), force=force, what="calibration")
    _read_folder_as_of.cache_clear()
    return path


def import_calibration(path: Path, *, force: bool) -> tuple[Path, Calibration]:
    """Read a stranger's file strictly, and store it. `UsageError` for one that is no calibration, or is there already."""
    try:
        calibration = read_calibration(path)
    except ModelError as error:
        raise UsageError(f"--import: {error.message}", hint=error.hint) from None
    except ValueError as error:
        raise UsageError(f"--import: {show(str(path))} is no calibration: {error}", hint=_FORMAT_HINT) from None
    return store_calibration(calibration, force=force), calibration


def _in_folder(folder: Path, gpu_key: str) -> Iterator[Calibration]:
    return (calibration for _, calibration in _read_folder(folder, gpu_key) if calibration.gpu.key == gpu_key)


def _read_folder(folder: Path, gpu_key: str) -> tuple[tuple[Path, Calibration], ...]:
    """The calibrations of one folder (of one card, unless the key is ""), the newest first."""
    try:
        changed_ns = folder.stat().st_mtime_ns
    except OSError:
        return ()
    return _read_folder_as_of(folder, gpu_key, changed_ns)


@functools.lru_cache(maxsize=512)
def _read_folder_as_of(folder: Path, gpu_key: str, _changed_ns: int) -> tuple[tuple[Path, Calibration], ...]:
    """Files are replaced by renaming, which changes their folder's time: as long as that stands, so does what was read."""
    pattern = f"{gpu_key}_*.json" if gpu_key else "*.json"
    found = []
    for path in sorted(folder.glob(pattern))[:MAX_FILES]:
        try:
            found.append((path, read_calibration(path)))
        except (ValueError, OSError, ModelError) as error:
            _warn_once(f"warning: skipped {show(str(path))}: {error}")
    return tuple(sorted(found, key=lambda pair: pair[1].environment["date"], reverse=True))


@functools.cache
def _warn_once(message: str) -> None:
    _LOG.warning(message)
