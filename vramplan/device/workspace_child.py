"""Runs convolutions one by one and tells what each asks the allocator for beside its result. Only ever a child process."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import Any

import torch

from vramplan.device.inside import Line, serve
from vramplan.device.torch_device import DEVICE, is_out_of_memory, no_cuda

_AT_ONCE = 64
"""Readings in one report."""

_CONVOLVE: dict[tuple[int, bool], Any] = {
    (1, False): torch.nn.functional.conv1d, (2, False): torch.nn.functional.conv2d, (3, False): torch.nn.functional.conv3d,
    (1, True): torch.nn.functional.conv_transpose1d, (2, True): torch.nn.functional.conv_transpose2d,
    (3, True): torch.nn.functional.conv_transpose3d,
}  # fmt: skip

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def work(request: dict[str, Any], line: Line) -> None:
    """Measure the calls of *request* in their order, and begin no further one after its ``budget_s``."""
    if not torch.cuda.is_available():
        line.tell(error={"kind": "machine", "message": no_cuda(), "hint": "`vramplan doctor` says what is missing."})
        return
    line.tell(cudnn=int(torch.backends.cudnn.version() or 0))  # type: ignore[no-untyped-call]
    end_s = time.monotonic() + request["budget_s"]
    readings: list[tuple[int, int]] = []
    with torch.inference_mode():
        for index, call in enumerate(request["calls"]):
            if time.monotonic() > end_s:
                break
            with contextlib.suppress(RuntimeError):  # no kernel for it, or no room: it has no workspace to tell
                readings.append((index, workspace_bytes(call)))
            if len(readings) == _AT_ONCE:
                line.tell(workspaces=readings)
                readings = []
    line.tell(workspaces=readings)


def workspace_bytes(call: dict[str, Any]) -> int:
    """The most that one convolution has asked for at a time, less its result; operands are there before."""
    rank = len(call["stride"])
    dtype = getattr(torch, call["dtype"])
    layout = _CHANNELS_LAST.get(rank) if call["channels_last"] else None
    free_bytes, _ = torch.cuda.mem_get_info(DEVICE)
    if math.prod(call["input_shape"]) * dtype.itemsize > free_bytes // 4:
        raise RuntimeError("no room for the input")
    operands = [torch.zeros(call[name], dtype=dtype, device=DEVICE) for name in ("input_shape", "weight_shape")]
    if layout is not None:
        operands = [operand.contiguous(memory_format=layout) for operand in operands]
    before_bytes = requested("current")
    torch.cuda.reset_peak_memory_stats(DEVICE)
    result: torch.Tensor = _CONVOLVE[rank, call["transposed"]](
        *operands, stride=call["stride"], padding=call["padding"], dilation=call["dilation"], groups=call["groups"]
    )
    return requested("peak") - before_bytes - result.numel() * result.element_size()


def requested(which: str) -> int:
    """Bytes as asked for, before the allocator rounds them."""
    return int(torch.cuda.memory_stats(DEVICE)[f"requested_bytes.all.{which}"])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=is_out_of_memory)
