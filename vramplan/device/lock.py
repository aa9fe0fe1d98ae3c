"""One measurement at a time on one GPU: a file that is locked while it lasts. The system unlocks it when its holder dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vramplan.errors import MachineError, MeasurementError

_STEP_S = 0.2


@contextlib.contextmanager
def gpu_lock(folder: Path, uuid: str, *, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock of the GPU *uuid* in *folder*, waiting at most *wait_s* for another holder.

    Raises `MeasurementError` that names the holder when it is still held, `MachineError` when *folder* cannot be written.
    """
    path = folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', uuid)[:80]}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"cannot write the lock {str(path)[:200]!r}: {error.strerror}", hint="Set VRAMPLAN_CACHE_DIR to a folder you own."
        ) from None
    with file:
        _wait(file, time.monotonic() + wait_s)
        _write_holder(file)
        try:
            yield
        finally:
            file.truncate(0)
            _unlock(file)


def _wait(file: IO[str], deadline_s: float) -> None:
    while not _try_lock(file):
        if time.monotonic() >= deadline_s:
            raise MeasurementError(
                f"another measurement runs on this GPU{_holder(file)}",
                hint="Wait for it, or add --wait 300 to queue behind it: two at once would measure each other.",
            )
        time.sleep(_STEP_S)


def _try_lock(file: IO[str]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt  # noqa: PLC0415  only there

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl  # noqa: PLC0415  not on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(file: IO[str]) -> None:
    """Closing unlocks on POSIX; Windows wants it said."""
    if os.name == "nt":
        import msvcrt  # noqa: PLC0415  only there

        file.seek(0)
        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]


def _write_holder(file: IO[str]) -> None:
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid()}))
    file.flush()


def _holder(file: IO[str]) -> str:
    with contextlib.suppress(OSError, ValueError):
        file.seek(0)
        pid = json.loads(file.read(200))["pid"]
        if isinstance(pid, int):
            return f" (process {pid})"
    return ""
