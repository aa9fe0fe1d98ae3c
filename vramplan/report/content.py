"""What one report is about: the cells, the verdict on them, which sections are asked for, and what a command adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.report.grid import Grid
from vramplan.result import Estimate
from vramplan.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled table before the verdict, and the sentence below it; without a table only the sentence."""

    title: str
    grid: Grid | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a renderer needs; ``top`` limits the rows of the peak and of the layers (None: the default).

    ``sections`` are what the command adds to an estimate, ``notes`` doubts that no single cell has.

    Invariant: there is at least one cell, all of one model.
    """

    cells: Sequence[Estimate]
    verdict: Verdict
    shows_peak: bool = False
    shows_layers: bool = False
    top: int | None = None
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("a report without cells")
