"""Runs a PyTorch model on the GPU, phase by phase, and tells its parent what the allocator counted. Only ever a child process.

The phases are those of an estimate: ``load`` (weights in the order of ``.to``, then inputs), ``first_run``, ``steady`` (more
forwards that hold the previous results), all under ``inference_mode`` in a fresh allocator. Before them stand the steps of the
context; a timing loop comes last, when everything is counted.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from vramplan.device.inside import Line, serve
from vramplan.device.torch_device import DEVICE, is_out_of_memory, no_cuda
from vramplan.device.torch_subject import Subject, counters, open_subject
from vramplan.runtimes.torch_eager.steady import LOOP_COUNT
from vramplan.sources.torch_errors import user_error

_SPARE_BYTES = 64 << 20
"""Left to the card under the limit: libraries allocate past PyTorch's allocator."""

_WARM_UP_COUNT, _TIMED_COUNT, _TIMED_S = 3, 50, 3.0
"""Forwards before the clock runs, forwards that are timed at most, and the seconds after which no further one begins."""


def close_phase(line: Line, phase: str, **more: Any) -> None:
    """Report a phase, let the parent read the driver, and begin the next one's peaks."""
    torch.cuda.synchronize()
    line.pause(phase=phase, counters=counters(), **more)
    torch.cuda.reset_peak_memory_stats(DEVICE)


def open_context(line: Line, limit_bytes: int | None) -> None:
    """The steps that every process takes: the context, and the first kernel. Leaves the allocator as fresh as it was."""
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    line.pause(step="init", counters=counters())
    if limit_bytes is not None:
        free_bytes, total_bytes = torch.cuda.mem_get_info(DEVICE)
        allowed_bytes = max(min(limit_bytes, free_bytes - _SPARE_BYTES), 1)
        torch.cuda.set_per_process_memory_fraction(min(allowed_bytes / total_bytes, 1.0), DEVICE)
    torch.zeros(1, device=DEVICE).add_(1)
    torch.cuda.synchronize()
    line.pause(step="first_kernel", counters=counters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)


@contextlib.contextmanager
def first_calls(module: nn.Module, line: Line) -> Iterator[None]:
    """Tell the parent when the first convolution and the first linear layer have run: they load libraries."""
    kinds: dict[str, Any] = {"first_convolution": nn.modules.conv._ConvNd, "first_gemm": nn.Linear}
    paths = {id(part): path for path, part in module.named_modules()}

    def called(part: nn.Module, *_: Any) -> None:
        for step, kind in list(kinds.items()):
            if isinstance(part, kind):
                del kinds[step]
                torch.cuda.synchronize()
                line.pause(step=step, where=paths.get(id(part), ""), counters=counters())

    handle = nn.modules.module.register_module_forward_hook(called)
    try:
        yield
    finally:
        handle.remove()


def run_phases(subject: Subject, line: Line) -> tuple[Any, Any]:
    """Load, first run, steady loop. Returns the moved inputs, for the timing."""
    subject.move()
    close_phase(line, "weights")
    args, kwargs = subject.move_inputs()
    close_phase(line, "load")
    with first_calls(subject.module, line):
        out = subject.forward(args, kwargs)
    close_phase(line, "first_run")
    for _ in range(LOOP_COUNT):
        out = subject.forward(args, kwargs)
    close_phase(line, "steady")
    del out
    return args, kwargs


def time_forwards(forward: Callable[[], Any]) -> list[float]:
    """Milliseconds of single forwards by CUDA events, each begun on an idle GPU, after a warm-up."""
    taken: list[float] = []
    out = None
    for _ in range(_WARM_UP_COUNT):
        out = forward()
    end_s = time.monotonic() + _TIMED_S
    while len(taken) < _TIMED_COUNT and (time.monotonic() < end_s or not taken):
        torch.cuda.synchronize()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        out = forward()
        stop.record()
        stop.synchronize()
        taken.append(start.elapsed_time(stop))
    del out
    return taken


def summary(taken: list[float]) -> dict[str, float]:
    """Median, fastest and slowest, and how many there were."""
    return {"median_ms": statistics.median(taken), "low_ms": min(taken), "high_ms": max(taken), "runs": len(taken)}


def environment() -> dict[str, str]:
    """What decides the numbers, by name."""
    return {
        "gpu": torch.cuda.get_device_name(DEVICE),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda or ""),
        "cudnn": str(torch.backends.cudnn.version() or ""),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def work(request: dict[str, Any], line: Line) -> None:
    """Everything, in order."""
    if not torch.cuda.is_available():
        line.tell(error={"kind": "machine", "message": no_cuda(), "hint": "`vramplan doctor` says what is missing."})
        return
    subject = open_subject(request)
    subject.cast()
    spare = None
    if request["record_path"]:
        from vramplan.device import torch_record  # noqa: PLC0415  only who records needs it

        spare = torch_record.copy_of(subject)
        if spare is None:
            line.tell(note="not recorded: the module cannot be copied")
    batch = request["batch"] if request["batch"] is not None else subject.inputs.batch
    line.tell(model={"name": subject.model.name, "batch": batch, "notes": list(subject.model.notes)})
    open_context(line, request["limit_bytes"])
    line.tell(environment=environment())
    gc.collect()
    with torch.inference_mode():
        try:
            args, kwargs = run_phases(subject, line)
            if request["is_timed"]:
                before = counters()["device_alloc_count"]
                taken = time_forwards(lambda: subject.forward(args, kwargs))
                line.tell(
                    latency={
                        "median_ms": statistics.median(taken),
                        "low_ms": min(taken),
                        "high_ms": max(taken),
                        "runs": len(taken),
                    },
                    device_alloc_count=counters()["device_alloc_count"] - before,
                )
        except Exception as error:
            if is_out_of_memory(error):
                line.tell(phase="out_of_memory", counters=counters())
                raise
            raise user_error(error, f"forward of {subject.model.name} failed", subject.inputs.shapes) from None
    if spare is not None:
        del args, kwargs, subject
        with torch.inference_mode():
            torch_record.record(spare, request["record_path"], line, request["provenance"] | environment(), batch)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=is_out_of_memory)
