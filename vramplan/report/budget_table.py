"""The table of an estimate: one row a cell, its parts, their total, and the range where it is not exact."""

from __future__ import annotations

from collections.abc import Sequence

from vramplan.budget import PARTS
from vramplan.report.grid import Grid
from vramplan.report.rounding import add_up, scale_for
from vramplan.result import Estimate

PART_HEADERS = tuple({"allocator_slack": "slack"}.get(part, part) for part in PARTS)
STEADY = frozenset(PARTS.index(part) for part in ("weights", "inputs", "outputs", "context"))
"""Parts that a reader knows from shapes, or sees again in the next row."""

OVER, DOUBTFUL = "✗", "~"
"""Marks of a row whose total is over the limit, and of one whose high end is."""


def budget_grid(cells: Sequence[Estimate], limit_bytes: int | None) -> Grid:
    """One row a cell, each in the unit of its total (see `vramplan.report.rounding`); marked against *limit_bytes*."""
    headers = ("precision", "batch", *PART_HEADERS, "total")
    rows = [_row(cell) for cell in cells]
    if len({cell.runtime for cell in cells}) > 1:
        headers, rows = ("runtime", *headers), [(cell.runtime, *row) for cell, row in zip(cells, rows, strict=True)]
    ranges = [_range(cell) for cell in cells]
    marks = [fit_mark(cell, limit_bytes) for cell in cells]
    if any(ranges):
        headers, rows = (*headers, "low–high"), [(*row, text) for row, text in zip(rows, ranges, strict=True)]
    if any(marks):
        headers, rows = (*headers, ""), [(*row, mark) for row, mark in zip(rows, marks, strict=True)]
    return Grid(headers=headers, rows=tuple(rows), words=frozenset({"runtime", "precision"}))


def fit_mark(cell: Estimate, limit_bytes: int | None) -> str:
    """Nothing for a cell that fits, or where there is no limit."""
    if limit_bytes is None or cell.total_high_bytes <= limit_bytes:
        return ""
    return OVER if cell.total_bytes > limit_bytes else DOUBTFUL


def units_of(cells: Sequence[Estimate]) -> tuple[str, ...]:
    """The units that the rows are printed in."""
    return tuple(sorted({scale_for(cell.total_bytes).unit for cell in cells}, reverse=True))


def _row(cell: Estimate) -> tuple[str, ...]:
    scale = scale_for(cell.total_bytes)
    parts = add_up([part.nominal_bytes for part in cell.budget.parts.values()], scale, steady=STEADY)
    return (cell.precision, "" if cell.batch is None else str(cell.batch), *parts, scale.text(cell.total_bytes))


def _range(cell: Estimate) -> str:
    if cell.total_low_bytes == cell.total_high_bytes:
        return ""
    scale = scale_for(cell.total_bytes)
    return f"{scale.number(cell.total_low_bytes)}–{scale.number(cell.total_high_bytes)}"
