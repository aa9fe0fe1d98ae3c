"""Every result as tidy tables: pandas data frames with units in the names of the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vramplan.capacity.assumptions import assumptions
from vramplan.comparing import Checked, Comparison, Diff
from vramplan.device.measurement import Measurement
from vramplan.errors import UsageError, close_matches
from vramplan.fleet import StreamsPlan
from vramplan.gpus import Catalogue, Gpu
from vramplan.max_batch import MaxBatch
from vramplan.replaying import Replay
from vramplan.report.cards import card_rows
from vramplan.report.measured_export import cell_of, measurement_rows, part_rows
from vramplan.report.rows import Row, estimate_rows, layer_rows, live_rows, part_rows_of
from vramplan.report.streams_words import streams_rows
from vramplan.result import Estimate
from vramplan.sweep import Sweep
from vramplan.verification import Verification

if TYPE_CHECKING:
    import pandas as pd

Tables = Mapping[str, Callable[[], Iterable[Row]]]

_WHOLE = ("_bytes", "_count", "_index", "_px")


def frame_of(result: object, table: str | None = None) -> pd.DataFrame:
    """The table called *table* of *result*, or its first. UsageError for a name that it has not."""
    tables = _tables(result)
    name = next(iter(tables)) if table is None else table
    if name not in tables:
        raise UsageError(f"no table is called {name[:80]!r}", hint=close_matches(name, tables))
    return to_frame(list(tables[name]()))


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """*rows* as a data frame: whole numbers are ``Int64``, so that an unknown one stays unknown."""
    import pandas as pd  # noqa: PLC0415  slow to import

    frame = pd.DataFrame(list(rows))
    types = {column: _type(column, [row.get(column) for row in rows]) for column in frame.columns}
    return frame.astype({column: kind for column, kind in types.items() if kind})


def _type(column: str, values: Iterable[Any]) -> str | None:
    kinds = {type(value) for value in values if value is not None}
    if column == "batch" or column.endswith(_WHOLE) or kinds == {int}:
        return "Int64"
    if kinds == {bool}:
        return "boolean"
    return "Float64" if column.endswith("_ratio") or (kinds and kinds <= {int, float}) else None


def _tables(result: object) -> Tables:
    """The tables of *result*, the one that is meant without a name first."""
    tables = _of_estimates(result) or _of_streams(result) or _of_comparisons(result) or _of_measurements(result)
    if not tables:
        raise TypeError(f"{type(result).__name__} has no tables")
    return tables


def _of_estimates(result: object) -> Tables:
    match result:
        case Estimate():
            return _estimated((result,))
        case Sweep():
            return _estimated(result.cells)
        case Replay():
            rows = result.counters
            counters = {"counters": lambda: ({**asdict(row), "difference_bytes": row.difference_bytes} for row in rows)}
            return {**counters, **_estimated((result.estimate,))}
    return {}


def _estimated(cells: Sequence[Estimate]) -> Tables:
    return {
        "cells": lambda: estimate_rows(cells),
        "parts": lambda: part_rows_of(cells),
        "peak": lambda: live_rows(cells),
        "layers": lambda: layer_rows(cells),
    }


def _of_streams(result: object) -> Tables:
    match result:
        case StreamsPlan():
            return {
                "limits": lambda: streams_rows(result),
                "cards": lambda: _plans(result),
                "assumptions": lambda: _assumed(result),
            }
        case Gpu():
            return {"cards": lambda: card_rows((result,))}
        case Catalogue():
            return {"cards": lambda: card_rows(result)}
    return {}


def _of_comparisons(result: object) -> Tables:
    match result:
        case Comparison():
            return {"changes": lambda: _changes((result,))}
        case Diff():
            return {"changes": lambda: _changes(result.pairs)}
        case Checked():
            return {"findings": lambda: _findings(result)}
    return {}


def _of_measurements(result: object) -> Tables:
    match result:
        case Measurement():
            return {
                "phases": lambda: measurement_rows(result),
                "context": lambda: ({**cell_of(result), **asdict(step)} for step in result.steps),
            }
        case Verification():
            ran = cell_of(result.measurement)
            return {
                "parts": lambda: ({**ran, **row} for row in part_rows(result.rows)),
                "peaks": lambda: ({**ran, **row} for row in part_rows(result.peaks)),
                "ops": lambda: _differences(result),
            }
        case MaxBatch():
            return {"tries": lambda: map(asdict, result.tries)}
    return {}


def _plans(plan: StreamsPlan) -> Iterator[Row]:
    for card in plan.cards:
        yield {
            "gpu": card.gpu.key,
            "usable_bytes": card.usable.nominal_bytes,
            "streams_low_count": card.streams_low,
            "streams_nominal_count": card.streams,
            "streams_high_count": card.streams_high,
            "binding": card.binding,
            "marginal_bytes_per_stream": card.marginal_bytes_per_stream,
            "batch": card.batch,
        }


def _assumed(plan: StreamsPlan) -> Iterator[Row]:
    for card in plan.cards:
        for each in assumptions(card):
            yield {"gpu": card.gpu.key, **asdict(each), "evidence": each.evidence.value}


def _changes(pairs: Iterable[Comparison]) -> Iterator[Row]:
    for pair in pairs:
        labels = {"before": pair.before.label, "after": pair.after.label}
        for kind, found in (("part", pair.parts), ("tensor", pair.tensors), ("layer", pair.layers)):
            for change in found:
                yield {**labels, "kind": kind, **asdict(change), "is_least": change.is_least}


def _findings(checked: Checked) -> Iterator[Row]:
    for finding in checked.findings:
        pair, limit = finding.comparison, finding.limit
        yield {
            "model": finding.model,
            "cell": finding.cell,
            "outcome": finding.outcome.value,
            "holds": not finding.failed,
            "locked_bytes": pair.before.total_bytes if pair else None,
            "now_bytes": pair.after.total_bytes if pair else None,
            "change_bytes": pair.change_bytes if pair else None,
            "change_ratio": pair.change_ratio if pair else None,
            "tolerance_ratio": finding.tolerance_ratio,
            "limit_bytes": limit.size_bytes if limit else None,
            "error": finding.error or None,
        }


def _differences(found: Verification) -> Iterator[Row]:
    for alignment in found.alignments:
        for each in alignment.largest:
            yield {"phase": alignment.phase, **asdict(each), "error_bytes": each.error_bytes}
