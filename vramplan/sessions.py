"""What a session of ONNX Runtime's CUDA provider holds of the card for a graph."""

from __future__ import annotations

from dataclasses import replace

from vramplan.errors import UsageError
from vramplan.gpus.context import session_contexts
from vramplan.held import Bound, Held
from vramplan.options import Options
from vramplan.precision import Converted
from vramplan.runtimes.onnxruntime.options import Search, SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.plan import plan_session
from vramplan.runtimes.onnxruntime.session import Declared
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnFlags, conv_workspaces


def held_by_session(bound: Bound, converted: Converted, options: Options) -> Held:
    """A session under *options*, and its runs. `UsageError` for a precision that a session cannot make of a file."""
    if converted.policy.weight_type is not None:
        raise UsageError(
            f"ONNX Runtime does not quantise a model: {converted.policy.name} has to be in the file",
            hint="Name the quantised .onnx file with --precision as-is.",
        )
    session = parse_session_options(options.runtime_options)
    declared = Declared.of([item.dims for item in bound.source.inputs])
    solved = plan_session(converted.graph, session, declared, _workspaces(options, session))
    loaded, run = session_contexts(options.gpu)
    phases = {
        name: replace(phase, process_bytes=solved.device_bytes[name] + (loaded if name == "session" else run).nominal_bytes)
        for name, phase in solved.plan.phases.items()
    }
    return Held(
        plan=solved.plan,
        context=run,
        phases=phases,
        memory_format="channels_last" if session.prefers_nhwc else "contiguous",
        account=(("context and kernels", run.nominal_bytes), *solved.account),
        notes=solved.notes,
    )


def _workspaces(options: Options, session: SessionOptions) -> ConvWorkspaces:
    heuristic = "B" if session.search is Search.EXHAUSTIVE else "A"
    return conv_workspaces(options.gpu, flags=CudnnFlags(tf32=session.uses_tf32, heuristic=heuristic))
