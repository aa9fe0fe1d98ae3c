"""Many cells of one model: it is read once, bound once per batch, and solved once per runtime and precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vramplan.engine import estimate_engine
from vramplan.errors import UsageError
from vramplan.estimate import RUNTIMES, Bound, ModelLike, Options, Shapes, bind, solve
from vramplan.gpus import Gpu
from vramplan.precision import find_policy
from vramplan.result import Estimate
from vramplan.sources import Source, engine_path, open_model
from vramplan.sources.trt_engine import read_engine
from vramplan.verdict import Change

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Estimates of one model, ordered by runtime, precision and batch as they were asked for.

    ``batches`` are the batches that the cells were asked with, None where the model was to decide.

    Invariant: there is at least one cell, and one batch for each.
    """

    cells: tuple[Estimate, ...]
    batches: tuple[int | None, ...] = field(repr=False, compare=False)
    source: Source | None = field(repr=False, compare=False)
    options: Options = field(repr=False, compare=False)
    bounds: dict[int | None, Bound] = field(repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cells or len(self.cells) != len(self.batches):
            raise ValueError(f"a sweep of {len(self.cells)} cells and {len(self.batches)} batches")

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell, sizes in bytes (``Int64``)."""
        from vramplan.report.rows import estimate_rows, to_frame  # noqa: PLC0415  imports pandas

        return to_frame(estimate_rows(self.cells))

    def resolve(self, cell: Estimate, change: Change) -> Estimate:
        """*cell* again, with *change* applied: really solved, not scaled.

        Raises `UsageError` or `ModelError` when the model cannot be changed that way.
        """
        if self.source is None:
            raise UsageError("a built engine cannot be changed", hint="Name the .onnx file it was built from.")
        asked = next((batch for known, batch in zip(self.cells, self.batches, strict=True) if known is cell), cell.batch)
        batch = asked if change.batch is None else change.batch
        dims, shapes = {**self.options.dims, **change.dims}, {**self.options.shapes, **change.shapes}
        options = replace(self.options, dims=dims, shapes=shapes)
        keeps_shapes = options == self.options and batch in self.bounds
        bound = self.bounds[batch] if keeps_shapes else bind(self.source, batch, options)
        return solve(bound, change.precision or cell.precision, cell.runtime, options)


def sweep(
    model: ModelLike,
    *,
    batches: Iterable[int | None] = (None,),
    precisions: Iterable[str] = ("as-is",),
    runtimes: Iterable[str] = ("tensorrt",),
    gpu: str | Gpu | None = None,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    max_shapes: Shapes | None = None,
    workspace_bytes: int | None = None,
) -> Sweep:
    """One `Estimate` for each of *runtimes* × *precisions* × *batches*, in that order; see `vramplan.estimate`.

    A batch of None is 1, or what the file fixes. Raises `UsageError` for arguments that make no sense, among them an
    empty list, and `ModelError` for a model that cannot be read.
    """
    options = Options.of(gpu=gpu, shapes=shapes, dims=dims, max_shapes=max_shapes, workspace_bytes=workspace_bytes)
    axes = _Axes.of(runtimes, precisions, batches)
    if path := engine_path(model):
        return Sweep(cells=(estimate_engine(read_engine(path), options.gpu),), batches=(None,), source=None, options=options)
    source = open_model(model)
    bounds = {batch: bind(source, batch, options) for batch in axes.batches}
    return Sweep(
        cells=tuple(solve(bounds[batch], precision, runtime, options) for runtime, precision, batch in axes),
        batches=tuple(batch for _, _, batch in axes),
        source=source,
        options=options,
        bounds=bounds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int | None, ...]

    @classmethod
    def of(cls, runtimes: Iterable[str], precisions: Iterable[str], batches: Iterable[int | None]) -> _Axes:
        """Check the names before a model is read, and drop repeats."""
        policies = dict.fromkeys(find_policy(precision).name for precision in precisions)
        axes = cls(runtimes=tuple(dict.fromkeys(runtimes)), precisions=tuple(policies), batches=tuple(dict.fromkeys(batches)))
        if not (axes.runtimes and axes.precisions and axes.batches):
            raise UsageError("a sweep needs at least one runtime, one precision and one batch")
        for runtime in axes.runtimes:
            if runtime not in RUNTIMES:
                raise UsageError(f"runtime {runtime[:40]!r} is not modelled", hint="Modelled: " + ", ".join(RUNTIMES) + ".")
        return axes

    def __iter__(self) -> Iterator[tuple[str, str, int | None]]:
        for runtime in self.runtimes:
            for precision in self.precisions:
                for batch in self.batches:
                    yield runtime, precision, batch
