"""Many cells of one model: it is read once, bound once per batch, and solved once per runtime and precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vramplan.choosing import find_runtime, why_not
from vramplan.engine import estimate_engine
from vramplan.errors import RefusedError, UsageError
from vramplan.estimate import open_module, solve, solve_module
from vramplan.gpus import Gpu
from vramplan.held import Bound, bind
from vramplan.options import ModelLike, Options, Shapes
from vramplan.precision import find_policy
from vramplan.progress import tell
from vramplan.result import Estimate
from vramplan.showing import Shown
from vramplan.sources import Source, engine_path, open_model
from vramplan.sources.trt_engine import read_engine
from vramplan.verdict import Change

if TYPE_CHECKING:
    from vramplan.sources.torch_model import TorchModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Shown):
    """Estimates of one model, ordered by runtime, precision and batch as they were asked for.

    ``batches`` are the batches that the cells were asked with, None where the model was to decide. ``notes`` say which cells
    there are not, and why.

    Invariant: there is at least one cell, and one batch for each.
    """

    cells: tuple[Estimate, ...]
    batches: tuple[int | None, ...] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    source: Source | None = field(repr=False, compare=False)
    module: TorchModel | None = field(repr=False, compare=False, default=None)
    options: Options = field(repr=False, compare=False)
    bounds: dict[int | None, Bound] = field(repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cells or len(self.cells) != len(self.batches):
            raise ValueError(f"a sweep of {len(self.cells)} cells and {len(self.batches)} batches")

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def resolve(self, cell: Estimate, change: Change) -> Estimate:
        """*cell* again, with *change* applied: really solved, not scaled.

        Raises `UsageError` or `ModelError` when the model cannot be changed that way.
        """
        if self.source is None and self.module is None:
            raise UsageError("a built engine cannot be changed", hint="Name the .onnx file it was built from.")
        if self.options.turns and (change.batch is not None or change.dims or change.shapes):
            raise UsageError("shapes that change between runs are the caller's to change")
        tell(f"trying {change.flags}")
        asked = next((batch for known, batch in zip(self.cells, self.batches, strict=True) if known is cell), cell.batch)
        batch = asked if change.batch is None else change.batch
        dims, shapes = {**self.options.dims, **change.dims}, {**self.options.shapes, **change.shapes}
        options = replace(
            self.options,
            dims=dims,
            shapes=shapes,
            memory_format=change.memory_format or self.options.memory_format,
            runtime_options={**self.options.runtime_options, **change.runtime_options},
        )
        if cell.runtime == "torch" and self.module is not None:
            return solve_module(self.module, batch, change.precision or cell.precision, options)
        if self.source is None:
            raise UsageError("a module cannot be changed like a graph")
        plain = options.only(cell.runtime)
        keeps_shapes = (dims, shapes) == (self.options.dims, self.options.shapes) and batch in self.bounds
        bound = self.bounds[batch] if keeps_shapes else bind(self.source, batch, plain)
        return solve(bound, change.precision or cell.precision, cell.runtime, plain)


def sweep(
    model: ModelLike,
    *,
    batches: Iterable[int | None] = (None,),
    precisions: Iterable[str] = ("as-is",),
    runtimes: Iterable[str | None] = (None,),
    gpu: str | Gpu | None = None,
    shapes: Shapes | Sequence[Shapes] | None = None,
    dims: Mapping[str, int] | None = None,
    **more: Any,
) -> Sweep:
    """One `Estimate` for each of *runtimes* × *precisions* × *batches*, in that order; see `vramplan.estimate` for *more*.

    A batch of None is 1, or what the file fixes. Raises `UsageError` for arguments that make no sense, among them an
    empty list, and `ModelError` for a model that cannot be read.
    """
    options = Options.of(gpu=gpu, shapes=shapes, dims=dims, **more)
    if path := engine_path(model):
        _Axes.of(("tensorrt",), precisions, batches)
        return Sweep(cells=(estimate_engine(read_engine(path), options.gpu),), batches=(None,), source=None, options=options)
    axes = _Axes.of([find_runtime(model, runtime) for runtime in runtimes], precisions, batches)
    options.checked(axes.runtimes)
    tell("reading the model")
    source = open_model(model) if axes.runtimes != ("torch",) else None
    module = open_module(model, options) if "torch" in axes.runtimes else None
    bounds = {batch: bind(source, batch, options) for batch in axes.batches} if source else {}
    solved: list[tuple[Estimate, int | None]] = []
    refusals: list[RefusedError] = []
    asked = tuple(axes)
    for runtime, precision, batch in asked:
        tell(f"{runtime}, {precision}" + (f", batch {batch}" if batch else ""), done=len(solved), total=len(asked))
        own = options.only(runtime)
        try:
            if runtime == "torch" and module is not None:
                solved.append((solve_module(module, batch, precision, own), batch))
            else:
                solved.append((solve(bounds[batch], precision, runtime, own), batch))
        except RefusedError as error:  # the rows of other runtimes stay
            refusals.append(error)
    if not solved:
        raise refusals[0]
    return Sweep(
        cells=tuple(cell for cell, _ in solved),
        batches=tuple(batch for _, batch in solved),
        notes=(
            *(() if refusals else axes.gaps()),
            *dict.fromkeys(f"no row of onnxruntime: {error.message}" for error in refusals),
        ),
        source=source,
        module=module,
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
        return axes

    def __iter__(self) -> Iterator[tuple[str, str, int | None]]:
        for runtime in self.runtimes:
            for precision in self.precisions:
                if not self._why_left_out(runtime, precision):
                    yield from ((runtime, precision, batch) for batch in self.batches)

    def gaps(self) -> Iterator[str]:
        """A note for each precision that some of the runtimes have no row for."""
        for precision in self.precisions:
            reasons = {runtime: self._why_left_out(runtime, precision) for runtime in self.runtimes}
            for reason in dict.fromkeys(filter(None, reasons.values())):
                runtimes = ", ".join(runtime for runtime in self.runtimes if reasons[runtime] == reason)
                yield f"no row for {precision} in {runtimes}: {reason}"

    def _why_left_out(self, runtime: str, precision: str) -> str:
        """Empty for a cell that is solved; also for one that no runtime has, whose error says more."""
        reasons = [why_not(each, find_policy(precision)) for each in self.runtimes]
        return "" if all(reasons) else why_not(runtime, find_policy(precision))
