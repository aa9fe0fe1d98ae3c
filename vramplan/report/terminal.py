"""The report a person reads: tables that fit the terminal, then one sentence and what to try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vramplan.report.budget_table import budget_grid
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.content import Report
from vramplan.report.facts import footnotes, headline
from vramplan.report.grid import Grid
from vramplan.report.peak_table import kept_grid, layer_grid, layer_scale, peak_grid, peak_sentence, peak_title
from vramplan.report.sparkline import live_line
from vramplan.report.words import printable
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import Verdict, name_among

SEPARATOR = " · "


def estimate_text(report: Report, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The whole report as text, at most *width* columns wide, with ANSI colours only when *colour* is asked for."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(SEPARATOR.join(headline(report.cells)), style="bold")
    canvas.blank()
    canvas.table(budget_grid(report.cells, report.verdict.limit_bytes))
    if len(report.cells) == 1 and (alive := live_line(report.cells[0], canvas.width)):
        canvas.pieces(*zip(alive, ("dim", "yellow", "dim"), strict=True))
    canvas.blank()
    for line in footnotes(report.cells, report.verdict, report.notes):
        canvas.line(line, style="yellow" if line.startswith("note:") else "dim")
    for cell in report.cells:
        if report.shows_peak:
            _draw_peak(canvas, cell, name_among(report.cells, cell), report.top)
        if report.shows_layers:
            _draw_layers(canvas, cell, name_among(report.cells, cell), report.top)
    for section in report.sections:
        _draw_section(canvas, section.title, [section.grid] if section.grid else [])
        canvas.line(section.sentence, style="dim")
    canvas.blank()
    for index, line in enumerate(verdict_lines(report.verdict)):
        canvas.line(line, style="" if index else _verdict_style(report.verdict))
    return canvas.text()


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """The sentence that ends every run, and what to try."""
    yield printable(verdict.sentence)
    for attempt in verdict.tries:
        yield printable(f"  try {attempt.text}")


def _draw_peak(canvas: Canvas, cell: Estimate, name: str, top: int | None) -> None:
    _draw_section(canvas, f"Peak of {name}: {peak_title(cell)}", [peak_grid(cell, top, canvas.width)])
    canvas.line(peak_sentence(cell), style="dim")


def _draw_layers(canvas: Canvas, cell: Estimate, name: str, top: int | None) -> None:
    title = f"Layers of {name}, sizes in {layer_scale(cell).unit}"
    _draw_section(canvas, title, [layer_grid(cell, top, canvas.width)])
    if cell.kept:
        size = format_bytes(sum(row.size_bytes for row in cell.kept))
        _draw_section(canvas, f"Wider than {name}: {size}", [kept_grid(cell)])


def _draw_section(canvas: Canvas, title: str, grids: Iterable[Grid]) -> None:
    canvas.blank()
    canvas.line(title, style="bold")
    for grid in grids:
        canvas.table(grid)


def _verdict_style(verdict: Verdict) -> str:
    return {True: "bold green", False: "bold red", None: "bold"}[verdict.fits]
