"""From a model to its memory budget, in a straight line: source → graph → precision → runtime → budget.

A PyTorch module takes the other road, `vramplan.modules`: source → inputs → trace → allocator → budget.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from vramplan.budget import Budget
from vramplan.describe import describe_coverage, describe_model, describe_peak
from vramplan.device.this_gpu import find_card
from vramplan.engine import estimate_engine
from vramplan.errors import UsageError, close_matches
from vramplan.gpus import Gpu, context_bytes
from vramplan.gpus.context import session_contexts
from vramplan.graph import Graph
from vramplan.precision import apply_policy, find_policy
from vramplan.ranges import Range
from vramplan.result import Estimate, Profile
from vramplan.runtimes import tensorrt
from vramplan.runtimes.onnxruntime.options import Search, SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.plan import plan_session
from vramplan.runtimes.onnxruntime.session import Declared
from vramplan.runtimes.plan import Plan
from vramplan.sources import Source, engine_path, open_model
from vramplan.sources.torch_spec import is_torch_model, require_torch
from vramplan.sources.trt_engine import read_engine
from vramplan.sources.zoo import find_zoo_model
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnFlags, conv_workspaces

if TYPE_CHECKING:
    from torch import nn

    from vramplan.modules import ModuleOptions
    from vramplan.sources.torch_model import TorchModel

ModelLike: TypeAlias = "str | os.PathLike[str] | bytes | nn.Module"
Shapes = Mapping[str, tuple[int, ...]]

RUNTIMES = ("tensorrt", "torch", "onnxruntime")
MEMORY_FORMATS = ("contiguous", "channels_last")


def estimate(
    model: ModelLike,
    *,
    batch: int | None = None,
    precision: str = "as-is",
    runtime: str | None = None,
    gpu: str | Gpu | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    max_shapes: Shapes | None = None,
    workspace_bytes: int | None = None,
    memory_format: str | None = None,
    drop_outputs: bool = False,
    allow_pickle: bool = False,
    runtime_options: Mapping[str, str] | None = None,
) -> Estimate:
    """How much GPU memory *model* takes, part by part, without running it.

    model            an ``.onnx`` file or its bytes, the name of a zoo model (``yolov8s``), or a built TensorRT engine,
                     which is asked for its own numbers; for PyTorch an ``nn.Module`` (fp32 on the CPU, or meta),
                     ``package.module:factory``, ``file.py:factory``, ``.pt2``, TorchScript, safetensors, a state_dict
    batch            size of the batch axis; None: 1, or what the file or the example inputs have
    precision        fp32, fp16, bf16, fp8, int8, int4, or as-is; for PyTorch also autocast-fp16 and autocast-bf16
    runtime          tensorrt, torch or onnxruntime; None: torch for what only PyTorch reads, else tensorrt
    gpu              a name (``"3090"``), ``"auto"`` for this machine's, a `Gpu`, or None; it decides the context, and
                     kernels of PyTorch
    args, kwargs     example inputs of a module, on any device, meta included
    shapes, dims     whole shapes by input name, sizes by symbolic dimension
    max_shapes       the largest shapes of an engine's profile, by input name: what the engine pays for
    workspace_bytes  the builder's workspace limit; None: no limit
    memory_format    contiguous or channels_last, for PyTorch
    drop_outputs     whether PyTorch's steady loop lets go of the last results before it runs again
    allow_pickle     whether a pickled ``.pt`` may be loaded, which runs code from the file
    runtime_options  of an ONNX Runtime session, by its own names: ``{"arena_extend_strategy": "kSameAsRequested"}``

    Raises `UsageError` for arguments that make no sense, `ModelError` for a model that cannot be read or run, and
    `MachineError` when PyTorch is needed and missing, or ``"auto"`` finds no GPU.
    """
    options = Options.of(
        gpu=gpu,
        args=args,
        kwargs=kwargs,
        shapes=shapes,
        dims=dims,
        max_shapes=max_shapes,
        workspace_bytes=workspace_bytes,
        memory_format=memory_format,
        drop_outputs=drop_outputs,
        allow_pickle=allow_pickle,
        runtime_options=runtime_options or {},
    )
    if path := engine_path(model):
        return estimate_engine(read_engine(path), options.gpu)
    runtime = find_runtime(model, runtime)
    check_runtime_options(options, (runtime,))
    if runtime == "torch":
        return solve_module(open_module(model, options), batch, precision, options)
    return solve(bind(open_model(model), batch, options), precision, runtime, options)


def find_runtime(model: ModelLike, runtime: str | None) -> str:
    """The runtime that was asked for, or the one that *model* calls for; `UsageError` when the two do not go together."""
    needs_torch = is_torch_model(model)
    chosen = runtime or ("torch" if needs_torch else "tensorrt")
    if chosen not in RUNTIMES:
        raise UsageError(f"runtime {chosen[:40]!r} is not modelled", hint=close_matches(chosen, RUNTIMES))
    if needs_torch and chosen != "torch":
        raise UsageError(f"{chosen} takes an ONNX file, not a PyTorch model", hint="Use --runtime torch, or export it to ONNX.")
    if chosen == "torch" and not needs_torch and not (isinstance(model, str) and find_zoo_model(model)):
        raise UsageError("PyTorch runs modules, not ONNX files", hint="Name file.py:factory, a zoo model, or a .pt2 file.")
    return chosen


def possible_runtimes(model: ModelLike) -> tuple[str, ...]:
    """Every runtime that can run *model* here, by its kind: PyTorch for zoo models only where it is installed."""
    if is_torch_model(model):
        return ("torch",)
    if engine_path(model):
        return ("tensorrt",)
    is_zoo = isinstance(model, str) and find_zoo_model(model) is not None
    has_torch = is_zoo and importlib.util.find_spec("torch") is not None
    return ("tensorrt", "onnxruntime", *(("torch",) if has_torch else ()))


def check_runtime_options(options: Options, runtimes: Iterable[str]) -> None:
    """`UsageError` for options that no runtime of *runtimes* takes, and for those ONNX Runtime would not take."""
    if options.runtime_options and "onnxruntime" not in runtimes:
        raise UsageError("runtime options are ONNX Runtime's", hint="Use them with --runtime onnxruntime.")
    parse_session_options(options.runtime_options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for every cell of a sweep."""

    gpu: Gpu | None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    shapes: Shapes = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    max_shapes: Shapes = field(default_factory=dict)
    workspace_bytes: int | None = None
    memory_format: str | None = None
    drop_outputs: bool = False
    allow_pickle: bool = False
    runtime_options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        gpu: str | Gpu | None = None,
        shapes: Shapes | None = None,
        dims: Mapping[str, int] | None = None,
        max_shapes: Shapes | None = None,
        memory_format: str | None = None,
        **others: Any,
    ) -> Options:
        """Look the card up and fill in what is not given."""
        if memory_format is not None and memory_format not in MEMORY_FORMATS:
            raise UsageError(f"unknown memory format {memory_format[:40]!r}", hint=close_matches(memory_format, MEMORY_FORMATS))
        return cls(
            gpu=find_card(gpu) if isinstance(gpu, str) else gpu,
            shapes=shapes or {},
            dims=dims or {},
            max_shapes=max_shapes or {},
            memory_format=memory_format,
            **others,
        )

    @property
    def of_module(self) -> ModuleOptions:
        """The part of them that a module needs."""
        from vramplan.modules import ModuleOptions  # noqa: PLC0415  imports torch

        if self.max_shapes or self.workspace_bytes is not None:
            raise UsageError(
                "a largest shape and a workspace limit are TensorRT's", hint="Leave them out with --runtime torch."
            )
        return ModuleOptions(
            gpu=self.gpu,
            args=self.args,
            kwargs=self.kwargs,
            shapes=self.shapes,
            dims=self.dims,
            memory_format=self.memory_format or "contiguous",
            drop_outputs=self.drop_outputs,
        )


