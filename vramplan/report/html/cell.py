"""One cell as the page shows it: numbers as printed, how far its bar reaches, what takes the peak, who is alive then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vramplan.budget import PARTS
from vramplan.program import Role
from vramplan.report.budget_table import STEADY, fit_mark
from vramplan.report.peak_table import peak_sentence
from vramplan.report.rounding import add_up, scale_for
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import cell_name

CAUSE_COUNT = 3

FAR_RATIO = 1.7
"""A limit this many times beyond the largest total is told in words: drawn, it would squeeze the bars."""

_EDGE = 1.01
"""A bar ends a little before the box does."""

_NOT_OF_THE_MODEL = frozenset({"context", "allocator_slack"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What all bars of a budget are measured against, in bytes; ``limit_bytes`` is None where there is no limit."""

    full_bytes: float
    limit_bytes: int | None
    is_limit_drawn: bool

    @classmethod
    def of(cls, cells: Sequence[Estimate], limit_bytes: int | None) -> Axis:
        """As long as the largest total, and as the limit where that is near."""
        most = max(1, *(cell.total_high_bytes for cell in cells))
        is_near = limit_bytes is not None and limit_bytes <= FAR_RATIO * most
        full = max(most, limit_bytes or 0) if is_near else most
        return cls(full_bytes=full * _EDGE, limit_bytes=limit_bytes, is_limit_drawn=is_near)

    def share(self, size_bytes: int) -> float:
        """How far *size_bytes* reach, 0 to 1."""
        return round(size_bytes / self.full_bytes, 6)

    def limit_content(self) -> dict[str, Any]:
        """Where the limit is drawn (None: it is not), and the sentence about it."""
        if self.limit_bytes is None:
            return {"share": None, "sentence": ""}
        size = format_bytes(self.limit_bytes)
        if self.is_limit_drawn:
            return {"share": self.share(self.limit_bytes), "sentence": f"Dashed line: the limit, {size}."}
        return {"share": None, "sentence": f"The limit, {size}, lies far to the right."}


def cell_content(cell: Estimate, cells: Sequence[Estimate], axis: Axis) -> dict[str, Any]:
    """*cell*, one of *cells*: ``parts`` are printed numbers that add up, ``bar`` their shares of the axis.

    ``cause.live`` and ``alive`` point into the peak's ``live`` of the report.
    """
    scale = scale_for(cell.total_bytes)
    sizes = {name: part.nominal_bytes for name, part in cell.budget.parts.items()}
    numbers = dict(zip(PARTS, add_up(list(sizes.values()), scale, steady=STEADY), strict=True))
    is_certain = cell.total_low_bytes == cell.total_high_bytes
    return {
        "name": cell_name(cell),
        "label": _label(cell, cells),
        "unit": scale.unit,
        "parts": numbers,
        "total": scale.number(cell.total_bytes),
        "range": "" if is_certain else f"{scale.number(cell.total_low_bytes)}–{scale.number(cell.total_high_bytes)}",
        "mark": fit_mark(cell, axis.limit_bytes),
        "bar": {name: axis.share(size) for name, size in sizes.items() if size},
        "bar_range": [axis.share(cell.total_low_bytes), axis.share(cell.total_high_bytes)],
        "last_op_index": len(cell.program.ops) - 1,
        "peak_sentence": peak_sentence(cell),
        "cause": _cause(cell, sizes, f" {scale.unit}", numbers),
        "alive": _alive(cell),
    }


def _label(cell: Estimate, cells: Sequence[Estimate]) -> str:
    """The cell's name, with the runtime where others have the same name."""
    name = cell_name(cell)
    return f"{name} · {cell.runtime}" if sum(cell_name(other) == name for other in cells) > 1 else name


def _cause(cell: Estimate, sizes: dict[str, int], unit: str, numbers: dict[str, str]) -> dict[str, Any]:
    """The largest part, and the largest buffers that are no weights."""
    part = max(sizes, key=sizes.__getitem__)
    own = max(sizes.keys() - _NOT_OF_THE_MODEL, key=lambda name: (sizes[name], -PARTS.index(name)))
    live = [index for index, item in enumerate(cell.peak.live) if item.role != Role.WEIGHT.value][:CAUSE_COUNT]
    text = f"{_percent(sizes[part], cell.total_bytes)} of the total"
    if own != part:
        text += f"; the model's own largest part: {own}, {numbers[own]}{unit}"
    if live:
        alive = sum(item.size_bytes for item in cell.peak.live)
        taken = sum(cell.peak.live[index].size_bytes for index in live)
        text += f". The largest buffers then, {_percent(taken, alive)} of all that is alive:"
    return {"part": part, "sentence": text if live else f"{text}.", "live": live}


def _alive(cell: Estimate) -> dict[str, Any]:
    """All that is alive at the peak, in bytes, and the weights as one row, if there are any."""
    weights = [item.size_bytes for item in cell.peak.live if item.role == Role.WEIGHT.value]
    row = {"name": f"{len(weights)} weights", "role": Role.WEIGHT.value, "size_bytes": sum(weights), "until": ""}
    return {
        "whole_bytes": sum(item.size_bytes for item in cell.peak.live),
        "weights": [{**row, "count": len(weights)}] if weights else [],
    }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"
