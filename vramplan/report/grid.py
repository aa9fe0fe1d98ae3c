"""A table as text, before anything draws it: the terminal and Markdown print the same cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from vramplan.report.words import columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Headers and rows of text; the columns called in ``words`` are aligned left, the others, numbers, right.

    Invariant: every row has as many cells as there are headers.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.headers) for row in self.rows):
            raise ValueError(f"rows of {sorted({len(row) for row in self.rows})} cells under {len(self.headers)} headers")

    @property
    def widths(self) -> tuple[int, ...]:
        """The characters each column needs."""
        return tuple(max(map(columns, column)) for column in zip(self.headers, *self.rows, strict=True))

    def width(self, gap: int) -> int:
        """The characters of a line with *gap* blanks between columns."""
        return sum(self.widths) + gap * (len(self.headers) - 1)


def stack(grid: Grid, width: int, gap: int) -> Iterator[Grid]:
    """*grid* turned on its side, as many rows beside each other as fit into *width*: for narrow terminals."""
    label_width = max(map(columns, grid.headers))
    cell_width = max(map(columns, chain.from_iterable(grid.rows)), default=0) + gap
    beside = max(1, (width - label_width) // cell_width)
    for start in range(0, len(grid.rows), beside):
        yield _on_its_side(grid.headers, grid.rows[start : start + beside])


def _on_its_side(headers: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Grid:
    first, *others = zip(headers, *rows, strict=True)
    return Grid(headers=first, rows=tuple(others), words=frozenset(headers[:1]))
