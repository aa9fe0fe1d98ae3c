"""A PyTorch module's memory, in a straight line: source → inputs → trace → caching allocator → budget.

The counterpart of `vramplan.engine` and of the ONNX road in `vramplan.estimate`. Imports torch, so it is imported when a module
is to be estimated.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vramplan.allocators.caching_conf import rules_from_environment
from vramplan.budget import Budget
from vramplan.describe import describe_peak
from vramplan.dtypes import DType
from vramplan.errors import ModelError, UsageError
from vramplan.gpus import Gpu, context_bytes
from vramplan.options import Options
from vramplan.precision import Policy, find_policy
from vramplan.program import Buffer, ProgramBuilder, Role
from vramplan.ranges import Evidence, Range
from vramplan.result import Binding, Coverage, Estimate, ModelFacts
from vramplan.runtimes.torch_eager.dtypes import dtype_of, torch_type, torch_version
from vramplan.runtimes.torch_eager.plan import plan
from vramplan.runtimes.torch_eager.quantised import storage_of
from vramplan.runtimes.torch_eager.settings import cudnn_flags
from vramplan.runtimes.torch_eager.shadow import OP_LIMIT, EndlessError, Target, UnshapedError
from vramplan.runtimes.torch_eager.trace import Traced, trace
from vramplan.sources.torch_errors import user_error
from vramplan.sources.torch_inputs import Inputs, bind_inputs
from vramplan.sources.torch_model import TorchModel
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces
from vramplan.workspace.remedies import remedies

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN_DEVICE = (8, 0), 108
"""Compute capability and multiprocessors where no card is named: an A100's."""


def estimate_module(model: TorchModel, *, batch: int | None, precision: str, options: Options) -> Estimate:
    """One cell: *model* at one batch and precision, run eagerly by PyTorch.

    Raises `UsageError` for arguments that make no sense and `ModelError` for a forward that fails on the given shapes.
    """
    policy = find_policy(precision)
    if model.module is None:
        return _estimate_weights(model, policy, options)
    inputs = bind_inputs(model, args=options.args, kwargs=options.kwargs, batch=batch, shapes=options.shapes, dims=options.dims)
    workspaces = conv_workspaces(options.gpu, flags=cudnn_flags())
    traced = _traced(model, inputs, policy, options, workspaces)
    findings = traced.findings
    spared = remedies(findings.convolutions, workspaces)
    workspaces.save()
    rules = rules_from_environment(os.environ)
    parts = plan(traced.program, rules, scratch=findings.scratch, is_known=not findings.bounded)
    budget = Budget(
        weights=parts.weights,
        inputs=parts.inputs,
        activations=parts.activations,
        outputs=parts.outputs,
        workspace=_as_known(parts.workspace, workspaces),
        allocator_slack=_as_known(parts.allocator_slack, workspaces),
        context=context_bytes(options.gpu, "torch", uses_gemm=findings.uses_gemm),
    )
    return Estimate(
        model=_model_facts(model, inputs, traced, policy),
        runtime="torch",
        precision=policy.name,
        batch=batch if batch is not None else inputs.batch,
        memory_format=options.memory_format or "contiguous",
        gpu=options.gpu,
        budget=budget,
        phases=parts.phases,
        lower_bound_bytes=parts.lower_bound_bytes,
        sum_of_outputs_bytes=parts.sum_of_outputs_bytes,
        peak=describe_peak(parts),
        coverage=_coverage(traced),
        kept=(),
        layers=tuple(replace(layer, remedy=spared.get(layer.op_index or 0, "")) for layer in parts.layers),
        profile=None,
        notes=(*model.notes, *_notes(traced, policy, workspaces, options), *findings.notes),
        program=parts.program,
        flops=findings.flops,
        convolutions=findings.convolutions,
    )


def _traced(model: TorchModel, inputs: Inputs, policy: Policy, options: Options, workspaces: ConvWorkspaces) -> Traced:
    module: Any = model.module
    if not hasattr(module, "named_modules"):
        raise ModelError(
            f"{model.name}: only modules can be traced, not {type(module).__name__}", hint="Wrap it in an nn.Module."
        )
    try:
        return trace(
            module,
            inputs.args,
            inputs.kwargs,
            _target(options.gpu, workspaces),
            dtype=torch_type(policy.float_type),
            autocast=torch_type(policy.autocast_type),
            storage=storage_of(policy),
            channels_last=options.memory_format == "channels_last",
            drop_outputs=options.drop_outputs,
        )
    except UnshapedError as error:
        raise ModelError(
            f"{model.name}: PyTorch cannot tell the result shapes of {error}",
            hint="Register a shape function for it with torch.library.register_fake, then run again.",
        ) from None
    except EndlessError as error:
        raise ModelError(
            f"{model.name}: its forward ran {OP_LIMIT:,} operators without an end, last in {str(error) or 'the model itself'}",
            hint="A loop depends on data that an estimate has not: leave post-processing out of the module.",
        ) from None
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise user_error(error, f"forward of {model.name} failed", inputs.shapes) from None


