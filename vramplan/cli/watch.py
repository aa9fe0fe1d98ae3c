"""``vramplan watch``: a GPU at work, and three signs that it could do better."""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from vramplan.cli.output import Format, Output
from vramplan.errors import MeasurementError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramplan.sampling import Target
    from vramplan.watching import Sample

Pid = Annotated[int | None, typer.Option("--pid", metavar="N", help="The process to watch. Default: the whole card.")]
GpuIndex = Annotated[int | None, typer.Option("--gpu-index", metavar="N", help="Which GPU, as nvidia-smi counts.")]
Interval = Annotated[float, typer.Option("--interval", metavar="S", help="Seconds from one sample to the next.")]
Seconds = Annotated[float | None, typer.Option("--seconds", metavar="S", help="Stop after so long. Default: until Ctrl-C.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, the summary last.")]

_KEPT = 100_000
"""Samples that the summary looks at: half a day at two a second."""


def watch_command(
    *,
    pid: Pid = None,
    gpu_index: GpuIndex = None,
    interval: Interval = 0.5,
    seconds: Seconds = None,
    json: JsonLines = False,
) -> int:
    """Watch a GPU or one process on it: memory, load, copies, clocks, and three signs of waste.

    The signs: memory held and not used, gaps from hidden allocation, a full PCIe link. Ctrl-C ends it with a summary. A
    PyTorch program that calls vramplan.report_memory() shows its own counters too.
    """
    if not 0.1 <= interval <= 3600:
        raise UsageError(f"--interval {interval:g} is not from 0.1 to 3600 seconds", hint="Leave it out for 0.5.")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds {seconds:g} is no time", hint="Write it like --seconds 30.")
    if pid is not None and pid < 1:
        raise UsageError(f"--pid {pid} is no process", hint="`nvidia-smi` lists those on the GPU.")

    from vramplan.device import nvml  # noqa: PLC0415  keeps start-up fast
    from vramplan.sampling import find_target, samples  # noqa: PLC0415

    probe = nvml.open_probe()
    target = find_target(probe, pid=pid, gpu_index=gpu_index)
    output = Output.of(json=json, csv=False, markdown=False, path=None, force=False)
    return _watch(target, samples(probe, target, interval_s=interval, seconds=seconds), output)


def _watch(target: Target, taken: Iterable[Sample], output: Output) -> int:
    """Show every sample, then what they came to; Ctrl-C is the usual end."""
    from vramplan.report import watch_live  # noqa: PLC0415  keeps start-up fast
    from vramplan.watching import sum_up  # noqa: PLC0415

    kept: deque[Sample] = deque(maxlen=_KEPT)
    is_screen = output.format is Format.TABLE and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    try:
        (_show_live if is_screen else _show_lines)(target, taken, output, kept)
    except KeyboardInterrupt:
        if not kept:
            raise
    if not kept:
        raise MeasurementError(f"process {target.pid} left the GPU before it was seen", hint="Watch a program that still runs.")
    verdict = sum_up(list(kept))
    if output.format is Format.JSON:
        output.emit(watch_live.verdict_json(target, verdict))
    else:
        output.emit(watch_live.verdict_text(verdict, width=output.width, colour=output.colour))
    return 0


def _show_lines(target: Target, taken: Iterable[Sample], output: Output, kept: deque[Sample]) -> None:
    from vramplan.report import watch_live  # noqa: PLC0415  keeps start-up fast

    is_json = output.format is Format.JSON
    if not is_json:
        output.emit(watch_live.header_text(target))
    for sample in taken:
        kept.append(sample)
        output.emit(watch_live.sample_json(sample) if is_json else watch_live.sample_text(sample))


def _show_live(target: Target, taken: Iterable[Sample], output: Output, kept: deque[Sample]) -> None:
    from vramplan.report.watch_live import live_screen, page_text  # noqa: PLC0415  keeps start-up fast
    from vramplan.watching import judge, recent  # noqa: PLC0415

    with live_screen(colour=output.colour) as show:
        for sample in taken:
            kept.append(sample)
            show(page_text(target, sample, judge(recent(list(kept))), width=output.width, colour=output.colour))
