"""Two budgets of a model, or of two models, side by side: which parts, tensors and layers make the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vramplan.budget import Budget
from vramplan.errors import printable
from vramplan.lockfile import CellKey, LockedCell, LockedRow
from vramplan.pairing import pair_layers, pair_tensors
from vramplan.result import Estimate
from vramplan.showing import Shown
from vramplan.verdict import Limit

NAME_CHARS = 200
"""Names of tensors are paths; a longer one is cut in the middle, in a lock file and wherever it is compared with one."""

Row = tuple[str, str]
"""A name, and the role of a tensor or the kind of a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Tensors or layers with their bytes. What a short list leaves out has at most ``cut_bytes`` each; 0: it has all."""

    sizes: Mapping[Row, int]
    cut_bytes: int = 0

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, int]]) -> Listing:
        """All of *rows*; those of one name and role are one."""
        sizes: Counter[Row] = Counter()
        for name, role, size_bytes in rows:
            sizes[short_name(name), short_name(role)] += size_bytes
        return cls(sizes=sizes)

    @classmethod
    def of_locked(cls, rows: tuple[LockedRow, ...], count: int) -> Listing:
        """What a lock file kept of *count* rows."""
        cut = min((row.size_bytes for row in rows), default=0) if len(rows) < count else 0
        return cls(sizes={(row.name, row.role): row.size_bytes for row in rows}, cut_bytes=cut)

    def largest(self, most: int) -> tuple[LockedRow, ...]:
        """The *most* largest rows; equal ones by name."""
        ordered = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
        return tuple(LockedRow(name=name, role=role, size_bytes=size) for (name, role), size in ordered[:most])


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One budget as it is compared: ``tensors`` are alive at the peak, ``layers`` have result, weights and workspace."""

    label: str
    budget: Budget
    peak_op: str
    tensors: Listing
    layers: Listing

    @property
    def total_bytes(self) -> int:
        """Nominal bytes of the process."""
        return self.budget.total_bytes

    @classmethod
    def of_estimate(cls, cell: Estimate, label: str) -> Side:
        """An estimate, of which everything is known."""
        return cls(
            label=label, budget=cell.budget, peak_op=short_name(cell.peak.op), tensors=tensors_of(cell), layers=layers_of(cell)
        )

    @classmethod
    def of_locked(cls, cell: LockedCell, label: str) -> Side:
        """A locked cell, of which the largest rows are known."""
        return cls(
            label=label,
            budget=cell.budget,
            peak_op=cell.peak_op,
            tensors=Listing.of_locked(cell.tensors, cell.tensor_count),
            layers=Listing.of_locked(cell.layers, cell.layer_count),
        )


def tensors_of(cell: Estimate) -> Listing:
    """Who is alive at the peak."""
    return Listing.of((item.name, item.role, item.size_bytes) for item in cell.peak.live)


def layers_of(cell: Estimate) -> Listing:
    """The layers, each with its result, its weights and its workspace."""
    return Listing.of(
        (layer.name, layer.kind, layer.output_bytes + layer.weights_bytes + layer.workspace_bytes) for layer in cell.layers
    )