def open_module(model: ModelLike, options: Options) -> TorchModel:
    """Read what only PyTorch reads. `MachineError` when it is not installed."""
    require_torch()
    from vramplan.sources.torch_module import open_torch  # noqa: PLC0415  imports torch

    if isinstance(model, bytes):
        raise UsageError("bytes are read as ONNX", hint="Write the model to a file and name that.")
    return open_torch(model, allow_pickle=options.allow_pickle)


def solve_module(source: TorchModel, batch: int | None, precision: str, options: Options) -> Estimate:
    """One cell: a module at one batch and precision, run eagerly by PyTorch."""
    from vramplan.modules import estimate_module  # noqa: PLC0415  imports torch

    return estimate_module(source, batch=batch, precision=precision, options=options.of_module)


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
    if options.args is not None or options.kwargs is not None or options.memory_format or options.drop_outputs:
        raise UsageError("example inputs, memory formats and kept outputs are PyTorch's", hint="Use them with --runtime torch.")
    graph = source.bind(batch=batch, shapes=options.shapes, dims=options.dims)
    built = None
    if options.max_shapes:
        largest = source.bind(batch=None, shapes={**options.shapes, **options.max_shapes}, dims=options.dims)
        built = largest, tensorrt.Fusions.of(largest)
    return Bound(source=source, batch=batch, graph=graph, fusions=tensorrt.Fusions.of(graph), built=built)


