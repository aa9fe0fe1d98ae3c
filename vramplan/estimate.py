"""From a model to its memory budget, in a straight line: source → graph → precision → runtime → budget."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vramplan.budget import Budget
from vramplan.describe import describe_coverage, describe_model, describe_peak
from vramplan.engine import estimate_engine
from vramplan.errors import UsageError, close_matches
from vramplan.gpus import Gpu, context_bytes, find_gpu
from vramplan.graph import Graph
from vramplan.precision import apply_policy, find_policy
from vramplan.result import Estimate, Profile
from vramplan.runtimes import tensorrt
from vramplan.runtimes.plan import Plan
from vramplan.sources import Source, engine_path, open_model
from vramplan.sources.trt_engine import read_engine

ModelLike = str | os.PathLike[str] | bytes
Shapes = Mapping[str, tuple[int, ...]]

RUNTIMES = ("tensorrt",)


def estimate(
    model: ModelLike,
    *,
    batch: int | None = None,
    precision: str = "as-is",
    runtime: str = "tensorrt",
    gpu: str | Gpu | None = None,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    max_shapes: Shapes | None = None,
    workspace_bytes: int | None = None,
) -> Estimate:
    """How much GPU memory *model* takes, part by part, without running it.

    model            an ``.onnx`` file or its bytes, the name of a zoo model (``yolov8s``), or a built TensorRT engine,
                     which is asked for its own numbers
    batch            size of the batch axis; None: 1, or what the file fixes
    precision        fp32, fp16, bf16, fp8, int8, int4, or as-is
    gpu              a name (``"3090"``), a `Gpu`, or None; it decides the context
    shapes, dims     whole shapes by input name, sizes by symbolic dimension
    max_shapes       the largest shapes of an engine's profile, by input name: what the engine pays for
    workspace_bytes  the builder's workspace limit; None: no limit

    Raises `UsageError` for arguments that make no sense and `ModelError` for a model that cannot be read.
    """
    options = Options.of(gpu=gpu, shapes=shapes, dims=dims, max_shapes=max_shapes, workspace_bytes=workspace_bytes)
    if path := engine_path(model):
        return estimate_engine(read_engine(path), options.gpu)
    return solve(bind(open_model(model), batch, options), precision, runtime, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for every cell of a sweep."""

    gpu: Gpu | None
    shapes: Shapes
    dims: Mapping[str, int]
    max_shapes: Shapes
    workspace_bytes: int | None

    @classmethod
    def of(
        cls,
        *,
        gpu: str | Gpu | None = None,
        shapes: Shapes | None = None,
        dims: Mapping[str, int] | None = None,
        max_shapes: Shapes | None = None,
        workspace_bytes: int | None = None,
    ) -> Options:
        """Look the card up and fill in what is not given."""
        return cls(
            gpu=find_gpu(gpu) if isinstance(gpu, str) else gpu,
            shapes=shapes or {},
            dims=dims or {},
            max_shapes=max_shapes or {},
            workspace_bytes=workspace_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A model at one batch: its graph, fused, and the graph that the engine is built for."""

    source: Source
    batch: int | None
    graph: Graph
    fusions: tensorrt.Fusions
    built: tuple[Graph, tensorrt.Fusions] | None


def bind(source: Source, batch: int | None, options: Options) -> Bound:
    """Give every dimension a size, at the actual shapes and, for an engine with a profile, at the largest."""
    graph = source.bind(batch=batch, shapes=options.shapes, dims=options.dims)
    built = None
    if options.max_shapes:
        largest = source.bind(batch=None, shapes={**options.shapes, **options.max_shapes}, dims=options.dims)
        built = largest, tensorrt.Fusions.of(largest)
    return Bound(source=source, batch=batch, graph=graph, fusions=tensorrt.Fusions.of(graph), built=built)


def solve(bound: Bound, precision: str, runtime: str, options: Options) -> Estimate:
    """One cell: the bound model at one precision on one runtime."""
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime[:40]!r} is not modelled", hint=close_matches(runtime, RUNTIMES))
    policy = find_policy(precision)
    converted = apply_policy(bound.graph, policy)
    plan = tensorrt.plan(bound.fusions, converted, workspace_cap_bytes=options.workspace_bytes)
    profile = None
    if bound.built:
        graph, fusions = bound.built
        largest = tensorrt.plan(fusions, apply_policy(graph, policy), workspace_cap_bytes=options.workspace_bytes)
        plan, profile = pay_for_largest(plan, largest, options.max_shapes)
    return Estimate(
        model=describe_model(bound.source, converted.graph),
        runtime=runtime,
        precision=policy.name,
        batch=bound.batch if bound.batch is not None else bound.source.batch_of(bound.graph),
        memory_format="engine",
        gpu=options.gpu,
        budget=budget_of(plan, options.gpu, runtime),
        phases=plan.phases,
        lower_bound_bytes=plan.lower_bound_bytes,
        sum_of_outputs_bytes=plan.sum_of_outputs_bytes,
        peak=describe_peak(plan),
        coverage=describe_coverage(converted.graph),
        kept=converted.kept,
        layers=plan.layers,
        profile=profile,
        notes=bound.graph.notes,
        program=plan.program,
    )


def budget_of(plan: Plan, gpu: Gpu | None, runtime: str) -> Budget:
    """The plan's parts, and the context of the process they live in."""
    return Budget(
        weights=plan.weights,
        inputs=plan.inputs,
        activations=plan.activations,
        outputs=plan.outputs,
        workspace=plan.workspace,
        allocator_slack=plan.allocator_slack,
        context=context_bytes(gpu, runtime),
    )


def pay_for_largest(actual: Plan, largest: Plan, max_shapes: Shapes) -> tuple[Plan, Profile]:
    """An engine holds what its largest shapes need; the caller's tensors stay as large as they are."""
    profile = Profile(
        max_shapes=max_shapes,
        context_bytes=largest.phases["context"].allocated_peak_bytes,
        needed_bytes=actual.phases["context"].allocated_peak_bytes,
    )
    return replace(largest, inputs=actual.inputs, outputs=actual.outputs), profile
