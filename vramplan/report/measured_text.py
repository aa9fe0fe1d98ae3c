"""A measurement for a person: phases, the steps of the context, how fast it ran, and one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from vramplan.device.measurement import Latency, Measurement, Outcome
from vramplan.max_batch import MaxBatch, Try
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import escaped, to_markdown
from vramplan.report.grid import Grid
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes

SEPARATOR = " · "

_LEGEND = (
    "requested: asked for · allocated: held by tensors, rounded · reserved: held from the driver (all three at their peak) ·"
    " process: what the card has less · context: process less reserved"
)
_WHERE = ("gpu", "driver", "torch", "cudnn", "date")


def measurement_text(found: Measurement, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The whole report as text."""
    canvas = Canvas(width=width, colour=colour)
    canvas.line(SEPARATOR.join(cell_facts(found)), style="bold")
    canvas.line(environment_line(found), style="dim")
    canvas.blank()
    if found.phases:
        canvas.table(phase_grid(found))
        canvas.blank()
        canvas.line(_LEGEND, style="dim")
    if found.steps:
        canvas.blank()
        canvas.table(step_grid(found))
    canvas.blank()
    for note in found.notes:
        canvas.line(f"note: {printable(note)}", style="yellow")
    for line in measurement_lines(found):
        canvas.line(line, style="bold green" if found.outcome is Outcome.FINISHED else "bold red")
    return canvas.text()


def measurement_markdown(found: Measurement) -> str:
    """The same as Markdown tables."""
    title = [SEPARATOR.join(cell_facts(found)), environment_line(found)]
    return markdown_page(title, [grid for grid in (phase_grid(found), step_grid(found)) if grid.rows], measurement_lines(found))


def markdown_page(title: Sequence[str], grids: Sequence[Grid], lines: Iterable[str]) -> str:
    """A page of tables between its title and what follows from them."""
    parts = [*map(escaped, title), *("\n".join(to_markdown(grid)) for grid in grids), *map(escaped, lines)]
    return "\n\n".join(parts) + "\n"


def measurement_lines(found: Measurement) -> Iterator[str]:
    """What it took and how fast it was, or how far it came."""
    total = format_bytes(found.total_bytes)
    if found.outcome is Outcome.OUT_OF_MEMORY:
        yield (
            f"Out of memory: it had taken {total} when no more was to be had; its allocator might reserve"
            f" {format_bytes(found.limit_bytes)}. {failure_text(found)}"
        )
        return
    if found.latency is not None:
        yield _latency_line(found.latency)
    yield f"It takes {total} of the card."


def failure_text(found: Measurement) -> str:
    """What the runtime said, without its advice."""
    return shorten(found.failure.partition(" GPU 0 has")[0], 200)


def cell_facts(found: Measurement) -> Sequence[str]:
    """Model, precision, batch, layout and runtime."""
    batch = () if found.batch is None else (f"batch {found.batch}",)
    name = shorten(found.model, 60)
    return name, found.precision, *batch, found.memory_format.replace("_", " "), found.runtime


def environment_line(found: Measurement) -> str:
    """Where it ran."""
    told = found.environment
    words = [told[key] if key == "gpu" else f"{key} {told[key]}" for key in _WHERE if told.get(key)]
    return "measured: " + printable(", ".join(words))


def phase_grid(found: Measurement) -> Grid:
    """One row a phase, at its end and at its peaks; counters that the runtime has not are left out."""
    rows = [
        (
            name.replace("_", " "),
            size(phase.requested_peak_bytes),
            size(phase.allocated_peak_bytes),
            size(phase.reserved_peak_bytes),
            size(phase.process_bytes),
            size(phase.context_bytes),
        )
        for name, phase in found.phases.items()
    ]
    headers = ("phase", "requested", "allocated", "reserved", "process", "context")
    is_known = [index == 0 or any(row[index] != UNKNOWN for row in rows) for index in range(len(headers))]
    cells = tuple(tuple(compress(row, is_known)) for row in rows)
    return Grid(headers=tuple(compress(headers, is_known)), rows=cells, words=frozenset({"phase"}))


UNKNOWN = "?"


def size(size_bytes: int | None) -> str:
    """Bytes as text, ``?`` for what was not measured."""
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def step_grid(found: Measurement) -> Grid:
    """How the context grew, step by step."""
    rows, before = [], 0
    for step in found.steps:
        rows.append(
            (
                step.name.replace("_", " "),
                format_bytes(step.context_bytes),
                f"+{format_bytes(step.context_bytes - before)}",
                shorten(step.where, 40),
            )
        )
        before = step.context_bytes
    return Grid(headers=("context after", "bytes", "adds", "in"), rows=tuple(rows), words=frozenset({"context after", "in"}))


def max_batch_text(found: MaxBatch, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The tries of the search, and the answer beside the estimate's."""
    canvas = Canvas(width=width, colour=colour)
    canvas.table(tries_grid(found))
    canvas.blank()
    for line in max_batch_lines(found):
        canvas.line(line, style="bold")
    return canvas.text()


def max_batch_markdown(found: MaxBatch) -> str:
    """The same as a Markdown table."""
    return markdown_page([], [tries_grid(found)], max_batch_lines(found))


def max_batch_lines(found: MaxBatch) -> Iterator[str]:
    """The largest batch that ran, the smallest that did not, and what the estimate said."""
    limit = format_bytes(found.limit_bytes)
    if found.largest_batch is None:
        yield f"No batch ran within {limit}; the estimate said {found.estimated_batch or 'none'}."
        return
    beyond = f"; {found.failed_batch} ran out of memory" if found.failed_batch else ""
    yield f"Batch {found.largest_batch} is the largest that ran within {limit}{beyond}."
    squeezed = any(attempt.retry_count and attempt.batch == found.largest_batch for attempt in found.tries)
    why = ": beyond it the allocator has to give cached memory back, which the estimate does not count on" if squeezed else ""
    yield f"The estimate said {found.estimated_batch or 'none'}{why}."


def tries_grid(found: MaxBatch) -> Grid:
    """One row a try, in their order."""
    rows = [
        (
            str(attempt.batch),
            format_bytes(attempt.estimated_bytes),
            format_bytes(attempt.measured_bytes),
            _try_text(attempt),
        )
        for attempt in found.tries
    ]
    return Grid(headers=("batch", "estimated", "measured", ""), rows=tuple(rows), words=frozenset({""}))


def _try_text(attempt: Try) -> str:
    if not attempt.is_finished:
        return "out of memory"
    return f"ran, {attempt.retry_count} times out of cached memory" if attempt.retry_count else "ran"


def _latency_line(latency: Latency) -> str:
    spread = f"median of {latency.run_count}, {latency.low_ms:.2f} to {latency.high_ms:.2f}"
    return f"{latency.median_ms:.2f} ms a forward ({spread}): {latency.throughput_per_s:,.0f} items a second, eagerly."
