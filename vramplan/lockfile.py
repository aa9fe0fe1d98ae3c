"""``vramplan.lock.json``: the budgets a repository agreed on, written so that a change of one is a small diff.

It is read by `vramplan.lock_reading`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vramplan.budget import Budget
from vramplan.errors import show
from vramplan.ranges import Range
from vramplan.runtimes.plan import PhasePeak

LOCK_FILE = "vramplan.lock.json"
SCHEMA_VERSION = 1

TENSOR_LIMIT, LAYER_LIMIT = 12, 8
"""Rows of a cell that explain a later growth: together twenty."""

MAX_FILE_BYTES = 8 << 20
MAX_MODELS, MAX_CELLS, MAX_AXES, MAX_NAMES, MAX_PHASES, MAX_VERSIONS = 256, 1024, 32, 64, 8, 8
MAX_BATCH, MAX_DIM, MAX_COUNT = 1 << 20, 1 << 40, 1 << 50

KIND = "vramplan"
_IN_ONE_LINE = frozenset({"budget", "phases", "tensors", "layers", "shapes"})
"""Lists and objects whose items are written one a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKey:
    """Which cell of a model: all that decides its estimate. A batch of None is the model's own choice."""

    runtime: str
    precision: str
    batch: int | None
    memory_format: str | None
    gpu: str | None

    @property
    def label(self) -> str:
        """``tensorrt fp16 at batch 8 on rtx3090``."""
        batch = "" if self.batch is None else f" at batch {self.batch}"
        layout = f" {self.memory_format}" if self.memory_format not in (None, "contiguous") else ""
        return f"{self.runtime} {self.precision}{layout}{batch}" + (f" on {self.gpu}" if self.gpu else "")

    @property
    def order(self) -> tuple[str, str, int, str, str]:
        """Where it stands in a lock file."""
        return (self.runtime, self.precision, self.batch or 0, self.memory_format or "", self.gpu or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model and the cells whose budgets are guarded; ``budget_bytes`` is what each may take, None: no limit of its own."""

    model: str
    keys: tuple[CellKey, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    budget_bytes: int | None = None
    tolerance_ratio: float

    @property
    def identity(self) -> str:
        """The model with the sizes of its inputs, as a person reads it; two entries of a lock file differ in it."""
        shapes = [f"{name}:{'x'.join(map(str, shape))}" for name, shape in sorted(self.shapes.items())]
        return " ".join((self.model, *shapes, *(f"{name}={size}" for name, size in sorted(self.dims.items()))))


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedRow:
    """A tensor that is alive at the peak, or a layer with its result, weights and workspace; ``role`` is its role or kind."""

    name: str
    role: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedCell:
    """One budget as it was agreed on; ``tensors`` and ``layers`` are the largest of as many as their counts say.

    Invariant: neither list is longer than its count.
    """

    key: CellKey
    budget: Budget
    phases: Mapping[str, PhasePeak]
    peak_op: str
    tensor_count: int
    tensors: tuple[LockedRow, ...]
    layer_count: int
    layers: tuple[LockedRow, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) > self.tensor_count or len(self.layers) > self.layer_count:
            raise ValueError("more rows than there are tensors or layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedModel:
    """A model's entry: what was asked, which file it was, what estimated it, and the budgets."""

    wanted: Wanted
    format: str
    sha256: str
    parameters: int | None
    versions: Mapping[str, str]
    cells: tuple[LockedCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A whole lock file.

    Invariant: no entry and no cell of an entry is there twice.
    """

    models: tuple[LockedModel, ...]

    def __post_init__(self) -> None:
        _check_once("model", [model.wanted.identity for model in self.models])
        for model in self.models:
            _check_once(f"{show(model.wanted.model)}: cell", [cell.key.label for cell in model.cells])


def _check_once(what: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{what} {show(name)} is there twice")


def lock_text(lock: Lock) -> str:
    """*lock* as JSON: one fact a line, models and cells in an order of their own, only ASCII."""
    models = sorted(lock.models, key=lambda model: model.wanted.identity)
    content = {"lock": KIND, "schema_version": SCHEMA_VERSION, "models": [_model_content(model) for model in models]}
    return "".join(_written(content, "", "")) + "\n"


def _written(value: Any, indent: str, name: str, *, one_line: bool = False) -> Iterable[str]:
    """*value* as JSON, a line each; what stands in `_IN_ONE_LINE` has a line for each of its items."""
    if not isinstance(value, (dict, list)) or not value or one_line or name == "total":
        yield json.dumps(value)
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    deeper = f"{indent}  "
    yield opening
    for index, (key, item) in enumerate(items):
        yield f"{',' if index else ''}\n{deeper}"
        if isinstance(value, dict):
            yield f"{json.dumps(key)}: "
        yield from _written(item, deeper, key, one_line=name in _IN_ONE_LINE)
    yield f"\n{indent}{closing}"


def _model_content(model: LockedModel) -> dict[str, Any]:
    wanted = model.wanted
    return {
        "model": wanted.model,
        "shapes": {name: list(shape) for name, shape in sorted(wanted.shapes.items())},
        "dims": dict(sorted(wanted.dims.items())),
        "budget_bytes": wanted.budget_bytes,
        "tolerance": f"{wanted.tolerance_ratio * 100:g}%",
        "format": model.format,
        "sha256": model.sha256,
        "parameters": model.parameters,
        "versions": dict(model.versions),
        "cells": [_cell_content(cell) for cell in sorted(model.cells, key=lambda cell: cell.key.order)],
    }


def _cell_content(cell: LockedCell) -> dict[str, Any]:
    key, total = cell.key, cell.budget.total
    return {
        "runtime": key.runtime,
        "precision": key.precision,
        "batch": key.batch,
        "memory_format": key.memory_format,
        "gpu": key.gpu,
        "total": sizes_of(total),
        "budget": {name: {**sizes_of(part), "evidence": part.evidence.value} for name, part in cell.budget.parts.items()},
        "phases": {name: _phase_content(phase) for name, phase in cell.phases.items()},
        "peak_op": cell.peak_op,
        "tensor_count": cell.tensor_count,
        "tensors": [_row_content(row) for row in cell.tensors],
        "layer_count": cell.layer_count,
        "layers": [_row_content(row) for row in cell.layers],
    }


def sizes_of(size: Range) -> dict[str, int]:
    """A range without its evidence."""
    return {"low_bytes": size.low_bytes, "nominal_bytes": size.nominal_bytes, "high_bytes": size.high_bytes}


def _phase_content(phase: PhasePeak) -> dict[str, int | None]:
    process = {} if phase.process_bytes is None else {"process_bytes": phase.process_bytes}
    return {"allocated_peak_bytes": phase.allocated_peak_bytes, "reserved_peak_bytes": phase.reserved_peak_bytes, **process}


def _row_content(row: LockedRow) -> dict[str, Any]:
    return {"name": row.name, "role": row.role, "size_bytes": row.size_bytes}
