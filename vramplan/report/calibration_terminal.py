"""Calibrations for a person, a table each, and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vramplan.device.probe import GpuProcess
from vramplan.gpus.calibration import Calibration, calibration_content
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import to_json
from vramplan.report.grid import Grid
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes

NOT_MEASURED = "not measured"
NAME_WIDTH = 40

Stored = tuple[Path, Calibration]

_PCIE = {
    "to_gpu_pinned_gb_s": "PCIe to the GPU, pinned memory",
    "to_gpu_pageable_gb_s": "PCIe to the GPU, pageable memory",
    "from_gpu_pinned_gb_s": "PCIe from the GPU, pinned memory",
}


def calibrations_text(
    stored: Sequence[Stored], *, others: Sequence[GpuProcess] = (), width: int = MAX_WIDTH, colour: bool = False
) -> str:
    """Each calibration of *stored* as a table; *others* are processes that held memory of the card meanwhile."""
    canvas = Canvas(width=width, colour=colour)
    for index, (path, calibration) in enumerate(stored):
        if index:
            canvas.blank()
        _draw(canvas, path, calibration)
    for line in disturbers(others):
        canvas.line(line, style="yellow")
    return canvas.text()


def calibrations_json(stored: Sequence[Stored]) -> str:
    """``calibrations[]``: each with ``path`` and all that its file has."""
    return to_json({"calibrations": [{"path": str(path), **calibration_content(each)} for path, each in stored]})


def measured_json(path: Path, calibration: Calibration, others: Sequence[GpuProcess]) -> str:
    """``path``, ``calibration`` and ``processes[]``, which held memory of the card meanwhile."""
    processes = [{"pid": each.pid, "name": printable(each.name), "used_bytes": each.used_bytes} for each in others]
    return to_json({"path": str(path), "calibration": calibration_content(calibration), "processes": processes})


def disturbers(others: Sequence[GpuProcess]) -> Iterator[str]:
    """Who else held memory of the card: what that does to the numbers."""
    for other in others:
        held = "memory that the driver does not tell" if other.used_bytes is None else format_bytes(other.used_bytes)
        yield f"note: {shorten(other.name, NAME_WIDTH) or 'a process'} ({other.pid}) held {held}, which is subtracted"


def calibration_grid(calibration: Calibration) -> Grid:
    """What was measured and what it came to."""
    return Grid(headers=("what", "measured"), rows=tuple(_rows(calibration)), words=frozenset({"what"}))


def _draw(canvas: Canvas, path: Path, calibration: Calibration) -> None:
    canvas.line(
        f"{printable(calibration.gpu.name)} ({calibration.gpu.key}) · driver {calibration.driver} · torch {calibration.torch}"
        f" · {calibration.date}",
        style="bold",
    )
    canvas.blank()
    canvas.table(calibration_grid(calibration))
    canvas.blank()
    if calibration.disturbed:
        canvas.line("note: other programs used the card: estimates take the context from it, and no rates", style="yellow")
    for note in calibration.notes:
        canvas.line(f"note: {printable(note)}", style="yellow")
    canvas.line(f"file: {printable(str(path))}", style="dim")


def _rows(calibration: Calibration) -> Iterator[tuple[str, str]]:
    for reading in calibration.context:
        yield f"context, {reading.runtime}, {reading.stage.replace('_', ' ')}", format_bytes(reading.context_bytes)
    yield "cuBLAS workspace", _maybe(calibration.cublas_workspace_bytes)
    for dtype, tflops in calibration.compute.items():
        yield f"matrix product, {dtype}", f"{tflops:,.1f}e12 op/s"
    yield "memory, a large copy", _speed(calibration.memory_bandwidth_gb_s)
    for name, label in _PCIE.items():
        yield label, _speed(getattr(calibration.pcie, name))
    for row in calibration.decode:
        sessions = f"{row.sessions} session{'s' * (row.sessions > 1)}"
        held = "" if row.session_bytes is None else f", {format_bytes(row.session_bytes)} a session"
        yield f"decode, {row.codec} {row.width}×{row.height}, {sessions}", f"{row.fps:,.0f} fps{held}"
    if not calibration.decode:
        yield "decode", NOT_MEASURED


def _maybe(size_bytes: int | None) -> str:
    return NOT_MEASURED if size_bytes is None else format_bytes(size_bytes)


def _speed(rate_gb_s: float | None) -> str:
    return NOT_MEASURED if rate_gb_s is None else f"{rate_gb_s:,.1f} GB/s"
