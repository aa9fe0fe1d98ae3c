"""Imports one runtime and tells what it is, step by step, so that a crash loses only what comes after.

Only ever a child process.
"""

from __future__ import annotations

import sys
from typing import Any

from vramplan.device.inside import Line, serve
from vramplan.errors import UsageError


def work(request: dict[str, Any], line: Line) -> None:
    """Ask the runtime that *request* names."""
    asked = {"torch": ask_torch, "onnxruntime": ask_onnxruntime}.get(request["runtime"])
    if asked is None:
        raise UsageError(f"unknown runtime {request['runtime']!r}")
    asked(line)


def ask_torch(line: Line) -> None:
    """PyTorch's build, then its GPUs: properties are read without a context, which would take memory."""
    import torch  # noqa: PLC0415  what is asked

    line.tell(cuda=torch.version.cuda or "")
    if not torch.version.cuda:
        return
    line.tell(is_available=torch.cuda.is_available())
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        gpus.append({"uuid": str(getattr(found, "uuid", "")), "total_bytes": int(found.total_memory)})
    line.tell(gpus=gpus)
    backend: Any = torch.backends.cudnn
    line.tell(cudnn=str(backend.version() or ""))


def ask_onnxruntime(line: Line) -> None:
    """Which execution providers this build has."""
    import onnxruntime  # noqa: PLC0415  what is asked

    library: Any = onnxruntime
    line.tell(providers=list(library.get_available_providers()))


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=lambda _: False)
