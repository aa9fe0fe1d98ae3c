"""The GPU catalogue: a table of all cards, the facts of one with where they come from, and both for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from vramplan.gpus import RUNTIMES, Gpu, context_bytes, context_reason, usable_bytes, usable_reason
from vramplan.ranges import Evidence, Range
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import to_json
from vramplan.report.grid import Grid
from vramplan.report.rows import Row
from vramplan.report.words import shorten
from vramplan.units import GIB, format_bytes

NAME_WIDTH = 24
LEGEND = (
    "usable: what CUDA can allocate on an idle card, ~ where it is inferred · marketed: the size on the box ·"
    " fp16: dense 10^12 operations a second, the faster accumulation · ?: not known"
)


def cards_text(gpus: Sequence[Gpu], *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """One line a card."""
    canvas = Canvas(width=width, colour=colour)
    canvas.table(cards_grid(gpus))
    canvas.blank()
    canvas.line(LEGEND, style="dim")
    canvas.line("`vramplan gpus NAME` shows every fact of one card and its source.", style="dim")
    return canvas.text()


def card_text(gpu: Gpu, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """Everything known about one card, with the reason or source of each number."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(f"{gpu.name} ({gpu.key})", style="bold")
    canvas.blank()
    canvas.table(facts_grid(gpu))
    canvas.blank()
    canvas.line(f"usable: {usable_reason(gpu)}")
    for reason in dict.fromkeys(context_reason(gpu, runtime) for runtime in RUNTIMES):
        runtimes = ", ".join(runtime for runtime in RUNTIMES if context_reason(gpu, runtime) == reason)
        canvas.line(f"context, {runtimes}: {reason}")
    if gpu.notes:
        canvas.line(f"note: {gpu.notes}", style="yellow")
    canvas.blank()
    for source in _sources(gpu):
        canvas.line(f"source, {source}", style="dim")
    return canvas.text()


def cards_grid(gpus: Sequence[Gpu]) -> Grid:
    """Key, name, architecture, memory, bandwidth, rate and decoders of each card."""
    headers = ("key", "name", "architecture", "usable", "marketed", "GB/s", "fp16", "nvdec")
    return Grid(headers=headers, rows=tuple(map(_card_cells, gpus)), words=frozenset(headers[:3]))


def cards_json(gpus: Sequence[Gpu]) -> str:
    """``gpus``: every column of the catalogue, what follows from it, the evidence and the source."""
    return to_json({"gpus": [_card_object(gpu) for gpu in gpus]})


def card_rows(gpus: Sequence[Gpu]) -> list[Row]:
    """One flat row a card: every column of the catalogue, and the usable bytes."""
    return [{**_columns(gpu), **_flat("usable", usable_bytes(gpu))} for gpu in gpus]


def _card_cells(gpu: Gpu) -> tuple[str, ...]:
    usable = usable_bytes(gpu)
    inferred = "" if usable.evidence is Evidence.CATALOGUE else "~"
    name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ").removesuffix(" Generation")
    return (
        gpu.key,
        shorten(name, NAME_WIDTH),
        _known(gpu.architecture),
        inferred + format_bytes(usable.nominal_bytes),
        f"{gpu.vram_marketed_bytes / GIB:g} GiB",
        "?" if gpu.memory_bandwidth_gb_s is None else f"{gpu.memory_bandwidth_gb_s:.0f}",
        "?" if gpu.fp16_dense_tflops is None else _three_digits(gpu.fp16_dense_tflops),
        _known(gpu.nvdec_count),
    )


def facts_grid(gpu: Gpu) -> Grid:
    """Everything known about one card, with the evidence of each fact."""
    rows = [("usable", *_range_cells(usable_bytes(gpu)))]
    rows += [(f"context, {runtime}", *_range_cells(context_bytes(gpu, runtime))) for runtime in RUNTIMES]
    shown = {name: value for name, value in _columns(gpu).items() if name not in {"key", "name", "notes", "source"}}
    rows += [
        (_label(name), _fact(name, value), "" if value is None else Evidence.CATALOGUE.value) for name, value in shown.items()
    ]
    return Grid(headers=("fact", "value", "evidence"), rows=tuple(rows), words=frozenset({"fact", "value", "evidence"}))


def _range_cells(size: Range) -> tuple[str, str]:
    nominal = format_bytes(size.nominal_bytes)
    if size.low_bytes < size.high_bytes:
        nominal += f"  ({format_bytes(size.low_bytes)} to {format_bytes(size.high_bytes)})"
    return nominal, size.evidence.value


def _fact(name: str, value: str | int | float | None) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "?"}[value]
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{format_bytes(value)}  ({value:,} bytes)"
    return shorten(str(value), 60)


def _label(name: str) -> str:
    for ending, unit in (("_gb_s", "GB/s"), ("_mhz", "MHz"), ("_tflops", "10^12/s"), ("_tops", "10^12/s"), ("_bytes", "")):
        if name.endswith(ending):
            words = name.removesuffix(ending).replace("_", " ")
            return f"{words}, {unit}" if unit else words
    return name.replace("_", " ")


def _card_object(gpu: Gpu) -> dict[str, Any]:
    columns = _columns(gpu)
    return {
        **columns,
        "usable": _range_object(usable_bytes(gpu), usable_reason(gpu)),
        "context": {runtime: _range_object(context_bytes(gpu, runtime), context_reason(gpu, runtime)) for runtime in RUNTIMES},
        "evidence": {
            name: Evidence.CATALOGUE.value for name, value in columns.items() if value is not None and name != "source"
        },
        "sources": list(_sources(gpu)),
    }


def _range_object(size: Range, reason: str) -> dict[str, Any]:
    return {**_flat("", size), "evidence": size.evidence.value, "reason": reason}


def _flat(name: str, size: Range) -> dict[str, int]:
    sizes = {"low_bytes": size.low_bytes, "nominal_bytes": size.nominal_bytes, "high_bytes": size.high_bytes}
    return {f"{name}_{key}".strip("_"): value for key, value in sizes.items()}


def _columns(gpu: Gpu) -> dict[str, Any]:
    return {column.name: getattr(gpu, column.name) for column in fields(gpu)}


def _sources(gpu: Gpu) -> Iterator[str]:
    return (part.strip() for part in gpu.source.split(" | "))


def _known(value: str | int | None) -> str:
    return "?" if value is None else str(value)


def _three_digits(number: float) -> str:
    """``0.03``, ``5.97``, ``65``, ``990``: three digits are all that a rate of the catalogue is worth."""
    decimals = max(0, min(2, 2 - math.floor(math.log10(number))))
    return f"{number:.{decimals}f}"