def solve(bound: Bound, precision: str, runtime: str, options: Options) -> Estimate:
    """One cell: the bound model at one precision on one runtime."""
    if runtime == "onnxruntime":
        return solve_session(bound, precision, options)
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
        budget=budget_of(plan, context_bytes(options.gpu, runtime)),
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


def solve_session(bound: Bound, precision: str, options: Options) -> Estimate:
    """One cell: the bound model in a session of ONNX Runtime's CUDA provider."""
    if options.max_shapes or options.workspace_bytes is not None:
        raise UsageError(
            "a largest shape and a workspace limit are TensorRT's", hint="Leave them out with --runtime onnxruntime."
        )
    policy = find_policy(precision)
    if policy.weight_type is not None:
        raise UsageError(
            f"ONNX Runtime does not quantise a model: {policy.name} has to be in the file",
            hint="Name the quantised .onnx file with --precision as-is.",
        )
    converted = apply_policy(bound.graph, policy)
    session = parse_session_options(options.runtime_options)
    solved = plan_session(converted.graph, session, _declared(bound.source), _workspaces(options, session))
    loaded, run = session_contexts(options.gpu)
    phases = {
        name: replace(phase, process_bytes=solved.device_bytes[name] + (loaded if name == "session" else run).nominal_bytes)
        for name, phase in solved.plan.phases.items()
    }
    return Estimate(
        model=describe_model(bound.source, converted.graph),
        runtime="onnxruntime",
        precision=policy.name,
        batch=bound.batch if bound.batch is not None else bound.source.batch_of(bound.graph),
        memory_format="channels_last" if session.prefers_nhwc else "contiguous",
        gpu=options.gpu,
        budget=budget_of(solved.plan, run),
        phases=phases,
        lower_bound_bytes=solved.plan.lower_bound_bytes,
        sum_of_outputs_bytes=solved.plan.sum_of_outputs_bytes,
        peak=describe_peak(solved.plan),
        coverage=describe_coverage(converted.graph),
        kept=converted.kept,
        layers=solved.plan.layers,
        profile=None,
        notes=(*bound.graph.notes, *solved.notes),
        program=solved.plan.program,
        account=(("context and kernels", run.nominal_bytes), *solved.account),
        runtime_options=session.given,
    )


def _declared(source: Source) -> Declared:
    return Declared.of([item.dims for item in source.inputs])


def _workspaces(options: Options, session: SessionOptions) -> ConvWorkspaces:
    heuristic = "B" if session.search is Search.EXHAUSTIVE else "A"
    return conv_workspaces(options.gpu, flags=CudnnFlags(tf32=session.uses_tf32, heuristic=heuristic))


def budget_of(plan: Plan, context: Range) -> Budget:
    """The plan's parts, and the context of the process they live in."""
    return Budget(
        weights=plan.weights,
        inputs=plan.inputs,
        activations=plan.activations,
        outputs=plan.outputs,
        workspace=plan.workspace,
        allocator_slack=plan.allocator_slack,
        context=context,
    )


def pay_for_largest(actual: Plan, largest: Plan, max_shapes: Shapes) -> tuple[Plan, Profile]:
    """An engine holds what its largest shapes need; the caller's tensors stay as large as they are."""
    profile = Profile(
        max_shapes=max_shapes,
        context_bytes=largest.phases["context"].allocated_peak_bytes,
        needed_bytes=actual.phases["context"].allocated_peak_bytes,
    )
    return replace(largest, inputs=actual.inputs, outputs=actual.outputs), profile
