"""The streams report a person reads: a bar for each limit, what was assumed, one sentence and what to try."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.capacity import CardPlan
from vramplan.fleet import StreamsPlan
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.streams_words import (
    LOAD_HEADER,
    assumption_lines,
    cards_grid,
    headline,
    limits_grid,
    load_ratio,
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
    canvas.table(limits_grid(plan.card), lambda row, header: load_style(plan.card, row, header))
    canvas.blank()
    canvas.line(memory_line(plan.card))
    for line in notes(plan.card):
        canvas.line(line, style="yellow")
    for line in source_lines(plan.card):
        canvas.line(line, style="dim")


TIGHT_RATIO = 0.8
"""A limit that is used more than this is about to end too."""


def load_style(card: CardPlan, row: int, header: str) -> str:
    """The bar of what ends first is red, of what would soon follow yellow, the others are green."""
    if not header.startswith(LOAD_HEADER) or row >= len(card.ranked):
        return ""
    if row == 0:
        return "red"
    return "yellow" if load_ratio(card, card.ranked[row]) > TIGHT_RATIO else "green"


def _draw_cards(canvas: Canvas, plan: StreamsPlan) -> None:
    canvas.table(cards_grid(plan))
    if any(card.unknown or card.missing for card in plan.cards):
        canvas.blank()
        canvas.line("?: a limit is not known · `vramplan streams --gpu NAME` says which facts are missing", style="dim")


def _style(plan: StreamsPlan) -> str:
    if plan.fits is None:
        return "bold"
    return "bold green" if plan.fits else "bold red"
