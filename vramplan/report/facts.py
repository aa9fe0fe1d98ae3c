"""The lines around the tables: which model and card, how the parts are known, what stays wide, what idles, the notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vramplan.gpus import Gpu, usable_bytes
from vramplan.ranges import Evidence, weakest
from vramplan.report.budget_table import DOUBTFUL, OVER, fit_mark, units_of
from vramplan.report.words import count_text, listed, printable, shape_text, shorten
from vramplan.result import Estimate
from vramplan.units import format_bytes
from vramplan.verdict import Verdict, cell_name, is_custom

SHOWN_INPUTS = 3
SHOWN_KEPT = 3
SHOWN_PROFILES = 4


def headline(cells: Sequence[Estimate]) -> tuple[str, ...]:
    """Model, parameters, inputs, runtime and card: the pieces of the first line."""
    model = cells[0].model
    shapes = [f"{shorten(item.name, 24)} {shape_text(_common_shape(cells, index))}" for index, item in enumerate(model.inputs)]
    runtimes = ", ".join(dict.fromkeys(cell.runtime for cell in cells))
    return (
        shorten(model.name, 60),
        *(() if model.parameters is None else (f"{count_text(model.parameters)} parameters",)),
        listed(shapes, SHOWN_INPUTS) or "no inputs",
        runtimes,
        _card(cells[0].gpu),
    )


def footnotes(cells: Sequence[Estimate], verdict: Verdict, more: Sequence[str] = ()) -> Iterator[str]:
    """What a reader of the table has to know, one sentence a line; *more* are notes that no single cell has."""
    yield evidence_line(cells)
    if len(units_of(cells)) > 1:
        yield "Totals of 1 GiB and more are in GiB, their parts too; the other rows are in MiB."
    yield from _legend(cells, verdict)
    yield from _profiles(cells)
    yield from _kept(cells)
    yield from notes(cells)
    yield from (f"note: {printable(note)}" for note in more)


def evidence_line(cells: Sequence[Estimate]) -> str:
    """``exact: inputs, outputs · bounded: weights, …``: each part by the weakest evidence among the cells."""
    groups: dict[Evidence, list[str]] = {}
    for name in cells[0].budget.parts:
        kind = weakest(cell.budget.parts[name].evidence for cell in cells)
        groups.setdefault(kind, []).append(name.replace("allocator_", ""))
    return " · ".join(f"{kind.value}: {', '.join(groups[kind])}" for kind in Evidence if kind in groups)


def notes(cells: Sequence[Estimate]) -> Iterator[str]:
    """Doubts about the result, each once."""
    for missing in dict.fromkeys(cell.coverage.unmodelled for cell in cells):
        if missing:
            ops = listed((printable(op) for op in missing), 6)
            count = cells[0].coverage.ops
            yield f"note: {ops} of {count} ops are not modelled: their results are counted, their scratch is not"
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        yield f"note: {printable(note)}"


def _common_shape(cells: Sequence[Estimate], index: int) -> tuple[int | str, ...] | None:
    """The shape of one input in all cells: an axis that differs has its declared name."""
    bindings = [cell.model.inputs[index] for cell in cells]
    shapes = [binding.shape for binding in bindings if binding.shape is not None]
    if len(shapes) < len(bindings):
        return None
    declared = bindings[0].dims or ()
    names = [dim if isinstance(dim, str) and dim else "N" for dim in declared] or ["N"] * len(shapes[0])
    return tuple(
        sizes[0] if len(set(sizes)) == 1 else printable(names[axis]) for axis, sizes in enumerate(zip(*shapes, strict=True))
    )


def _card(gpu: Gpu | None) -> str:
    if gpu is None:
        return "no GPU named"
    usable = usable_bytes(gpu)
    about = "" if usable.evidence is Evidence.CATALOGUE else "about "
    name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return name if is_custom(gpu) else f"{name}, {about}{format_bytes(usable.nominal_bytes)} usable"


def _legend(cells: Sequence[Estimate], verdict: Verdict) -> Iterator[str]:
    marks = {fit_mark(cell, verdict.limit_bytes) for cell in cells}
    meanings = {OVER: "does not fit", DOUBTFUL: "fits, but the high end of its range does not"}
    shown = [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks]
    if shown:
        yield " · ".join(shown)


def _profiles(cells: Sequence[Estimate]) -> Iterator[str]:
    profiled = [cell for cell in cells if cell.profile]
    for cell in profiled[:SHOWN_PROFILES]:
        if profile := cell.profile:
            shapes = ", ".join(f"{shorten(name, 24)} {shape_text(shape)}" for name, shape in profile.max_shapes.items())
            yield (
                f"profile, {cell_name(cell)}: the engine holds {format_bytes(profile.context_bytes)} for {shapes};"
                f" these shapes need {format_bytes(profile.needed_bytes)}, {_percent(profile.idle_ratio)} idles"
            )
    if len(profiled) > SHOWN_PROFILES:
        yield f"profile: {len(profiled) - SHOWN_PROFILES} more cells, in --json"


def _kept(cells: Sequence[Estimate]) -> Iterator[str]:
    """One line a precision, of its largest cell."""
    largest = {cell.precision: cell for cell in sorted(cells, key=lambda cell: cell.total_bytes)}
    for precision in dict.fromkeys(cell.precision for cell in cells):
        cell = largest[precision]
        if cell.kept:
            count, size_bytes = sum(row.tensor_count for row in cell.kept), sum(row.size_bytes for row in cell.kept)
            first = [f"{row.tensor_count} of {printable(row.op)} ({row.reason})" for row in cell.kept]
            yield f"kept wider in {cell_name(cell)}: {count} tensors, {format_bytes(size_bytes)}: {listed(first, SHOWN_KEPT)}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"
