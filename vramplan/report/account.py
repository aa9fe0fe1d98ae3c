"""Where the bytes of a process go, line by line (``--explain``), and run by run where shapes change between runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vramplan.report.content import Section
from vramplan.report.grid import Grid
from vramplan.report.words import shape_text, shorten
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import cell_name

SHOWN = 12
"""Nodes on the CPU in a table."""


def account_sections(cells: Iterable[Estimate]) -> Iterator[Section]:
    """One table for each cell that has an account: bytes, and their share of the process."""
    for cell in cells:
        if cell.account:
            yield Section(
                title=f"Where the bytes go, {cell.runtime}, {cell_name(cell)}", grid=_grid(cell), sentence=_sentence(cell)
            )


def fallback_sections(cells: Iterable[Estimate]) -> Iterator[Section]:
    """One table for each cell with nodes on the CPU: what is copied for them at every run."""
    for cell in cells:
        if cell.fallbacks:
            names = ("node", "op", "to the CPU", "back to the GPU")
            rows = [
                (shorten(node.node, 40), node.op, _copied(node.to_cpu), _copied(node.to_gpu)) for node in cell.fallbacks[:SHOWN]
            ]
            more = len(cell.fallbacks) - len(rows)
            yield Section(
                title=f"On the CPU, {cell.runtime}, {cell_name(cell)}",
                grid=Grid(headers=names, rows=tuple(rows), words=frozenset(names[:2])),
                sentence=f"{more} more, in --json." if more else "What comes back has a buffer on the GPU.",
            )


def _copied(tensors: Sequence[tuple[str, int]]) -> str:
    """How many tensors, and their bytes."""
    return f"{len(tensors)}, {format_bytes(sum(size for _, size in tensors))}" if tensors else "–"


def run_sections(cells: Iterable[Estimate]) -> Iterator[Section]:
    """One table for each cell whose shapes change between runs: what is alive, what the arena holds, and the process."""
    for cell in cells:
        if cell.runs:
            yield Section(
                title=f"Run after run, {cell.runtime}, {cell.precision}",
                grid=_run_grid(cell),
                sentence=f"What an arena took it keeps; after more runs the process takes {format_bytes(cell.total_bytes)}.",
            )


def _run_grid(cell: Estimate) -> Grid:
    rows = []
    for number, run in enumerate(cell.runs, start=1):
        shapes = ", ".join(f"{shorten(name, 24)} {shape_text(shape)}" for name, shape in run.shapes.items())
        phase = run.phase
        sizes = (phase.allocated_peak_bytes, phase.reserved_peak_bytes, phase.process_bytes or 0)
        rows.append((str(number), shapes, *map(format_bytes, sizes)))
    return Grid(headers=("run", "shapes", "in use", "arena", "process"), rows=tuple(rows), words=frozenset({"shapes"}))


def _grid(cell: Estimate) -> Grid:
    rows = [(name, format_bytes(size), f"{100 * size / cell.total_bytes:.0f} %") for name, size in cell.account]
    rows.append(("process", format_bytes(cell.total_bytes), "100 %"))
    return Grid(headers=("what", "size", "share"), rows=tuple(rows), words=frozenset({"what"}))


def _sentence(cell: Estimate) -> str:
    steps = [f"{name} {format_bytes(phase.process_bytes)}" for name, phase in cell.phases.items() if phase.process_bytes]
    return f"The process after each phase: {', '.join(steps)}." if steps else ""
