"""A watched GPU: a page that is drawn again on a terminal, one line a sample elsewhere, one object a line for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import SCHEMA_VERSION
from vramplan.report.words import padded, printable
from vramplan.sampling import Target
from vramplan.units import format_bytes
from vramplan.watching import Level, Sample, Sign, Verdict

_HEADERS = ("time", "memory", "reserved", "allocated", "SM", "mem", "dec", "enc", "to GPU", "from GPU", "MHz")
_WIDTHS = (7, 11, 11, 11, 5, 5, 5, 5, 9, 9, 5)

_STYLES = {Level.PRESENT: "bold yellow", Level.ABSENT: "green", Level.UNKNOWN: "dim"}
_WORDS = {Level.PRESENT: "yes", Level.ABSENT: "no", Level.UNKNOWN: "unknown"}
_TITLES = {
    "memory": "memory held and not used",
    "allocation": "gaps from hidden allocation",
    "pcie": "copies fill the PCIe link",
}


def sample_json(sample: Sample) -> str:
    """One line: every number of the sample, in bytes, ratios of 1 and bytes a second; null is unknown."""
    return _line("sample", {**asdict(sample), "link_ratio": sample.link_ratio})


def verdict_json(target: Target, verdict: Verdict) -> str:
    """The last line: the verdict on the three signs."""
    return _line("summary", {"gpu": target.device.name, "uuid": target.device.uuid, "pid": target.pid, **asdict(verdict)})


def _line(kind: str, content: dict[str, object]) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, "kind": kind, **content}) + "\n"


def header_text(target: Target) -> str:
    """What is watched, and the names of the columns of `sample_text`."""
    return f"{_title(target)} · PCIe in GB/s\n{_row(_HEADERS)}\n"


def sample_text(sample: Sample) -> str:
    """One line of numbers under the headers; ``?`` is unknown."""
    activity, torch = sample.activity, sample.torch
    cells = (
        f"{sample.time_s:.1f}s",
        format_bytes(sample.watched_bytes),
        _size(torch.reserved_bytes if torch else None),
        _size(torch.allocated_bytes if torch else None),
        *map(_percent, (activity.sm_ratio, activity.memory_ratio, activity.decoder_ratio, activity.encoder_ratio)),
        *map(_rate, (activity.pcie_to_gpu_bytes_per_s, activity.pcie_from_gpu_bytes_per_s)),
        "?" if activity.sm_clock_mhz is None else str(activity.sm_clock_mhz),
    )
    held = f"  {', '.join(activity.throttle)}" if activity.throttle else ""
    return f"{_row(cells)}{held}\n"


def verdict_text(verdict: Verdict, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """What the watch came to: the numbers of all of it, and the three signs."""
    canvas = Canvas(width=width, colour=colour)
    canvas.blank()
    parts = [
        f"{verdict.sample_count} samples in {verdict.duration_s:.1f} s",
        f"peak {format_bytes(verdict.peak_bytes)}",
        f"SM {_percent(verdict.sm_ratio)} on average",
        f"PCIe {_percent(verdict.link_ratio)} of the link on average",
    ]
    canvas.line(" · ".join(parts), style="bold")
    if verdict.throttle:
        canvas.line(printable(f"clocks were held down: {', '.join(verdict.throttle)}"), style="yellow")
    _draw_signs(canvas, verdict.signs)
    return canvas.text()


def page_text(target: Target, sample: Sample, signs: tuple[Sign, ...], *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The page of a live view."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(_title(target), style="bold")
    canvas.blank()
    for label, text in _facts(target, sample):
        canvas.line(printable(f"{label:<12} {text}"))
    canvas.blank()
    _draw_signs(canvas, signs)
    canvas.blank()
    canvas.line("Ctrl-C ends it, with a summary.", style="dim")
    return canvas.text()


@contextlib.contextmanager
def live_screen(*, colour: bool) -> Iterator[Callable[[str], None]]:
    """A region of the terminal that each call replaces by the text it is given; the last one stays."""
    from rich.console import Console  # noqa: PLC0415  only a terminal needs it
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(no_color=not colour)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda text: live.update(Text.from_ansi(text), refresh=True)


def _facts(target: Target, sample: Sample) -> Iterator[tuple[str, str]]:
    activity, torch = sample.activity, sample.torch
    if target.pid is not None:
        yield "process", _size(sample.process_bytes)
    yield "card", f"{format_bytes(sample.used_bytes)} used"
    if torch is None:
        yield "PyTorch", "reserved ?, allocated ? (the program does not report: vramplan.report_memory())"
    else:
        yield "PyTorch", f"reserved {format_bytes(torch.reserved_bytes)}, allocated {format_bytes(torch.allocated_bytes)}"
    yield (
        "busy",
        (
            f"SM {_percent(activity.sm_ratio)}, memory controller {_percent(activity.memory_ratio)}, "
            f"decoder {_percent(activity.decoder_ratio)}, encoder {_percent(activity.encoder_ratio)}"
        ),
    )
    yield (
        "PCIe",
        (
            f"to the GPU {_rate(activity.pcie_to_gpu_bytes_per_s)}, from it {_rate(activity.pcie_from_gpu_bytes_per_s)} GB/s, "
            f"of {_rate(sample.link_bytes_per_s)} GB/s at most"
        ),
    )
    device, sm, video = target.device, activity.sm_clock_mhz, activity.video_clock_mhz
    held = f"held down by {', '.join(activity.throttle)}" if activity.throttle else "not held down"
    yield "clocks", f"SM {_of(sm, device.sm_clock_max_mhz)}, video {_of(video, device.video_clock_max_mhz)} MHz, {held}"


def _draw_signs(canvas: Canvas, signs: tuple[Sign, ...]) -> None:
    for number, sign in enumerate(signs, 1):
        canvas.line(f"{number}. {_TITLES[sign.name]}: {_WORDS[sign.level]} - {sign.text}.", style=_STYLES[sign.level])
        if sign.remedy:
            canvas.line(f"   {sign.remedy}")


def _title(target: Target) -> str:
    of = "the whole card" if target.pid is None else f"process {target.pid}"
    return printable(f"GPU {target.device.index}: {target.device.name} · {of}")


def _row(cells: tuple[str, ...]) -> str:
    return " ".join(padded(cell, width, left=False) for cell, width in zip(cells, _WIDTHS, strict=True))


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else format_bytes(size_bytes)


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.0%}"


def _rate(bytes_per_s: int | None) -> str:
    """In GB/s, the unit of the link."""
    return "?" if bytes_per_s is None else f"{bytes_per_s / 1e9:.2f}"


def _of(value: int | None, most: int | None) -> str:
    return f"{'?' if value is None else value} of {'?' if most is None else most}"