def short_name(name: str) -> str:
    """*name* printable, and not longer than a lock file takes."""
    text = printable(name)
    return text if len(text) <= NAME_CHARS else f"{text[: NAME_CHARS // 2]}…{text[-(NAME_CHARS // 2 - 1) :]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row that differs. A side of None is not known, for its list is short: ``change_bytes`` is then the least it can be.

    Invariant: ``change_bytes`` is not 0, and at most one side is None.
    """

    name: str
    role: str
    before_bytes: int | None
    after_bytes: int | None
    change_bytes: int

    def __post_init__(self) -> None:
        if self.change_bytes == 0 or (self.before_bytes is None and self.after_bytes is None):
            raise ValueError(f"no change: {self.before_bytes} to {self.after_bytes}")

    @property
    def is_least(self) -> bool:
        """Whether the change may be larger."""
        return self.before_bytes is None or self.after_bytes is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Shown):
    """Two budgets, and what differs between them, the largest change first."""

    before: Side
    after: Side
    parts: tuple[Change, ...]
    tensors: tuple[Change, ...]
    layers: tuple[Change, ...]

    @property
    def change_bytes(self) -> int:
        """How much more the second takes than the first; negative when less."""
        return self.after.total_bytes - self.before.total_bytes

    @property
    def change_ratio(self) -> float | None:
        """The same as a share of the first; None when the first takes nothing."""
        return self.change_bytes / self.before.total_bytes if self.before.total_bytes else None


def compare(before: Side, after: Side) -> Comparison:
    """What makes *after* larger or smaller than *before*."""
    parts = [
        Listing(sizes={(name, "part"): part.nominal_bytes for name, part in side.budget.parts.items()})
        for side in (before, after)
    ]
    return Comparison(
        before=before,
        after=after,
        parts=changes(*parts),
        tensors=changes(before.tensors, after.tensors),
        layers=changes(before.layers, after.layers),
    )


def diff(before: Estimate, after: Estimate) -> Comparison:
    """Two estimates side by side: parts, tensors at the peak and layers that differ, the largest change first, in bytes.

    Layers have their result, weights and workspace. Between two runtimes tensors and layers are those of a module.
    """
    return compare_estimates(before, after, labels=(_label(before), _label(after)))


def compare_estimates(before: Estimate, after: Estimate, *, labels: tuple[str, str]) -> Comparison:
    """The same under *labels*. Rows are paired by `vramplan.pairing`."""
    sides = (
        Side(
            label=label,
            budget=cell.budget,
            peak_op=short_name(cell.peak.op),
            tensors=Listing.of(tensors),
            layers=Listing.of(layers),
        )
        for cell, label, tensors, layers in zip(
            (before, after), labels, pair_tensors(before, after), pair_layers(before, after), strict=True
        )
    )
    return compare(*sides)


def _label(cell: Estimate) -> str:
    key = CellKey(
        runtime=cell.runtime,
        precision=cell.precision,
        batch=cell.batch,
        memory_format=cell.memory_format if cell.runtime == "torch" else None,
        gpu=cell.gpu.key if cell.gpu else None,
    )
    return f"{short_name(cell.model.name)}: {key.label}"


def changes(before: Listing, after: Listing) -> tuple[Change, ...]:
    """The rows that differ, the largest change first; rows of which nothing sure can be said are left out."""
    found = [_change(row, before, after) for row in {**before.sizes, **after.sizes}]
    known = [change for change in found if change is not None]
    return tuple(sorted(known, key=lambda change: (-abs(change.change_bytes), change.name, change.role)))


def _change(row: Row, before: Listing, after: Listing) -> Change | None:
    """A row that a short list leaves out is there with 0 to ``cut_bytes``: only what lies beyond that is a change."""
    old = before.sizes.get(row, None if before.cut_bytes else 0)
    new = after.sizes.get(row, None if after.cut_bytes else 0)
    if old is None and new is not None:
        size = max(0, new - before.cut_bytes)
    elif new is None and old is not None:
        size = -max(0, old - after.cut_bytes)
    else:
        size = (new or 0) - (old or 0)
    if size == 0:
        return None
    return Change(name=row[0], role=row[1], before_bytes=old, after_bytes=new, change_bytes=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff(Shown):
    """Pairs of budgets, and the cells that only one of two lock files has."""

    pairs: tuple[Comparison, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()


class Outcome(StrEnum):
    """What became of one locked budget, the worst first."""

    UNREADABLE = "unreadable"
    OVER = "over"
    GREW = "grew"
    UNLOCKED = "unlocked"
    SHRANK = "shrank"
    WITHIN = "within"


FAILURES = frozenset({Outcome.UNREADABLE, Outcome.OVER, Outcome.GREW, Outcome.UNLOCKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cell, or a model that cannot be estimated any more (``error`` and ``hint``; ``exit_code`` is that error's).

    ``limit`` is what the process may take, None: no limit.

    Invariant: there is a comparison where there is a locked and a present budget.
    """

    model: str
    cell: str
    outcome: Outcome
    tolerance_ratio: float = 0.0
    comparison: Comparison | None = None
    limit: Limit | None = None
    error: str = ""
    hint: str = ""
    exit_code: int = 1
    notes: tuple[str, ...] = ()

    @property
    def over_bytes(self) -> int:
        """How much more than its limit it takes; 0 when it fits, or there is no limit."""
        if self.limit is None or self.comparison is None:
            return 0
        return max(0, self.comparison.after.total_bytes - self.limit.size_bytes)

    @property
    def has_grown(self) -> bool:
        """Whether it takes more than the lock and the tolerance allow."""
        pair = self.comparison
        return pair is not None and pair.change_bytes > self.tolerance_ratio * pair.before.total_bytes

    @property
    def failed(self) -> bool:
        """Whether a gate stops it."""
        return self.outcome in FAILURES

    @classmethod
    def of(cls, comparison: Comparison, **facts: Any) -> Finding:
        """The outcome of a cell that was locked and estimated again."""
        finding = cls(outcome=Outcome.WITHIN, comparison=comparison, **facts)
        if finding.over_bytes:
            return replace(finding, outcome=Outcome.OVER)
        if finding.has_grown:
            return replace(finding, outcome=Outcome.GREW)
        return replace(finding, outcome=Outcome.SHRANK) if comparison.change_bytes < 0 else finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Shown):
    """A lock file, checked."""

    path: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What a gate stops."""
        return tuple(finding for finding in self.findings if finding.failed)

    @property
    def exit_code(self) -> int:
        """The worst: a model that cannot be read, a library that is missing, a model not named, a budget that does not hold."""
        codes = {finding.exit_code for finding in self.failures}
        return next((code for code in (3, 4, 2, 1) if code in codes), 0)
