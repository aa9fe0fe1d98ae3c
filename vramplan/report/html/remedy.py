"""The change that helps most: of the changes that were solved again, and of the other rows of the same report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vramplan.report.content import Report
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import Try

OTHERS_COUNT = 3

_OTHER_INPUT = ("--dim ", "--shape ")
"""Changes that make the model see less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to type, and what it leads to in words and in bytes."""

    flags: str
    text: str
    total_bytes: int
    how: str = "solved again with it"

    @classmethod
    def of(cls, attempt: Try) -> Remedy:
        """A change that was solved again."""
        return cls(flags=attempt.flags, text=_without(attempt.text, attempt.flags), total_bytes=attempt.total_bytes)

    @property
    def content(self) -> dict[str, str]:
        """As the page has it."""
        return {"flags": self.flags, "text": self.text}


def _without(text: str, flags: str) -> str:
    return text.removeprefix(flags).removeprefix(": ").strip()


def remedy_content(report: Report, focus: int) -> dict[str, Any]:
    """``remedy``: the best change for the row *focus*, null where none saves memory; ``others``: what else was solved."""
    cell, limit = report.cells[focus], report.verdict.limit_bytes
    tries = [Remedy.of(attempt) for attempt in report.verdict.tries]
    rows = list(_rows(report, cell))
    saving = [each for each in (*rows, *tries) if each.total_bytes < cell.total_bytes]
    best = min(saving, key=lambda each: _rank(each, cell.total_bytes, limit), default=None)
    others = [each.content for each in (*tries, *rows) if each is not best]
    told = None if best is None else {"flags": best.flags, "what": "", "text": f"{best.text}, {best.how}."}
    return {"remedy": told, "others": others[:OTHERS_COUNT]}


def _rank(each: Remedy, now_bytes: int, limit_bytes: int | None) -> tuple[bool, bool, float]:
    """What fits comes first, then what leaves the input as it is, then what takes least; a percent decides nothing."""
    is_over = limit_bytes is not None and each.total_bytes > limit_bytes
    return is_over, any(word in f"{each.flags} " for word in _OTHER_INPUT), round(each.total_bytes / now_bytes, 2)


def _rows(report: Report, cell: Estimate) -> Iterator[Remedy]:
    """Rows of the report that differ from *cell* in their precision or runtime, and take less."""
    for other in report.cells:
        changed = [f"--precision {other.precision}"] if other.precision != cell.precision else []
        changed += [f"--runtime {other.runtime}"] if other.runtime != cell.runtime else []
        if changed and other.batch == cell.batch and other.total_bytes < cell.total_bytes:
            percent = 100 * (other.total_bytes / cell.total_bytes - 1)
            text = f"{format_bytes(other.total_bytes)} ({percent:.0f} %)"
            yield Remedy(flags=" ".join(changed), text=text, total_bytes=other.total_bytes, how="a row of this page")