def _as_known(part: Range, workspaces: ConvWorkspaces) -> Range:
    """What follows from measured workspaces is measured, not exact."""
    is_measured = workspaces.measured_count and part.evidence is Evidence.EXACT
    return replace(part, evidence=Evidence.MEASURED) if is_measured else part


def _target(gpu: Gpu | None, workspaces: ConvWorkspaces) -> Target:
    capability, sm_count = UNKNOWN_DEVICE
    if gpu is not None and gpu.compute_capability:
        major, _, minor = gpu.compute_capability.partition(".")
        capability = (int(major), int(minor))
    if gpu is not None and gpu.sm_count:
        sm_count = gpu.sm_count
    return Target(capability=capability, sm_count=sm_count, conv_workspace=workspaces.of, torch_version=torch_version())


def _notes(traced: Traced, policy: Policy, workspaces: ConvWorkspaces, options: Options) -> list[str]:
    notes = [workspaces.note] if traced.findings.doubtful_convolutions else []
    if workspaces.flags.benchmark and traced.findings.convolutions:
        notes.append(
            "torch.backends.cudnn.benchmark is on: every kernel is tried once with its own workspace, so the largest counts;"
            " afterwards the fastest one's does, which nobody knows beforehand"
        )
    if policy.weight_type is not None:
        notes.append(
            f"{policy.name}: {traced.stored_count} weights of linear layers are kept as torchao stores them, the rest is"
            f" {policy.float_type}"
        )
    if options.gpu is None:
        notes.append("no GPU is named: kernels and library workspaces are those of compute capability 8.0")
    return notes


def _coverage(traced: Traced) -> Coverage:
    findings = traced.findings
    bounded, unmodelled = findings.bounded.total() + findings.doubtful_convolutions, findings.unmodelled.total()
    return Coverage(
        ops=findings.ops,
        exact=max(findings.ops - bounded - unmodelled, 0),
        measured=0,
        bounded=min(bounded, findings.ops - unmodelled),
        unmodelled=tuple(f"{op} × {count}" if count > 1 else op for op, count in sorted(findings.unmodelled.items())),
    )


def _model_facts(model: TorchModel, inputs: Inputs, traced: Traced, policy: Policy) -> ModelFacts:
    return ModelFacts(
        name=model.name,
        format=model.format,
        parameters=traced.parameter_count,
        inputs=tuple(_binding(name, tensor, policy.float_type) for name, tensor in inputs.named),
        outputs=tuple(_binding(f"output[{index}]", tensor, None) for index, tensor in enumerate(traced.outputs)),
        digest=model.sha256,
    )


def _binding(name: str, tensor: Tensor, cast: DType | None) -> Binding:
    shape, dtype = tuple(tensor.shape), dtype_of(tensor)
    dtype = cast if cast is not None and dtype.is_float else dtype
    dims: tuple[int | str, ...] = ("batch", *shape[1:]) if shape else ()
    return Binding(name=name, dtype=str(dtype), dims=dims, shape=shape, size_bytes=dtype.storage_bytes(tensor.numel()))


def _estimate_weights(model: TorchModel, policy: Policy, options: Options) -> Estimate:
    """A file of weights only: what they take on the device, and nothing else."""
    if policy.float_type is not None or policy.autocast_type is not None:
        raise UsageError(
            f"{model.name} holds weights only: their element types are as in the file",
            hint="Leave --precision out, or write as-is.",
        )
    builder = ProgramBuilder()
    for weight in model.weights:
        if weight.size_bytes:
            builder.hold(Buffer(name=weight.name, role=Role.WEIGHT, size_bytes=weight.size_bytes, path=weight.name))
    for phase in ("load", "first_run", "steady"):
        builder.phase(phase)
    parts = plan(builder.build(), rules_from_environment(os.environ), scratch={}, is_known=True)
    parameters = sum(math.prod(weight.shape) for weight in model.weights)
    return Estimate(
        model=ModelFacts(
            name=model.name, format=model.format, parameters=parameters, inputs=(), outputs=(), digest=model.sha256
        ),
        runtime="torch",
        precision=policy.name,
        batch=None,
        memory_format=options.memory_format or "contiguous",
        gpu=options.gpu,
        budget=Budget(
            weights=parts.weights,
            inputs=Range.exact(0),
            activations=Range.exact(0),
            outputs=Range.exact(0),
            workspace=Range.exact(0),
            allocator_slack=parts.allocator_slack,
            context=context_bytes(options.gpu, "torch"),
        ),
        phases=parts.phases,
        lower_bound_bytes=parts.lower_bound_bytes,
        sum_of_outputs_bytes=0,
        peak=describe_peak(parts),
        coverage=Coverage(ops=0, exact=0, measured=0, bounded=0, unmodelled=()),
        kept=(),
        layers=(),
        profile=None,
        notes=(*model.notes, "weights only: activations, inputs, outputs and workspace are not known and not in the total"),
        program=parts.program,
    )
