"""Where the bytes of a process go, line by line, for runtimes that can tell: ``--explain``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vramplan.report.content import Section
from vramplan.report.grid import Grid
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import cell_name


def account_sections(cells: Iterable[Estimate]) -> Iterator[Section]:
    """One table for each cell that has an account: bytes, and their share of the process."""
    for cell in cells:
        if cell.account:
            yield Section(
                title=f"Where the bytes go, {cell.runtime}, {cell_name(cell)}", grid=_grid(cell), sentence=_sentence(cell)
            )


def _grid(cell: Estimate) -> Grid:
    rows = [(name, format_bytes(size), f"{100 * size / cell.total_bytes:.0f} %") for name, size in cell.account]
    rows.append(("process", format_bytes(cell.total_bytes), "100 %"))
    return Grid(headers=("what", "size", "share"), rows=tuple(rows), words=frozenset({"what"}))


def _sentence(cell: Estimate) -> str:
    steps = [f"{name} {format_bytes(phase.process_bytes)}" for name, phase in cell.phases.items() if phase.process_bytes]
    return f"The process after each phase: {', '.join(steps)}." if steps else ""
