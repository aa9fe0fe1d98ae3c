"""PyTorch's memory counters of a running program, for `vramplan watch` in another process.

A program opts in with ``vramplan.report_memory()``, or is started as ``python -m vramplan.device.reporter script.py``. A thread
then writes the counters once a second to ``watch/<pid>.json`` in vramplan's cache folder, a file that is replaced whole. It
reads counters only when the program itself has initialised CUDA, and never disturbs it: what it cannot write it leaves out.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vramplan.errors import UsageError, VramplanError
from vramplan.folders import cache_folder
from vramplan.units import MAX_BYTES

STALE_MS = 5_000
"""Older reports are no report: five missed writes, which a busy program may still be behind."""

_FORMAT = 1
_MAX_FILE_BYTES = 64 << 10
_MAX_GPUS = 64
_MAX_COUNT = 1 << 62

_STATISTICS = {
    "allocated_bytes": "allocated_bytes.all.current",
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "reserved_bytes": "reserved_bytes.all.current",
    "requested_bytes": "requested_bytes.all.current",
    "retry_count": "num_alloc_retries",
    "device_alloc_count": "num_device_alloc",
    "oom_count": "num_ooms",
}
"""Our names, and those of ``torch.cuda.memory_stats``."""

_started = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCounters:
    """What PyTorch's allocator of one process counts on one GPU, now and (``peak``) since the start.

    ``retry_count`` are allocations that found no memory and were tried again after the cache was emptied,
    ``device_alloc_count`` calls of cudaMalloc, ``oom_count`` errors that the program met.
    """

    allocated_bytes: int
    allocated_peak_bytes: int
    reserved_bytes: int
    requested_bytes: int
    retry_count: int
    device_alloc_count: int
    oom_count: int


def report_memory(*, interval_s: float = 1.0) -> Path:
    """Let `vramplan watch` see the memory of this program: a daemon thread writes PyTorch's counters every *interval_s*.

    Returns the file it writes. PyTorch is never imported and CUDA never initialised by it; a second call changes nothing.
    """
    if not 0.05 <= interval_s <= 3600:
        raise UsageError(f"interval_s: {interval_s} is not from 0.05 to 3600", hint="report_memory() writes once a second.")
    path = report_path(os.getpid())
    if _started.acquire(blocking=False):
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)
        atexit.register(_remove, path, os.getpid())
        threading.Thread(target=_write_always, args=(path, interval_s), name="vramplan-report", daemon=True).start()
    return path


def report_path(pid: int, folder: Path | None = None) -> Path:
    """Where the program *pid* reports, whether or not it does."""
    return (folder or cache_folder()) / "watch" / f"{pid}.json"


def read_report(pid: int, uuid: str, *, folder: Path | None = None, now_ms: int | None = None) -> TorchCounters | None:
    """The counters of program *pid* on the GPU *uuid*; None when there is no report, an old one, or one that is not right."""
    from vramplan.strict_json import items_of, object_of, read_object, whole_of  # noqa: PLC0415  only who watches

    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    try:
        content = read_object(report_path(pid, folder), max_bytes=_MAX_FILE_BYTES)
        is_ours = content.get("format") == _FORMAT and content.get("pid") == pid
        written_ms = whole_of(content.get("time_ms"), "time_ms", most=_MAX_COUNT)
        gpus = [object_of(gpu, "gpus") for gpu in items_of(content.get("gpus"), "gpus", most=_MAX_GPUS)]
        if not is_ours or abs(now_ms - written_ms) > STALE_MS:
            return None
        found = _of_gpu(gpus, uuid)
        return None if found is None else TorchCounters(**_counts(found, whole_of))
    except (ValueError, OSError, VramplanError):
        return None


def _of_gpu(gpus: list[dict[str, Any]], uuid: str) -> dict[str, Any] | None:
    """The one of *uuid*. Old versions of PyTorch do not tell UUIDs; then a single GPU is it."""
    bare = uuid.removeprefix("GPU-")
    named = [gpu for gpu in gpus if isinstance(gpu.get("uuid"), str) and gpu["uuid"].removeprefix("GPU-") == bare]
    nameless = [gpu for gpu in gpus if gpu.get("uuid") == ""]
    return named[0] if named else nameless[0] if len(gpus) == len(nameless) == 1 else None


def _counts(gpu: Mapping[str, Any], whole_of: Any) -> dict[str, int]:
    names = [field.name for field in fields(TorchCounters)]
    return {name: whole_of(gpu.get(name), name, most=MAX_BYTES if name.endswith("_bytes") else _MAX_COUNT) for name in names}


def torch_gpus(torch: Any) -> list[dict[str, Any]]:
    """The counters of every GPU that *torch*, imported by the program, holds memory on; empty before CUDA is initialised."""
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not hasattr(cuda, "is_initialized") or not cuda.is_initialized():
        return []
    found = []
    for index in range(min(cuda.device_count(), _MAX_GPUS)):
        statistics = cuda.memory_stats(index)
        if statistics.get("reserved_bytes.all.peak", 0):
            uuid = str(getattr(cuda.get_device_properties(index), "uuid", ""))
            found.append({"uuid": uuid, **{name: int(statistics.get(key, 0)) for name, key in _STATISTICS.items()}})
    return found


def write_report(path: Path, gpus: Sequence[Mapping[str, Any]]) -> None:
    """Replace *path* whole, without waiting for the disk: the next second brings another one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"format": _FORMAT, "pid": os.getpid(), "time_ms": time.time_ns() // 1_000_000, "gpus": list(gpus)}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _write_always(path: Path, interval_s: float) -> None:
    while True:
        with contextlib.suppress(Exception):  # a full disk or a half-imported PyTorch is no reason to disturb the program
            gpus = torch_gpus(sys.modules.get("torch"))
            if gpus:
                write_report(path, gpus)
        time.sleep(interval_s)


def _forget() -> None:
    """A forked child has no such thread, and may start one."""
    with contextlib.suppress(RuntimeError):
        _started.release()


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def main(words: Sequence[str]) -> None:
    """Run a script, or ``-m module``, as Python would, with the report beside it."""
    from vramplan.device.reporter import report_memory as report  # noqa: PLC0415  this module runs under another name

    is_module = words[:1] == ["-m"]
    command = list(words[1:] if is_module else words)
    if not command:
        sys.exit("usage: python -m vramplan.device.reporter (script.py | -m module) [arguments]")
    report()
    sys.argv = command
    if is_module:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(command[0]).resolve().parent)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
