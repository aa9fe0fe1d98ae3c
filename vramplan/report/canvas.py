"""A page of text for a terminal: lines that wrap between words, tables that turn on their side, colours where wanted.

A terminal obeys escape sequences, and text comes from model files: nothing passes here that is not printable.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from vramplan.report.grid import Grid, stack
from vramplan.report.words import padded, printable

MAX_WIDTH, MIN_WIDTH = 100, 40
COLUMN_STYLES = {"total": "bold", "low–high": "dim"}
ROW_STYLES = {"sum": "bold"}

_NO_BREAK = "\N{NO-BREAK SPACE}"
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[KMG]iB|B\b|M\b|%)")

Pieces = Sequence[tuple[str, str]]
"""One line: pieces of text, each with the name of its style."""


StyleOf = Callable[[int, str], str]
"""The style of a cell by its row and its header; nothing where it has none of its own."""


@dataclass(slots=True)
class Canvas:
    """Grows line by line, no wider than the terminal."""

    width: int
    colour: bool = False
    _lines: list[Pieces] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.width = max(MIN_WIDTH, min(self.width, MAX_WIDTH))

    def line(self, text: str, *, style: str = "") -> None:
        """One line; where it is too long it goes on below, indented, and no number is parted from its unit."""
        indent = " " * (len(text) - len(text.lstrip()) + 2)
        glued = _BEFORE_UNIT.sub(_NO_BREAK, printable(text))
        for part in textwrap.wrap(glued, self.width, subsequent_indent=indent, break_on_hyphens=False):
            self._lines.append([(part.replace(_NO_BREAK, " "), style)])

    def pieces(self, *pieces: tuple[str, str]) -> None:
        """One line of several styles; whoever draws it sees to its width."""
        self._lines.append([(printable(text), style) for text, style in pieces])

    def blank(self) -> None:
        """An empty line."""
        self._lines.append([])

    def table(self, grid: Grid, style_of: StyleOf | None = None) -> None:
        """*grid* with two blanks between columns, with one, or on its side: what fits first.

        *style_of* says the style of single cells; on its side a table has none.
        """
        gap = next((gap for gap in (2, 1) if grid.width(gap) <= self.width), 0)
        if gap:
            self._lines.extend(_draw(grid, gap, style_of))
            return
        for index, part in enumerate(stack(grid, self.width, gap=2)):
            if index:
                self.blank()
            self._lines.extend(_draw(part, 2))

    def text(self) -> str:
        """All of it, without blanks at the ends of lines."""
        if self.colour:
            return _coloured(self._lines)
        return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in self._lines)


def _draw(grid: Grid, gap: int, style_of: StyleOf | None = None) -> Iterable[Pieces]:
    """The lines of a table: headers, a rule, rows."""
    widths = grid.widths
    sides = [header in grid.words for header in grid.headers]
    styles = [COLUMN_STYLES.get(header, "") for header in grid.headers]

    def line(cells: Sequence[str], style: str | None, place: int | None = None) -> Pieces:
        texts = (padded(printable(cell), width, left=side) for cell, width, side in zip(cells, widths, sides, strict=True))
        blanks = ("" if index == 0 else " " * gap for index in range(len(widths)))
        chosen = [own if style is None else style for own in styles]
        if style_of is not None and place is not None:
            chosen = [style_of(place, header) or own for header, own in zip(grid.headers, chosen, strict=True)]
        return [(blank + text, own) for blank, text, own in zip(blanks, texts, chosen, strict=True)]

    yield line(grid.headers, "")
    yield [("─" * grid.width(gap), "")]
    for place, row in enumerate(grid.rows):
        yield line(row, ROW_STYLES.get(row[0]), place)


def _coloured(lines: Iterable[Pieces]) -> str:
    from rich.console import Console  # noqa: PLC0415  only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", no_color=False, legacy_windows=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)
    return out.getvalue()
