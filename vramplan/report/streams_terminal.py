"""The streams report a person reads: a bar for each limit, what was assumed, one sentence and what to try."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.fleet import StreamsPlan
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.streams_words import (
    assumption_lines,
    cards_grid,
    headline,
    limits_grid,
    memory_line,
    notes,
    sentence,
    source_lines,
)
from vramplan.report.terminal import SEPARATOR


def streams_text(plan: StreamsPlan, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The whole report as text: one card with its limits, or several in one table."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(SEPARATOR.join(headline(plan)), style="bold")
    canvas.blank()
    if len(plan.cards) == 1:
        _draw_card(canvas, plan)
    else:
        _draw_cards(canvas, plan)
    canvas.blank()
    for line in assumption_lines(plan.card):
        canvas.line(line, style="dim")
    canvas.blank()
    for index, line in enumerate(verdict_lines(plan)):
        canvas.line(line, style=_style(plan) if index == 0 else "")
    return canvas.text()


def verdict_lines(plan: StreamsPlan) -> Iterator[str]:
    """The sentence that ends every run, and what to try."""
    yield sentence(plan)
    for attempt in plan.tries:
        yield f"  try {attempt.text}"


def _draw_card(canvas: Canvas, plan: StreamsPlan) -> None:
    canvas.table(limits_grid(plan.card))
    canvas.blank()
    canvas.line(memory_line(plan.card))
    for line in notes(plan.card):
        canvas.line(line, style="yellow")
    for line in source_lines(plan.card):
        canvas.line(line, style="dim")


def _draw_cards(canvas: Canvas, plan: StreamsPlan) -> None:
    canvas.table(cards_grid(plan))
    if any(card.unknown or card.missing for card in plan.cards):
        canvas.blank()
        canvas.line("?: a limit is not known · `vramplan streams --gpu NAME` says which facts are missing", style="dim")


def _style(plan: StreamsPlan) -> str:
    if plan.fits is None:
        return "bold"
    return "bold green" if plan.fits else "bold red"
