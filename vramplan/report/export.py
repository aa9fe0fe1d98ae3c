"""The same results for programs: JSON (schema 1), CSV, and a Markdown table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vramplan.gpus import Gpu, context_reason, usable_bytes, usable_reason
from vramplan.report.budget_table import budget_grid
from vramplan.report.content import Report
from vramplan.report.facts import footnotes, headline
from vramplan.report.grid import Grid
from vramplan.report.rows import Row, estimate_rows, layer_rows, live_rows
from vramplan.report.terminal import SEPARATOR, verdict_lines
from vramplan.report.words import padded, printable
from vramplan.result import Binding, Estimate, ModelFacts, Profile, Run
from vramplan.runtimes.onnxruntime.fallbacks import Fallback
from vramplan.verdict import Verdict

SCHEMA_VERSION = 1


def estimate_json(report: Report) -> str:
    """One object: ``schema_version``, ``model``, ``gpu``, ``rows`` and ``verdict``; sizes in bytes."""
    return to_json(estimate_content(report))


def estimate_content(report: Report) -> dict[str, Any]:
    """What `estimate_json` says, to which other commands add."""
    cells = report.cells
    return {
        "model": _model(cells[0].model),
        "gpu": _gpu(cells[0].gpu) if cells[0].gpu else None,
        "rows": [_row(cell, shows_layers=report.shows_layers) for cell in cells],
        "notes": list(report.notes),
        "verdict": _verdict(report.verdict),
    }


def to_json(content: Mapping[str, Any]) -> str:
    """*content* behind the version of its schema. Only ASCII, so that every terminal and file takes it."""
    return json.dumps(versioned(content), indent=2) + "\n"


def versioned(content: Mapping[str, Any]) -> dict[str, Any]:
    """*content* behind the version of its schema."""
    return {"schema_version": SCHEMA_VERSION, **content}


def estimate_csv(report: Report) -> str:
    """One line a cell; one a layer or a live buffer when those are what the report shows."""
    if report.shows_layers:
        return to_csv(layer_rows(report.cells))
    return to_csv(live_rows(report.cells) if report.shows_peak else estimate_rows(report.cells))


def to_csv(rows: Sequence[Row]) -> str:
    """*rows* under the names of their columns; unknown values are empty, and what cannot be printed is replaced."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    return out.getvalue()


def estimate_markdown(report: Report) -> str:
    """The table of the terminal in Markdown, with its headline, footnotes and sentence."""
    name, *facts = headline(report.cells)
    lines = [f"**{escaped(name)}**{SEPARATOR}{escaped(SEPARATOR.join(facts))}", ""]
    lines += to_markdown(budget_grid(report.cells, report.verdict.limit_bytes))
    for note in footnotes(report.cells, report.verdict, report.notes):
        lines += ["", escaped(note)]
    for section in report.sections:
        lines += ["", f"**{escaped(section.title)}**", ""]
        lines += [*to_markdown(section.grid), ""] if section.grid else []
        lines.append(escaped(section.sentence))
    sentence, *tries = verdict_lines(report.verdict)
    lines += ["", f"**{escaped(sentence)}**", ""]
    lines += [f"- {escaped(line.strip())}" for line in tries]
    return "\n".join(lines).rstrip() + "\n"


def to_markdown(grid: Grid) -> Iterator[str]:
    """*grid* as the lines of a Markdown table, aligned for readers of the source too."""
    widths = [max(3, width) for width in grid.widths]
    sides = ["<" if header in grid.words else ">" for header in grid.headers]
    yield _markdown_row(grid.headers, widths, sides)
    rules = ("-" * width if side == "<" else "-" * (width - 1) + ":" for width, side in zip(widths, sides, strict=True))
    yield "| " + " | ".join(rules) + " |"
    for row in grid.rows:
        yield _markdown_row(tuple(map(escaped, row)), widths, sides)


