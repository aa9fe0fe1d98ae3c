"""What a session of ONNX Runtime's CUDA provider holds of the card for a graph.

The graph is the one that ONNX Runtime makes of the file, where it is installed to be asked, and one by our own rules elsewhere.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from vramplan.device import ort_graph
from vramplan.errors import RefusedError, UsageError, VramplanError
from vramplan.gpus.context import session_contexts
from vramplan.graph import Graph
from vramplan.held import Bound, Held
from vramplan.options import Options
from vramplan.precision import Converted, Policy, apply_policy
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.onnxruntime.optimised import for_cuda
from vramplan.runtimes.onnxruntime.options import Search, SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.plan import SessionPlan, plan_session
from vramplan.runtimes.onnxruntime.session import Declared
from vramplan.sources import Source, open_model
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnFlags, conv_workspaces


def held_by_session(bound: Bound, converted: Converted, options: Options) -> Held:
    """A session under *options*, and its runs.

    Raises `UsageError` for a precision that a session cannot make of a file, `RefusedError` when ONNX Runtime is here and says
    that it does not take the model.
    """
    if converted.policy.weight_type is not None:
        raise UsageError(
            f"ONNX Runtime does not quantise a model: {converted.policy.name} has to be in the file",
            hint="Name the quantised .onnx file with --precision as-is.",
        )
    session = parse_session_options(options.runtime_options)
    solved, note = _planned(bound, converted, session, _workspaces(options, session))
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
        notes=(note, *solved.notes),
    )


def _workspaces(options: Options, session: SessionOptions) -> ConvWorkspaces:
    heuristic = "B" if session.search is Search.EXHAUSTIVE else "A"
    return conv_workspaces(options.gpu, flags=CudnnFlags(tf32=session.uses_tf32, heuristic=heuristic))


def _planned(
    bound: Bound, converted: Converted, session: SessionOptions, workspaces: ConvWorkspaces
) -> tuple[SessionPlan, str]:
    """The plan of the session's graph, and whose graph it is."""
    declared = Declared.of([item.dims for item in bound.source.inputs])
    graph, version = _session_graph(bound, converted.policy, session.level)
    if graph is not None:
        solved = plan_session(graph, session, declared, workspaces, is_optimised=True)
        return solved, f"ONNX Runtime {version}, installed here, optimised the graph"
    solved = plan_session(converted.graph, session, declared, workspaces)
    if session.level in ("extended", "all"):
        plainer = plan_session(converted.graph, replace(session, level="basic"), declared, workspaces)
        solved = _widened(solved, plainer)
    how = "did not answer" if version else "is not installed"
    return solved, (
        f"ONNX Runtime {how}: the graph is optimised by rules of our own, and high includes a graph with fewer fusions; with"
        " `pip install onnxruntime` it is asked for its own"
    )


def _widened(solved: SessionPlan, other: SessionPlan) -> SessionPlan:
    """*solved* with the limits of *other* in its range: they end up in the slack, because the arena is what differs."""
    ours, theirs = (sum((part for part in _arena_parts(each)), start=Range.exact(0)) for each in (solved, other))
    slack = solved.plan.allocator_slack
    wider = Range(
        low_bytes=max(0, slack.low_bytes - max(0, ours.low_bytes - theirs.low_bytes)),
        nominal_bytes=slack.nominal_bytes,
        high_bytes=slack.high_bytes + max(0, theirs.high_bytes - ours.high_bytes),
        evidence=Evidence.BOUNDED,
    )
    return replace(solved, plan=replace(solved.plan, allocator_slack=wider))


def _arena_parts(solved: SessionPlan) -> tuple[Range, ...]:
    plan = solved.plan
    return (plan.weights, plan.inputs, plan.activations, plan.outputs, plan.workspace, plan.allocator_slack)


def _session_graph(bound: Bound, policy: Policy, level: str) -> tuple[Graph | None, str]:
    """The graph that ONNX Runtime makes of the file, at the sizes and types of this estimate, and its version.

    None when it is not installed (no version either), or gave no answer that can be used. `RefusedError` as it says.
    """
    version = ort_graph.installed_version()
    answer = _answer(bound.source, level) if version else None
    if isinstance(answer, ort_graph.Refusal):
        raise RefusedError(
            f"ONNX Runtime {answer.version} refuses {bound.source.onnx.where}: {answer.reason}",
            hint="Correct the export. `--runtime tensorrt` does not ask ONNX Runtime.",
        )
    if answer is None:
        return None, version or ""
    shapes = {name: bound.graph.tensors[name].shape for name in bound.graph.inputs}
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    try:
        graph = _bound(answer.model_bytes, tuple(known.items()))
        graph = for_cuda(graph, bound.graph, joins_masks=level in ("extended", "all"))
    except (VramplanError, ValueError):
        return None, answer.version
    return apply_policy(graph, policy).graph, answer.version


def _answer(source: Source, level: str) -> ort_graph.Answer | None:
    return _remembered(source.onnx.structure, "extended" if level == "all" else level)


@functools.lru_cache(maxsize=16)
def _remembered(structure: bytes, level: str) -> ort_graph.Answer | None:
    return ort_graph.ask(structure, level)


@functools.lru_cache(maxsize=8)
def _bound(model_bytes: bytes, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Graph:
    return _optimised(model_bytes).bind(batch=None, shapes=dict(shapes), dims={})


@functools.lru_cache(maxsize=4)
def _optimised(model_bytes: bytes) -> Source:
    return open_model(model_bytes)
