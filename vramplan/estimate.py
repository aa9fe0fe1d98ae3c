"""From a model to its memory budget, in a straight line: source → graph → precision → runtime → budget.

A PyTorch module takes the other road, `vramplan.modules`: source → inputs → trace → allocator → budget. A built engine answers
for itself, `vramplan.engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vramplan.budget import Budget
from vramplan.choosing import find_runtime
from vramplan.describe import describe_coverage, describe_model, describe_peak
from vramplan.engine import estimate_engine
from vramplan.errors import UsageError
from vramplan.gpus import Gpu
from vramplan.held import Bound, bind, held_by_engine
from vramplan.options import ModelLike, Options, Shapes
from vramplan.precision import apply_policy, find_policy
from vramplan.result import Estimate
from vramplan.sessions import held_by_session
from vramplan.sources import engine_path, open_model
from vramplan.sources.torch_spec import require_torch
from vramplan.sources.trt_engine import read_engine

if TYPE_CHECKING:
    from vramplan.sources.torch_model import TorchModel

_HOLDERS = {"tensorrt": held_by_engine, "onnxruntime": held_by_session}


def estimate(
    model: ModelLike,
    *,
    batch: int | None = None,
    precision: str = "as-is",
    runtime: str | None = None,
    gpu: str | Gpu | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    shapes: Shapes | Sequence[Shapes] | None = None,
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
    shapes, dims     whole shapes by input name, sizes by symbolic dimension; a list of such shapes is run in turn, in one
                     session of ONNX Runtime, or by an engine that is built for all of them
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
        runtime_options=runtime_options,
    )
    if path := engine_path(model):
        return estimate_engine(read_engine(path), options.gpu)
    chosen = find_runtime(model, runtime)
    options.checked((chosen,))
    if chosen == "torch":
        return solve_module(open_module(model, options), batch, precision, options)
    return solve(bind(open_model(model), batch, options), precision, chosen, options)


def solve(bound: Bound, precision: str, runtime: str, options: Options) -> Estimate:
    """One cell: the bound model at one precision in one runtime that takes graphs."""
    converted = apply_policy(bound.graph, find_policy(precision))
    held = _HOLDERS[runtime](bound, converted, options)
    plan = held.plan
    budget = Budget(
        weights=plan.weights,
        inputs=plan.inputs,
        activations=plan.activations,
        outputs=plan.outputs,
        workspace=plan.workspace,
        allocator_slack=plan.allocator_slack,
        context=held.context,
    )
    return Estimate(
        model=describe_model(bound.source, converted.graph),
        runtime=runtime,
        precision=converted.policy.name,
        batch=bound.batch_or_own,
        memory_format=held.memory_format,
        gpu=options.gpu,
        budget=budget,
        phases=held.phases,
        lower_bound_bytes=plan.lower_bound_bytes,
        sum_of_outputs_bytes=plan.sum_of_outputs_bytes,
        peak=describe_peak(plan),
        coverage=describe_coverage(converted.graph),
        kept=converted.kept,
        layers=plan.layers,
        profile=held.profile,
        notes=(*bound.graph.notes, *held.notes),
        program=plan.program,
        account=held.account,
        runs=held.runs,
        fallbacks=held.fallbacks,
        runtime_options=options.runtime_options,
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

    return estimate_module(source, batch=batch, precision=precision, options=options)
