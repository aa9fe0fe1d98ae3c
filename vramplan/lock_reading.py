"""Reading a lock file. It comes with a repository, so it may come from a stranger: nothing is believed that was not checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vramplan.budget import PARTS, Budget
from vramplan.errors import ModelError, UsageError, close_matches, show
from vramplan.lockfile import (
    KIND,
    LAYER_LIMIT,
    MAX_AXES,
    MAX_BATCH,
    MAX_CELLS,
    MAX_COUNT,
    MAX_DIM,
    MAX_FILE_BYTES,
    MAX_MODELS,
    MAX_NAMES,
    MAX_PHASES,
    MAX_VERSIONS,
    SCHEMA_VERSION,
    TENSOR_LIMIT,
    CellKey,
    Lock,
    LockedCell,
    LockedModel,
    LockedRow,
    Wanted,
    sizes_of,
)
from vramplan.precision import POLICIES
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.plan import PhasePeak
from vramplan.strict_json import check_keys, items_of, object_of, read_object, shown, text_of, whole_of
from vramplan.units import MAX_BYTES, parse_share


def read_lock(path: Path) -> Lock:
    """The lock file at *path*. `UsageError` when there is none, `ModelError` for anything but what `lock_text` writes."""
    if not path.exists():
        raise UsageError(f"there is no lock file {show(str(path))}", hint="`vramplan lock MODEL` writes one.")
    try:
        content = read_object(path, max_bytes=MAX_FILE_BYTES)
        return _lock(content)
    except ValueError as error:
        raise ModelError(
            f"{show(str(path))} is no lock file of vramplan: {error}", hint="`vramplan lock --force` writes it anew."
        ) from None


def _lock(content: dict[str, Any]) -> Lock:
    check_keys(content, where="the file", required=("lock", "schema_version", "models"))
    if content["lock"] != KIND:
        raise ValueError(f"lock is {shown(content['lock'])}, not {KIND!r}")
    if type(content["schema_version"]) is not int or content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {shown(content['schema_version'])}; this version reads {SCHEMA_VERSION}")
    entries = items_of(content["models"], "models", most=MAX_MODELS)
    models = tuple(_model(entry, f"models[{index}]") for index, entry in enumerate(entries))
    if (count := sum(len(model.cells) for model in models)) > MAX_CELLS:
        raise ValueError(f"it has {count:,} cells, more than {MAX_CELLS:,}")
    return Lock(models=models)


_MODEL_KEYS = (
    "model", "shapes", "dims", "budget_bytes", "tolerance", "format", "sha256", "parameters", "versions", "cells",
)  # fmt: skip
_CELL_KEYS = (
    "runtime", "precision", "batch", "memory_format", "gpu", "total", "budget", "phases", "peak_op",
    "tensor_count", "tensors", "layer_count", "layers",
)  # fmt: skip


def _model(value: Any, where: str) -> LockedModel:
    entry = object_of(value, where)
    check_keys(entry, where=where, required=_MODEL_KEYS)
    cells = tuple(
        _cell(cell, f"{where}.cells[{index}]")
        for index, cell in enumerate(items_of(entry["cells"], f"{where}.cells", most=MAX_CELLS))
    )
    if not cells:
        raise ValueError(f"{where} has no cells")
    budget = entry["budget_bytes"]
    return LockedModel(
        wanted=Wanted(
            model=_filled(entry["model"], f"{where}.model"),
            keys=tuple(cell.key for cell in cells),
            shapes=_shapes(entry["shapes"], f"{where}.shapes"),
            dims={name: _side(size, f"{where}.dims.{name}") for name, size in _named(entry["dims"], f"{where}.dims")},
            budget_bytes=None if budget is None else whole_of(budget, f"{where}.budget_bytes", most=MAX_BYTES),
            tolerance_ratio=_tolerance(entry["tolerance"], f"{where}.tolerance"),
        ),
        format=text_of(entry["format"], f"{where}.format"),
        sha256=text_of(entry["sha256"], f"{where}.sha256"),
        parameters=_optional_count(entry["parameters"], f"{where}.parameters"),
        versions={
            name: text_of(version, f"{where}.versions.{name}")
            for name, version in _named(entry["versions"], f"{where}.versions", most=MAX_VERSIONS)
        },
        cells=cells,
    )


def _cell(value: Any, where: str) -> LockedCell:
    cell = object_of(value, where)
    check_keys(cell, where=where, required=_CELL_KEYS)
    budget = object_of(cell["budget"], f"{where}.budget")
    check_keys(budget, where=f"{where}.budget", required=PARTS)
    parts = Budget(**{name: _range(budget[name], f"{where}.budget.{name}") for name in PARTS})
    total = object_of(cell["total"], f"{where}.total")
    if total != sizes_of(parts.total):
        raise ValueError(f"{where}.total is not the sum of its budget")
    phases = _named(cell["phases"], f"{where}.phases", most=MAX_PHASES)
    return LockedCell(
        key=_key(cell, where),
        budget=parts,
        phases={name: _phase(phase, f"{where}.phases.{name}") for name, phase in phases},
        peak_op=text_of(cell["peak_op"], f"{where}.peak_op"),
        tensor_count=whole_of(cell["tensor_count"], f"{where}.tensor_count", most=MAX_COUNT),
        tensors=_rows(cell["tensors"], f"{where}.tensors", TENSOR_LIMIT),
        layer_count=whole_of(cell["layer_count"], f"{where}.layer_count", most=MAX_COUNT),
        layers=_rows(cell["layers"], f"{where}.layers", LAYER_LIMIT),
    )


def _key(cell: Mapping[str, Any], where: str) -> CellKey:
    batch, layout, gpu = cell["batch"], cell["memory_format"], cell["gpu"]
    return CellKey(
        runtime=_filled(cell["runtime"], f"{where}.runtime"),
        precision=_precision(cell["precision"], f"{where}.precision"),
        batch=None if batch is None else _side(batch, f"{where}.batch", most=MAX_BATCH),
        memory_format=None if layout is None else _filled(layout, f"{where}.memory_format"),
        gpu=None if gpu is None else _filled(gpu, f"{where}.gpu"),
    )


def _precision(value: Any, where: str) -> str:
    name = text_of(value, where)
    if name not in POLICIES:
        raise ValueError(f"{where} is {shown(name)}, no precision. {close_matches(name[:80], POLICIES)}")
    return name


def _range(value: Any, where: str) -> Range:
    part = object_of(value, where)
    names = ("low_bytes", "nominal_bytes", "high_bytes")
    check_keys(part, where=where, required=(*names, "evidence"))
    sizes = {name: whole_of(part[name], f"{where}.{name}", most=MAX_BYTES) for name in names}
    kind = text_of(part["evidence"], f"{where}.evidence")
    if kind not in list(Evidence):
        raise ValueError(f"{where}.evidence is {shown(kind)}, not one of {', '.join(Evidence)}")
    try:
        return Range(**sizes, evidence=Evidence(kind))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _phase(value: Any, where: str) -> PhasePeak:
    phase = object_of(value, where)
    check_keys(phase, where=where, required=("allocated_peak_bytes", "reserved_peak_bytes"), optional=("process_bytes",))
    return PhasePeak(**{name: whole_of(size, f"{where}.{name}", most=MAX_BYTES) for name, size in phase.items()})


def _rows(value: Any, where: str, most: int) -> tuple[LockedRow, ...]:
    return tuple(_row(item, f"{where}[{index}]") for index, item in enumerate(items_of(value, where, most=most)))


def _row(value: Any, where: str) -> LockedRow:
    row = object_of(value, where)
    check_keys(row, where=where, required=("name", "role", "size_bytes"))
    return LockedRow(
        name=text_of(row["name"], f"{where}.name"),
        role=text_of(row["role"], f"{where}.role"),
        size_bytes=whole_of(row["size_bytes"], f"{where}.size_bytes", most=MAX_BYTES),
    )


def _named(value: Any, where: str, *, most: int = MAX_NAMES) -> Iterable[tuple[str, Any]]:
    """The items of an object whose keys are names that a stranger chose."""
    found = object_of(value, where)
    if len(found) > most:
        raise ValueError(f"{where} has {len(found):,} names, more than {most:,}")
    return [(text_of(name, f"a name in {where}"), item) for name, item in found.items()]


def _shapes(value: Any, where: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(_side(size, f"{where}.{name}") for size in items_of(shape, f"{where}.{name}", most=MAX_AXES))
        for name, shape in _named(value, where)
    }


def _side(value: Any, where: str, *, most: int = MAX_DIM) -> int:
    if whole_of(value, where, most=most) == 0:
        raise ValueError(f"{where} is 0, not a whole number from 1")
    return int(value)


def _filled(value: Any, where: str) -> str:
    if not (text := text_of(value, where)).strip():
        raise ValueError(f"{where} is empty")
    return text


def _optional_count(value: Any, where: str) -> int | None:
    return None if value is None else whole_of(value, where, most=MAX_COUNT)


def _tolerance(value: Any, where: str) -> float:
    try:
        return parse_share(text_of(value, where), what=where)
    except UsageError as error:
        raise ValueError(error.message) from None
