"""What was locked, and what a check of it found: for a person, for a program, for GitHub's workflow log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vramplan.comparing import Checked, Finding, Outcome
from vramplan.lockfile import Lock, LockedCell, LockedModel
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.diff_text import change_words, changes_grid, pair_content, parts_grid, peak_title
from vramplan.report.export import to_json
from vramplan.report.grid import Grid
from vramplan.report.verified_text import percent, signed
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes
from vramplan.verdict import Limit

MODEL_WIDTH, MIN_NAME_WIDTH, CELL_WIDTH = 30, 12, 40
CAUSES = 5
"""Tensors and layers that are named for a budget that does not hold."""

_WORDS = {
    Outcome.UNREADABLE: "unreadable",
    Outcome.OVER: "does not fit",
    Outcome.GREW: "grew",
    Outcome.UNLOCKED: "not locked",
    Outcome.SHRANK: "shrank",
    Outcome.WITHIN: "holds",
}


def lock_summary(
    fresh: Sequence[LockedModel],
    old: Lock | None,
    over: Sequence[tuple[LockedModel, LockedCell, Limit]],
    *,
    width: int = MAX_WIDTH,
    colour: bool = False,
) -> str:
    """The budgets that were locked, beside what they were before."""
    canvas = Canvas(width=width, colour=colour)
    before = {(model.wanted.identity, cell.key): cell for model in (old.models if old else ()) for cell in model.cells}
    rows = [
        (
            shorten(model.wanted.identity, MODEL_WIDTH),
            cell.key.label,
            *_locked_cells(cell, before.get((model.wanted.identity, cell.key))),
        )
        for model in fresh
        for cell in model.cells
    ]
    headers = ("model", "budget of", "total", "before", "change", "tolerance")
    shares = [f"{model.wanted.tolerance_ratio * 100:g} %" for model in fresh for _ in model.cells]
    body = tuple((*row, share) for row, share in zip(rows, shares, strict=True))
    canvas.table(Grid(headers=headers, rows=body, words=frozenset(headers[:2])))
    canvas.blank()
    for model, cell, limit in over:
        spare = format_bytes(cell.budget.total_bytes - limit.size_bytes)
        name = f"{shorten(model.wanted.identity, 60)}, {cell.key.label}"
        canvas.line(f"Does not fit: {name} takes {spare} more than {limit.phrase}.", style="bold red")
    if not over:
        canvas.line(f"Locked {_count(len(rows), 'budget')} of {_count(len(fresh), 'model')}.", style="bold")
    return canvas.text()


def _locked_cells(cell: LockedCell, before: LockedCell | None) -> tuple[str, str, str]:
    total = cell.budget.total_bytes
    if before is None:
        return format_bytes(total), "–", "new"
    return format_bytes(total), format_bytes(before.budget.total_bytes), signed(total - before.budget.total_bytes)


def check_text(checked: Checked, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """A row a budget, then what made those larger that fail, then the sentence."""
    canvas = Canvas(width=width, colour=colour)
    if checked.findings:
        canvas.table(findings_grid(checked.findings, canvas.width))
    for finding in checked.failures:
        if finding.comparison and finding.comparison.parts:
            _draw_causes(canvas, finding)
    canvas.blank()
    for line in note_lines(checked):
        canvas.line(f"note: {line}", style="yellow")
    for line in check_lines(checked):
        canvas.line(line, style="bold red" if checked.failures else "bold green")
    return canvas.text()


def findings_grid(findings: Sequence[Finding], width: int = MAX_WIDTH) -> Grid:
    """Locked, now, by how much, and whether it holds; the models' names take what is left of *width*."""
    headers = ("model", "budget of", "locked", "now", "change", "limit", "")
    body = tuple(map(_finding_cells, findings))
    others = Grid(headers=headers[1:], rows=body)
    name_width = max(MIN_NAME_WIDTH, width - others.width(gap=1) - 1)
    rows = tuple((shorten(each.model, name_width), *cells) for each, cells in zip(findings, body, strict=True))
    return Grid(headers=headers, rows=rows, words=frozenset({"model", "budget of", ""}))


def _finding_cells(finding: Finding) -> tuple[str, ...]:
    pair, limit = finding.comparison, finding.limit
    sizes = ("–", "–", "–")
    if pair:
        totals = (format_bytes(pair.before.total_bytes), format_bytes(pair.after.total_bytes))
        sizes = (*totals, signed(pair.change_bytes))
    shown = format_bytes(limit.size_bytes) if limit else "–"
    return (shorten(finding.cell, CELL_WIDTH) or "all", *sizes, shown, _WORDS[finding.outcome])


def _draw_causes(canvas: Canvas, finding: Finding) -> None:
    pair = finding.comparison
    if pair is None:
        return
    canvas.blank()
    canvas.line(f"{shorten(finding.model, 60)}, {finding.cell}", style="bold")
    canvas.table(parts_grid(pair))
    if pair.tensors:
        canvas.blank()
        canvas.line(peak_title(pair), style="dim")
        canvas.table(changes_grid(pair.tensors, "tensor at the peak", "role", top=CAUSES))
    if pair.layers:
        canvas.blank()
        canvas.table(changes_grid(pair.layers, "layer", "kind", top=CAUSES))


