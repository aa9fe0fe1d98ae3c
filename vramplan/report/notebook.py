"""Results in a notebook: the tables of the terminal in HTML that takes the colours of the page it stands in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from vramplan.comparing import Checked, Comparison, Diff
from vramplan.device.measurement import Measurement
from vramplan.fleet import StreamsPlan
from vramplan.gpus import Catalogue, Gpu
from vramplan.max_batch import MaxBatch
from vramplan.replaying import Replay
from vramplan.report.budget_table import budget_grid
from vramplan.report.cards import cards_grid, facts_grid
from vramplan.report.diff_text import diff_lines, pair_grids, pair_title
from vramplan.report.facts import evidence_line, headline, notes
from vramplan.report.grid import Grid
from vramplan.report.lock_text import check_lines, findings_grid
from vramplan.report.measured_text import cell_facts, max_batch_lines, measurement_lines, phase_grid, tries_grid
from vramplan.report.replaying import counters_section
from vramplan.report.streams_terminal import verdict_lines
from vramplan.report.streams_words import cards_grid as plans_grid
from vramplan.report.streams_words import headline as streams_headline
from vramplan.report.streams_words import limits_grid
from vramplan.report.terminal import SEPARATOR
from vramplan.report.verified_text import part_grid, verification_lines
from vramplan.result import Estimate
from vramplan.sweep import Sweep
from vramplan.verification import Verification

Piece = str | Grid
"""A line of text, or a table."""

_CELL = "padding:0.15em 0.6em;border:0;white-space:nowrap;background:none"


def html_of(result: object) -> str:
    """*result* as one ``div``: no style sheet, no script, nothing from elsewhere; text is escaped."""
    title, *pieces = _pieces(result)
    body = "".join(_table(piece) if isinstance(piece, Grid) else _line(piece) for piece in pieces if piece)
    return f'<div class="vramplan"><p style="margin:0.3em 0"><strong>{escape(str(title))}</strong></p>{body}</div>'


def _line(text: str) -> str:
    return f'<p style="margin:0.3em 0">{escape(text.strip())}</p>'


def _table(grid: Grid) -> str:
    sides = ["left" if header in grid.words else "right" for header in grid.headers]
    head = _row("th", grid.headers, sides, "border-bottom:1px solid currentColor")
    body = "".join(_row("td", row, sides, "font-variant-numeric:tabular-nums") for row in grid.rows)
    return f'<table style="border-collapse:collapse;margin:0.3em 0"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _row(tag: str, cells: Iterable[str], sides: Iterable[str], style: str) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    shown = (
        f'<{tag}{scope} style="{_CELL};{style};text-align:{side}">{escape(cell)}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def _pieces(result: object) -> Iterator[Piece]:
    """Its title, then its tables and lines."""
    match result:
        case Estimate():
            yield from _estimated((result,))
        case Sweep():
            yield from _estimated(result.cells)
        case StreamsPlan():
            yield SEPARATOR.join(streams_headline(result))
            yield limits_grid(result.card) if len(result.cards) == 1 else plans_grid(result)
            yield from verdict_lines(result)
        case Comparison():
            yield from _compared(Diff(pairs=(result,)))
        case Diff():
            yield from _compared(result)
        case Checked():
            yield result.path
            yield findings_grid(result.findings)
            yield from check_lines(result)
        case Gpu():
            yield f"{result.name} ({result.key})"
            yield facts_grid(result)
        case Catalogue():
            yield f"{len(result)} cards"
            yield cards_grid(result)
        case _:
            yield from _measured(result)


def _estimated(cells: tuple[Estimate, ...]) -> Iterator[Piece]:
    yield SEPARATOR.join(headline(cells))
    yield budget_grid(cells, None)
    yield evidence_line(cells)
    yield from notes(cells)


def _compared(diff: Diff) -> Iterator[Piece]:
    yield " and ".join(pair_title(pair) for pair in diff.pairs[:1]) or "No budgets"
    for pair in diff.pairs:
        for title, grid in pair_grids(pair):
            yield title
            yield grid
    yield from diff_lines(diff)


def _measured(result: object) -> Iterator[Piece]:
    match result:
        case Measurement():
            yield SEPARATOR.join(cell_facts(result))
            yield phase_grid(result)
            yield from measurement_lines(result)
        case Verification():
            yield SEPARATOR.join(cell_facts(result.measurement))
            yield part_grid(result.rows)
            yield part_grid(result.peaks, first="peak")
            yield from verification_lines(result)
        case MaxBatch():
            yield "The largest batch"
            yield tries_grid(result)
            yield from max_batch_lines(result)
        case Replay():
            yield from _estimated((result.estimate,))
            section = counters_section(result)
            yield section.title
            yield section.grid or ""
            yield section.sentence
        case _:
            raise TypeError(f"{type(result).__name__} has no tables")
