"""Results as flat rows: one dictionary a line of a CSV file or a data frame, sizes in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vramplan.report.words import shape_text
from vramplan.result import Estimate

Row = dict[str, str | int | float | None]


def estimate_rows(cells: Iterable[Estimate]) -> list[Row]:
    """One row a cell."""
    return [_estimate_row(cell) for cell in cells]


def live_rows(cells: Iterable[Estimate]) -> list[Row]:
    """One row for each buffer alive at the peak of each cell, largest first."""
    return [
        {
            **_key(cell),
            "op": cell.peak.op,
            "name": item.name,
            "role": item.role,
            "size_bytes": item.size_bytes,
            "until": item.until,
        }
        for cell in cells
        for item in cell.peak.live
    ]


def layer_rows(cells: Iterable[Estimate]) -> list[Row]:
    """One row for each layer of each cell, in execution order."""
    return [row for cell in cells for row in _layer_rows(cell)]


def part_rows_of(cells: Iterable[Estimate]) -> list[Row]:
    """One row for each part of each cell."""
    return [
        {
            **_key(cell),
            "part": name,
            "low_bytes": part.low_bytes,
            "nominal_bytes": part.nominal_bytes,
            "high_bytes": part.high_bytes,
            "evidence": part.evidence.value,
        }
        for cell in cells
        for name, part in cell.budget.parts.items()
    ]


def _key(cell: Estimate) -> Row:
    return {
        "model": cell.model.name,
        "runtime": cell.runtime,
        "precision": cell.precision,
        "batch": cell.batch,
        "memory_format": cell.memory_format,
        "gpu": cell.gpu.key if cell.gpu else None,
    }


def _estimate_row(cell: Estimate) -> Row:
    row = _key(cell)
    row.update({f"{name}_bytes": part.nominal_bytes for name, part in cell.budget.parts.items()})
    row.update(
        total_bytes=cell.total_bytes,
        total_low_bytes=cell.total_low_bytes,
        total_high_bytes=cell.total_high_bytes,
        total_evidence=cell.budget.total.evidence.value,
        lower_bound_bytes=cell.lower_bound_bytes,
        sum_of_outputs_bytes=cell.sum_of_outputs_bytes,
        peak_op=cell.peak.op,
        peak_index=cell.peak.index,
        unmodelled=" ".join(cell.coverage.unmodelled),
    )
    for name, phase in cell.phases.items():
        row[f"{name}_allocated_peak_bytes"] = phase.allocated_peak_bytes
        row[f"{name}_reserved_peak_bytes"] = phase.reserved_peak_bytes
        if phase.process_bytes is not None:
            row[f"{name}_process_bytes"] = phase.process_bytes
    return row


def _layer_rows(cell: Estimate) -> Iterator[Row]:
    for index, layer in enumerate(cell.layers, start=1):
        yield {
            **_key(cell),
            "layer_index": index,
            "name": layer.name,
            "kind": layer.kind,
            "ops": " ".join(layer.ops),
            "dtype": layer.dtype,
            "output_shape": shape_text(layer.output_shape),
            "output_bytes": layer.output_bytes,
            "weights_bytes": layer.weights_bytes,
            "workspace_bytes": layer.workspace_bytes,
            "live_bytes": layer.live_bytes,
            "remedy": layer.remedy,
        }