def note_lines(checked: Checked) -> Iterator[str]:
    """Circumstances that changed, each once, and budgets that could be tighter."""
    told = dict.fromkeys(f"{shorten(each.model, 60)}: {printable(note)}" for each in checked.findings for note in each.notes)
    yield from told
    yield from map(printable, checked.notes)
    shrunk = [each.comparison.change_bytes for each in checked.findings if each.outcome is Outcome.SHRANK and each.comparison]
    if shrunk:
        yield f"{_count(len(shrunk), 'budget')} shrank, by up to {format_bytes(-min(shrunk))}: `vramplan lock` keeps that"


def check_lines(checked: Checked) -> Iterator[str]:
    """One sentence a failure, or that all budgets hold; this is what a run ends with."""
    for finding in checked.failures:
        yield finding_sentence(finding)
        if finding.hint:
            yield f"  {printable(finding.hint)}"
    if not checked.findings:
        yield "Nothing is locked: `vramplan lock MODEL` locks a budget."
    elif not checked.failures:
        yield f"All {len(checked.findings)} budgets hold." if len(checked.findings) > 1 else "The budget holds."
    else:
        yield f"{len(checked.failures)} of {len(checked.findings)} do not hold."


def finding_sentence(finding: Finding) -> str:
    """Which budget it is, what is wrong, and by how much."""
    name = shorten(finding.model, 60) + (f", {finding.cell}" if finding.cell else "")
    if finding.outcome is Outcome.UNREADABLE:
        return f"{name} cannot be estimated: {printable(finding.error)}"
    pair, limit = finding.comparison, finding.limit
    if pair is None:
        return f"{name} is not locked."
    takes = f"{name} takes {format_bytes(pair.after.total_bytes)}"
    grown = f"{format_bytes(abs(pair.change_bytes))} ({percent(pair.change_ratio)})"
    than = f"{grown} {'more' if pair.change_bytes > 0 else 'less'} than locked" if pair.change_bytes else "as locked"
    if finding.outcome is Outcome.OVER and limit:
        return f"{takes}, {format_bytes(finding.over_bytes)} more than {limit.phrase}; {than}."
    allowed = f"; {finding.tolerance_ratio * 100:g} % are allowed" if finding.outcome is Outcome.GREW else ""
    return f"{takes}, {than}{allowed}."


def check_json(checked: Checked) -> str:
    """``holds``, ``findings[]`` (outcome, sizes, what changed) and ``notes[]``."""
    return to_json(
        {
            "lock": checked.path,
            "holds": not checked.failures,
            "findings": [_finding_content(finding) for finding in checked.findings],
            "notes": list(note_lines(checked)),
        }
    )


def _finding_content(finding: Finding) -> dict[str, Any]:
    return {
        "model": finding.model,
        "cell": finding.cell or None,
        "outcome": finding.outcome.value,
        "holds": not finding.failed,
        "tolerance_ratio": finding.tolerance_ratio,
        "limit_bytes": finding.limit.size_bytes if finding.limit else None,
        "limit_name": finding.limit.name if finding.limit else None,
        "over_bytes": finding.over_bytes,
        "error": finding.error or None,
        "hint": finding.hint or None,
        "comparison": pair_content(finding.comparison) if finding.comparison else None,
    }


def check_github(checked: Checked) -> str:
    """One workflow command a line: an error for each failure, notices for the rest. Nothing else may stand in that output.

    Syntax and escapes: GitHub's documentation, "Workflow commands for GitHub Actions", and actions/toolkit, command.ts.
    """
    lines = [_annotation("error", checked.path, _title(finding), "\n".join(_message(finding))) for finding in checked.failures]
    lines += [_annotation("notice", checked.path, "vramplan", note) for note in note_lines(checked)]
    lines += (
        [] if checked.failures else [_annotation("notice", checked.path, "vramplan", line) for line in check_lines(checked)]
    )
    return "".join(f"{line}\n" for line in lines)


def _title(finding: Finding) -> str:
    return f"{shorten(finding.model, 60)} {finding.cell}".strip() + f": {_WORDS[finding.outcome]}"


def _message(finding: Finding) -> Iterator[str]:
    yield finding_sentence(finding)
    pair = finding.comparison
    if pair:
        for what, found in (("parts", pair.parts), ("tensors at the peak", pair.tensors), ("layers", pair.layers)):
            if found:
                yield f"{what}: {change_words(found, CAUSES)}"
    if finding.hint:
        yield printable(finding.hint)


def _annotation(kind: str, file: str, title: str, message: str) -> str:
    return f"::{kind} file={_property(file)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """A percent sign and the ends of lines are escaped in a message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """In a property the marks that end one are too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