def _markdown_row(cells: Sequence[str], widths: Sequence[int], sides: Sequence[str]) -> str:
    texts = (padded(cell, width, left=side == "<") for cell, width, side in zip(cells, widths, sides, strict=True))
    return "| " + " | ".join(texts) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: names of tensors are full of underscores and stars."""
    return "".join("\\" + char if char in "\\|*_`<[" else char for char in printable(text))


def _model(model: ModelFacts) -> dict[str, Any]:
    return {
        "name": model.name,
        "format": model.format,
        "sha256": model.sha256,
        "parameters": model.parameters,
        "inputs": [_declared(item) for item in model.inputs],
        "outputs": [_declared(item) for item in model.outputs],
    }


def _declared(binding: Binding) -> dict[str, Any]:
    return {"name": binding.name, "dims": None if binding.dims is None else list(binding.dims)}


def _bound(binding: Binding) -> dict[str, Any]:
    shape = None if binding.shape is None else list(binding.shape)
    return {"name": binding.name, "dtype": binding.dtype, "shape": shape, "size_bytes": binding.size_bytes}


def _gpu(gpu: Gpu) -> dict[str, Any]:
    usable = usable_bytes(gpu)
    return {
        "key": gpu.key,
        "name": gpu.name,
        "usable_bytes": usable.nominal_bytes,
        "usable_low_bytes": usable.low_bytes,
        "usable_high_bytes": usable.high_bytes,
        "evidence": usable.evidence.value,
        "reason": usable_reason(gpu),
    }


def _row(cell: Estimate, *, shows_layers: bool) -> dict[str, Any]:
    parts = cell.budget.parts
    row = {
        "runtime": cell.runtime,
        "precision": cell.precision,
        "batch": cell.batch,
        "memory_format": cell.memory_format,
        "inputs": [_bound(item) for item in cell.model.inputs],
        "outputs": [_bound(item) for item in cell.model.outputs],
        "budget": {f"{name}_bytes": part.nominal_bytes for name, part in parts.items()},
        "ranges": {name: {"low_bytes": part.low_bytes, "high_bytes": part.high_bytes} for name, part in parts.items()},
        "evidence": {name: part.evidence.value for name, part in parts.items()},
        "context_reason": context_reason(cell.gpu, cell.runtime) if cell.gpu else None,
        "total_bytes": cell.total_bytes,
        "total_low_bytes": cell.total_low_bytes,
        "total_high_bytes": cell.total_high_bytes,
        "phases": {name: _known(asdict(phase)) for name, phase in cell.phases.items()},
        "lower_bound_bytes": cell.lower_bound_bytes,
        "sum_of_outputs_bytes": cell.sum_of_outputs_bytes,
        "peak": asdict(cell.peak),
        "coverage": asdict(cell.coverage),
        "kept": [{**asdict(kept), "dtype": str(kept.dtype)} for kept in cell.kept],
        "profile": _profile(cell.profile) if cell.profile else None,
        "notes": list(cell.notes),
        "fallbacks": [_fallback(node) for node in cell.fallbacks],
    }
    if cell.runs:
        row["runs"] = [_run(run) for run in cell.runs]
    if cell.account:
        row["account"] = [{"name": name, "size_bytes": size} for name, size in cell.account]
    return row | ({"layers": [asdict(layer) for layer in cell.layers]} if shows_layers else {})


def _fallback(node: Fallback) -> dict[str, Any]:
    to_cpu, to_gpu = ([{"name": name, "size_bytes": size} for name, size in tensors] for tensors in (node.to_cpu, node.to_gpu))
    return {"node": node.node, "op": node.op, "to_cpu": to_cpu, "to_gpu": to_gpu}


def _run(run: Run) -> dict[str, Any]:
    return {"shapes": {name: list(shape) for name, shape in run.shapes.items()}, **_known(asdict(run.phase))}


def _known(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a runtime does not say."""
    return {name: size for name, size in phase.items() if size is not None}


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "max_shapes": {name: list(shape) for name, shape in profile.max_shapes.items()},
        "context_bytes": profile.context_bytes,
        "needed_bytes": profile.needed_bytes,
        "idle_ratio": profile.idle_ratio,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "fits": verdict.fits,
        "limit_bytes": verdict.limit_bytes,
        "limit_name": verdict.limit_name or None,
        "headroom_bytes": verdict.headroom_bytes,
        "sentence": verdict.sentence,
        "try": [asdict(attempt) for attempt in verdict.tries],
    }
