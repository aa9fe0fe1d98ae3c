"""Who is alive at the peak, and the layers one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from vramplan.report.grid import Grid
from vramplan.report.rounding import Scale, add_up, scale_for
from vramplan.report.words import printable, shape_text, shorten
from vramplan.result import Estimate, LiveBuffer
from vramplan.runtimes.plan import Layer
from vramplan.units import GIB, MIB, format_bytes

DEFAULT_TOP = 10
MIN_NAME_WIDTH = 12


def peak_title(cell: Estimate) -> str:
    """Where the peak is."""
    return f"while {printable(cell.peak.op)} runs, step {cell.peak.index} of {len(cell.program.ops) - 1}"


def peak_sentence(cell: Estimate) -> str:
    """Lower bound, achieved, overhead; and what it would be if nothing were ever freed."""
    if cell.runtime == "onnxruntime":
        return _arena_sentence(cell)
    if cell.runtime == "torch":
        achieved = max(phase.reserved_peak_bytes for phase in cell.phases.values())
        place = "In the caching allocator"
    else:
        achieved = cell.phases["context"].allocated_peak_bytes if "context" in cell.phases else cell.lower_bound_bytes
        place = "Between kernels"
    overhead = achieved / cell.lower_bound_bytes - 1 if cell.lower_bound_bytes else 0.0
    return (
        f"{place}: lower bound {format_bytes(cell.lower_bound_bytes)}, achieved {format_bytes(achieved)},"
        f" overhead {100 * overhead:.1f} %; all results without reuse: {format_bytes(cell.sum_of_outputs_bytes)}."
    )


def _arena_sentence(cell: Estimate) -> str:
    """An arena keeps what it ever took: what is alive in it at the peak, against all of it."""
    alive, arena = _sum(cell.peak.live), cell.phases["steady"].reserved_peak_bytes
    return (
        f"In the arena: {format_bytes(alive)} alive, {format_bytes(arena)} taken from the driver by then,"
        f" overhead {100 * (arena / alive - 1) if alive else 0:.1f} %;"
        f" all results without reuse: {format_bytes(cell.sum_of_outputs_bytes)}."
    )


def peak_grid(cell: Estimate, top: int | None, width: int) -> Grid:
    """The *top* buffers alive at the peak, largest first; the rest and the weights are a row each, so that it adds up."""
    buffers = [item for item in cell.peak.live if item.role != "weight"]
    weights = [item for item in cell.peak.live if item.role == "weight"]
    shown, rest = buffers[: top or DEFAULT_TOP], buffers[top or DEFAULT_TOP :]
    sizes = [item.size_bytes for item in shown] + [_sum(group) for group in (rest, weights) if group]
    scale = scale_for(sum(sizes))
    numbers = add_up(sizes, scale, steady={len(sizes) - 1} if weights else ())
    name_width = max(MIN_NAME_WIDTH, (width - 27) // 2)
    labels = [(shorten(item.name, name_width), item.role, shorten(item.until, name_width) or "the end") for item in shown]
    labels += [(f"… {len(rest)} more", "", "")] if rest else []
    labels += [(f"{len(weights)} weights", "weight", "the end")] if weights else []
    rows = [(name, role, number, until) for (name, role, until), number in zip(labels, numbers, strict=True)]
    rows.append(("sum", "", scale.text(sum(sizes)), ""))
    words = frozenset({"alive", "role", "until"})
    return Grid(headers=("alive", "role", "size", "until"), rows=tuple(rows), words=words)


def layer_scale(cell: Estimate) -> Scale:
    """The unit of all sizes in the table of layers."""
    largest = max((max(layer.output_bytes, layer.live_bytes) for layer in cell.layers), default=0)
    return Scale(unit="GiB", unit_bytes=GIB, decimals=4) if largest >= GIB else Scale(unit="MiB", unit_bytes=MIB, decimals=2)


def layer_grid(cell: Estimate, top: int | None, width: int) -> Grid:
    """Layers in execution order; with *top* those with the largest outputs, and one row for the rest.

    Columns of which nothing is known are left out; ``spared by`` is there when some workspace could be.
    """
    layers, scale = cell.layers, layer_scale(cell)
    order = range(len(layers)) if top is None else sorted(range(len(layers)), key=lambda index: -layers[index].output_bytes)
    body = [_layer_cells(layers[index], scale) for index in order[:top]]
    rest = [layers[index] for index in order[len(body) :]]
    if rest:
        sums = (sum(layer.output_bytes for layer in rest), sum(layer.weights_bytes for layer in rest))
        body.append((f"… {len(rest)} more", "", "", "", *map(scale.number, sums), "", "", ""))
    is_known = (
        True, True, any(layer.output_shape for layer in layers), any(layer.dtype for layer in layers), True,
        any(layer.weights_bytes for layer in layers), True, True, any(layer.remedy for layer in layers),
    )  # fmt: skip
    headers = tuple(compress(LAYER_HEADERS, is_known))
    body = [tuple(compress(row, is_known)) for row in body]
    others = Grid(headers=headers[1:], rows=tuple(row[1:] for row in body))
    name_width = max(MIN_NAME_WIDTH, width - others.width(gap=1) - 1)
    rows = tuple((shorten(row[0], name_width), *row[1:]) for row in body)
    return Grid(headers=headers, rows=rows, words=LAYER_WORDS)


LAYER_HEADERS = ("layer", "kind", "result", "type", "output", "weights", "workspace", "live", "spared by")
LAYER_WORDS = frozenset({*LAYER_HEADERS[:4], "spared by"})


def kept_grid(cell: Estimate) -> Grid:
    """Everything that the precision leaves in a wider type, largest first."""
    rows = tuple(
        (printable(row.op), str(row.dtype), str(row.tensor_count), format_bytes(row.size_bytes), row.reason)
        for row in cell.kept
    )
    return Grid(headers=("op", "type", "tensors", "size", "reason"), rows=rows, words=frozenset({"op", "type", "reason"}))


def _sum(buffers: Sequence[LiveBuffer]) -> int:
    return sum(item.size_bytes for item in buffers)


def _layer_cells(layer: Layer, scale: Scale) -> tuple[str, ...]:
    sizes = (layer.output_bytes, layer.weights_bytes, layer.workspace_bytes, layer.live_bytes)
    shape = shape_text(layer.output_shape)
    return (layer.name, layer.kind, shape, layer.dtype, *map(scale.number, sizes), layer.remedy)
