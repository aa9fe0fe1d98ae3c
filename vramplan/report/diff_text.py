"""Two budgets side by side: parts, tensors at the peak, layers, the largest change first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vramplan.comparing import Change, Comparison, Diff, Side
from vramplan.ranges import Range
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import escaped, to_json, to_markdown
from vramplan.report.grid import Grid
from vramplan.report.verified_text import percent, signed
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes

DEFAULT_TOP = 10
_LABEL_WIDTH = 60
_NAME_WIDTH = 44


def diff_text(diff: Diff, *, top: int | None = None, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The whole report as text: every pair that differs, and the cells that only one side has."""
    canvas = Canvas(width=width, colour=colour)
    for pair in _different(diff):
        canvas.line(pair_title(pair), style="bold")
        for title, grid in pair_grids(pair, top=top):
            canvas.blank()
            if title:
                canvas.line(title, style="bold")
            canvas.table(grid)
        canvas.blank()
    for line in diff_lines(diff):
        canvas.line(line)
    return canvas.text()


def diff_markdown(diff: Diff, *, top: int | None = None) -> str:
    """The same as Markdown tables."""
    lines: list[str] = []
    for pair in _different(diff):
        lines += [f"**{escaped(pair_title(pair))}**", ""]
        for title, grid in pair_grids(pair, top=top):
            lines += [f"**{escaped(title)}**", ""] if title else []
            lines += [*to_markdown(grid), ""]
    lines += [escaped(line) + "\n" for line in diff_lines(diff)]
    return "\n".join(lines).rstrip() + "\n"


def diff_json(diff: Diff) -> str:
    """``pairs``: each with both sides, ``parts``, ``tensors`` and ``layers``; ``only_before`` and ``only_after``."""
    return to_json(
        {
            "pairs": [pair_content(pair) for pair in diff.pairs],
            "only_before": list(diff.only_before),
            "only_after": list(diff.only_after),
        }
    )


def diff_lines(diff: Diff) -> Iterator[str]:
    """One sentence a pair that differs, and what cannot be compared."""
    different = list(_different(diff))
    for pair in different:
        yield pair_sentence(pair)
    if equal := len(diff.pairs) - len(different):
        yield "No difference." if len(diff.pairs) == 1 else f"{equal} of {len(diff.pairs)} budgets are the same."
    for name in diff.only_before:
        yield f"only in the first: {shorten(name, 80)}"
    for name in diff.only_after:
        yield f"only in the second: {shorten(name, 80)}"


def pair_title(pair: Comparison) -> str:
    """Both labels; one when they are the same, as in two lock files."""
    before, after = (shorten(side.label, _LABEL_WIDTH) for side in (pair.before, pair.after))
    return before if before == after else f"{before} → {after}"


def pair_sentence(pair: Comparison) -> str:
    """How much larger the second is, and the part that makes most of it."""
    change = pair.change_bytes
    more = f"{format_bytes(abs(change))} {'more' if change > 0 else 'less'} ({percent(pair.change_ratio)})"
    if change == 0:
        more = "the same in total"
    most = f"; most of it: {_part(pair.parts[0].name)}, {signed(pair.parts[0].change_bytes)}" if pair.parts else ""
    where = f"{shorten(pair.after.label, _LABEL_WIDTH)}: " if pair.before.label == pair.after.label else ""
    total = f"{format_bytes(pair.before.total_bytes)} → {format_bytes(pair.after.total_bytes)}"
    return f"{where}{total}, {more}{most}."


def pair_grids(pair: Comparison, *, top: int | None = None) -> Iterator[tuple[str, Grid]]:
    """Titles and tables of a pair: the parts, the tensors at the peak, the layers."""
    yield "", parts_grid(pair)
    if pair.tensors:
        yield peak_title(pair), changes_grid(pair.tensors, "tensor at the peak", "role", top=top)
    if pair.layers:
        yield "Layers: result, weights and workspace", changes_grid(pair.layers, "layer", "kind", top=top)


def peak_title(pair: Comparison) -> str:
    """Where the peak is, on both sides."""
    before, after = (shorten(side.peak_op, 40) for side in (pair.before, pair.after))
    return f"Peak while {before} runs" + ("" if before == after else f", and now while {after} does")


def parts_grid(pair: Comparison) -> Grid:
    """Every part that differs, the largest change first, and the total."""
    rows = [_row((_part(change.name),), change) for change in pair.parts]
    before, after = pair.before.total_bytes, pair.after.total_bytes
    rows.append(("total", format_bytes(before), format_bytes(after), signed(pair.change_bytes), percent(pair.change_ratio)))
    return Grid(headers=("part", "before", "after", "change", "%"), rows=tuple(rows), words=frozenset({"part"}))


def changes_grid(changes: Sequence[Change], first: str, second: str, *, top: int | None = None) -> Grid:
    """The *top* largest changes of tensors or layers, and one row for the rest."""
    most = top or DEFAULT_TOP
    rows = [_row((shorten(change.name, _NAME_WIDTH), shorten(change.role, 16)), change) for change in changes[:most]]
    if rest := changes[most:]:
        rows.append((f"… {len(rest)} more", "", "", "", signed(sum(change.change_bytes for change in rest)), ""))
    return Grid(headers=(first, second, "before", "after", "change", "%"), rows=tuple(rows), words=frozenset({first, second}))


def change_words(changes: Iterable[Change], most: int) -> str:
    """``activations +100.0 MiB, weights +20.0 MiB``."""
    return ", ".join(f"{_part(shorten(change.name, 60))} {_change(change)}" for change in list(changes)[:most])


def _row(names: tuple[str, ...], change: Change) -> tuple[str, ...]:
    ratio = change.change_bytes / change.before_bytes if change.before_bytes else None
    share = percent(ratio) if ratio is not None and not change.is_least else ("new" if change.before_bytes == 0 else "?")
    return (*names, _size(change.before_bytes), _size(change.after_bytes), _change(change), share)


def _change(change: Change) -> str:
    bound = "" if not change.is_least else "≥ " if change.change_bytes > 0 else "≤ "
    return bound + signed(change.change_bytes)


def _size(size_bytes: int | None) -> str:
    """A row that a short list left out has no size; one that is not there has none either, and is known to."""
    if size_bytes is None:
        return "?"
    return format_bytes(size_bytes) if size_bytes else "–"


def _part(name: str) -> str:
    return {"allocator_slack": "slack"}.get(name, printable(name))


def _different(diff: Diff) -> Iterator[Comparison]:
    return (pair for pair in diff.pairs if pair.parts or pair.tensors or pair.layers)


def pair_content(pair: Comparison) -> dict[str, Any]:
    """A comparison for programs, sizes in bytes."""
    return {
        "before": _side(pair.before),
        "after": _side(pair.after),
        "change_bytes": pair.change_bytes,
        "change_ratio": pair.change_ratio,
        **{name: [_change_content(change) for change in getattr(pair, name)] for name in ("parts", "tensors", "layers")},
    }


def _change_content(change: Change) -> dict[str, Any]:
    return {**asdict(change), "is_least": change.is_least}


def _side(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "peak_op": side.peak_op,
        "total": _range(side.budget.total),
        "budget": {name: _range(part) for name, part in side.budget.parts.items()},
    }


def _range(size: Range) -> dict[str, Any]:
    return {
        "low_bytes": size.low_bytes,
        "nominal_bytes": size.nominal_bytes,
        "high_bytes": size.high_bytes,
        "evidence": size.evidence.value,
    }
