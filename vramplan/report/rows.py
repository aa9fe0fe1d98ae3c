"""Results as flat rows: one dictionary a line of a CSV file or a data frame, sizes in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vramplan.report.words import shape_text
from vramplan.result import Estimate

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str | int | None]


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


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """*rows* as a data frame: whole numbers are ``Int64``, so that an unknown one stays unknown."""
    import pandas as pd  # noqa: PLC0415  slow to import

    frame = pd.DataFrame(list(rows))
    numbers = [column for column in frame.columns if column == "batch" or column.endswith(("_bytes", "_count", "_index"))]
    return frame.astype(dict.fromkeys(numbers, "Int64"))


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
