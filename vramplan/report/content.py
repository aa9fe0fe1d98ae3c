"""What one report is about: the cells, the verdict on them, and which sections are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.result import Estimate
from vramplan.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a renderer needs; ``top`` limits the rows of the peak and of the layers (None: the default).

    Invariant: there is at least one cell, all of one model.
    """

    cells: Sequence[Estimate]
    verdict: Verdict
    shows_peak: bool = False
    shows_layers: bool = False
    top: int | None = None

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("a report without cells")
