"""A graph at its sizes, and what a runtime holds of the card for it: what `vramplan.estimate` puts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vramplan.errors import UsageError, show
from vramplan.gpus import context_bytes
from vramplan.graph import Graph
from vramplan.options import Options, Shapes
from vramplan.precision import Converted, apply_policy
from vramplan.ranges import Range
from vramplan.result import Profile, Run
from vramplan.runtimes import tensorrt
from vramplan.runtimes.onnxruntime.fallbacks import Fallback
from vramplan.runtimes.plan import PhasePeak, Plan
from vramplan.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A model at one batch: its graph, fused, and the graph that an engine is built for, with the shapes of that.

    ``turns`` is the graph at each set of shapes, in order, where they change between runs.
    """

    source: Source
    batch: int | None
    graph: Graph
    fusions: tensorrt.Fusions
    built: tuple[Graph, tensorrt.Fusions, Shapes] | None
    turns: tuple[Graph, ...] = ()

    @property
    def batch_or_own(self) -> int | None:
        """The batch that was asked for, else the size of the file's first axis."""
        return self.batch if self.batch is not None else self.source.batch_of(self.graph)


def bind(source: Source, batch: int | None, options: Options) -> Bound:
    """Give every dimension a size, at the actual shapes and, for an engine with a profile, at the largest."""
    graph = source.bind(batch=batch, shapes=options.shapes, dims=options.dims)
    built = None
    if max_shapes := options.max_shapes or _widest(options.turns):
        largest = source.bind(batch=None, shapes={**options.shapes, **max_shapes}, dims=options.dims)
        built = largest, tensorrt.Fusions.of(largest), max_shapes
    return Bound(
        source=source,
        batch=batch,
        graph=graph,
        fusions=tensorrt.Fusions.of(graph),
        built=built,
        turns=tuple(source.bind(batch=batch, shapes=shapes, dims=options.dims) for shapes in options.turns),
    )


def _widest(turns: Sequence[Shapes]) -> Shapes:
    """The most of each axis: what an engine that takes all of them is built for. `UsageError` for another number of axes."""
    found: dict[str, tuple[int, ...]] = {}
    for shapes in turns:
        for name, shape in shapes.items():
            if len(found.setdefault(name, shape)) != len(shape):
                raise UsageError(f"--shape: input {show(name)} has {len(found[name])} axes, and {len(shape)}")
            found[name] = tuple(map(max, found[name], shape))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The plan of a runtime, the context of its process, and what only this runtime has to tell."""

    plan: Plan
    context: Range
    phases: Mapping[str, PhasePeak]
    memory_format: str
    profile: Profile | None = None
    account: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()


def held_by_engine(bound: Bound, converted: Converted, options: Options) -> Held:
    """A TensorRT engine, built for the largest shapes, and one execution context."""
    plan = tensorrt.plan(bound.fusions, converted, workspace_cap_bytes=options.workspace_bytes)
    profile = None
    if bound.built:
        graph, fusions, max_shapes = bound.built
        largest = tensorrt.plan(fusions, apply_policy(graph, converted.policy), workspace_cap_bytes=options.workspace_bytes)
        plan, profile = _pay_for_largest(plan, largest, max_shapes)
    context = context_bytes(options.gpu, "tensorrt")
    return Held(plan=plan, context=context, phases=plan.phases, memory_format="engine", profile=profile)


def _pay_for_largest(actual: Plan, largest: Plan, max_shapes: Shapes) -> tuple[Plan, Profile]:
    """An engine holds what its largest shapes need; the caller's tensors stay as large as they are."""
    profile = Profile(
        max_shapes=max_shapes,
        context_bytes=largest.phases["context"].allocated_peak_bytes,
        needed_bytes=actual.phases["context"].allocated_peak_bytes,
    )
    return replace(largest, inputs=actual.inputs, outputs=actual.outputs), profile
