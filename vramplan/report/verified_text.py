"""Estimate and measurement side by side, for a person."""

from __future__ import annotations

from collections.abc import Iterator

from vramplan.alignment import Alignment, Difference
from vramplan.device.measurement import Outcome
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.grid import Grid
from vramplan.report.measured_text import SEPARATOR, cell_facts, environment_line, failure_text, markdown_page, size
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes
from vramplan.verification import PartRow, Verification

_NAMES = {"allocator_slack": "slack"}
_DIFFERENCES = 5


def verification_text(found: Verification, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The whole report as text."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(SEPARATOR.join(cell_facts(found.measurement)), style="bold")
    canvas.line(environment_line(found.measurement), style="dim")
    canvas.blank()
    canvas.table(part_grid(found.rows))
    canvas.blank()
    canvas.table(part_grid(found.peaks, first="peak"))
    canvas.blank()
    for line in peak_lines(found):
        canvas.line(line, style="dim")
    for alignment in found.alignments:
        canvas.line(alignment_line(alignment), style="dim")
    if (grid := difference_grid(found)).rows:
        canvas.blank()
        canvas.table(grid)
    canvas.blank()
    for note in dict.fromkeys((*found.estimate.notes, *found.measurement.notes)):
        canvas.line(f"note: {printable(note)}", style="yellow")
    for line in verification_lines(found):
        canvas.line(line, style="bold green" if found.within_tolerance else "bold red")
    return canvas.text()


def verification_markdown(found: Verification) -> str:
    """The same as Markdown tables."""
    title = [SEPARATOR.join(cell_facts(found.measurement)), environment_line(found.measurement)]
    grids = [part_grid(found.rows), part_grid(found.peaks, first="peak"), difference_grid(found)]
    return markdown_page(title, [grid for grid in grids if grid.rows], (*peak_lines(found), *verification_lines(found)))


def verification_lines(found: Verification) -> Iterator[str]:
    """The residual with its largest part, and whether it is within the tolerance."""
    total = found.total
    if found.measurement.outcome is Outcome.OUT_OF_MEMORY:
        limit = format_bytes(found.measurement.limit_bytes)
        yield (
            f"Out of memory: its allocator might reserve {limit}, and the process is estimated to take"
            f" {format_bytes(total.predicted_bytes)}. {failure_text(found.measurement)}"
        )
        return
    largest = found.largest
    named = f", most of it {part_name(largest.part)} ({signed(largest.error_bytes)})" if largest else ""
    verdict = "within" if found.within_tolerance else "beyond"
    yield (
        f"Predicted {format_bytes(total.predicted_bytes)}, measured {size(total.measured_bytes)}: residual"
        f" {signed(total.error_bytes)} ({percent(total.error_ratio)}){named}; {verdict} {found.tolerance_ratio * 100:g} %."
    )


def part_grid(rows: tuple[PartRow, ...], *, first: str = "part") -> Grid:
    """Predicted, measured, and the error in bytes and percent; the total is the last row."""
    cells = [
        (
            part_name(row.part),
            format_bytes(row.predicted_bytes),
            size(row.measured_bytes),
            signed(row.error_bytes),
            percent(row.error_ratio),
        )
        for row in rows
    ]
    return Grid(headers=(first, "predicted", "measured", "error", "error %"), rows=tuple(cells), words=frozenset({first}))


def peak_lines(found: Verification) -> Iterator[str]:
    """The op at either peak."""
    yield f"predicted peak in: {shorten(found.estimate.peak.op, 70)}"
    if found.replay is not None:
        yield f"measured peak in:  {shorten(found.replay.estimate.peak.op, 70)}"


def alignment_line(alignment: Alignment) -> str:
    """How many ops of a phase ask for the same bytes."""
    only = [
        f"{count} only {side}"
        for side, count in (("predicted", alignment.only_predicted_count), ("measured", alignment.only_measured_count))
        if count
    ]
    counts = [f"{alignment.equal_count} ops equal", f"{alignment.different_count} different", *only]
    first = "" if alignment.first is None else f"; first: {shorten(alignment.first.name, 60)}"
    return f"{alignment.phase.replace('_', ' ')}: {', '.join(counts)}{first}"


def difference_grid(found: Verification) -> Grid:
    """The largest differences of single ops in the run, the first run's before the loop's."""
    rows = [
        _difference_cells(alignment.phase, difference)
        for alignment in found.alignments
        for difference in alignment.largest[:_DIFFERENCES]
        if alignment.phase != "steady" or not rows_before(found, alignment)
    ]
    headers = ("phase", "op", "for", "predicted", "measured", "error")
    return Grid(headers=headers, rows=tuple(rows), words=frozenset(headers[:3]))


def rows_before(found: Verification, alignment: Alignment) -> bool:
    """Whether an earlier phase has differences: the loop repeats those of the first run."""
    earlier = found.alignments[: found.alignments.index(alignment)]
    return any(each.largest for each in earlier)


def _difference_cells(phase: str, difference: Difference) -> tuple[str, ...]:
    return (
        phase.replace("_", " "),
        shorten(difference.name, 36),
        difference.role,
        format_bytes(difference.predicted_bytes),
        format_bytes(difference.measured_bytes),
        signed(difference.error_bytes),
    )


def part_name(part: str) -> str:
    """A part or a peak in words: ``first run: allocated peak``."""
    return _NAMES.get(part, part).replace("_", " ").replace(".", ": ")


def signed(size_bytes: int | None) -> str:
    """An error in bytes, with its sign; ``?`` where there is none, ``0`` for nothing."""
    if size_bytes is None:
        return "?"
    return "0" if size_bytes == 0 else f"{'+' if size_bytes > 0 else '-'}{format_bytes(abs(size_bytes))}"


def percent(ratio: float | None) -> str:
    """A ratio in percent with its sign."""
    return "?" if ratio is None else f"{ratio * 100:+.2f} %" if ratio else "0 %"
