"""What a session of ONNX Runtime's CUDA provider holds of the card for a graph.

The graph is the one that ONNX Runtime makes of the file, where it is installed to be asked, and one by our own rules elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace

from vramplan.device import ort_graph
from vramplan.errors import RefusedError, UsageError, VramplanError, show
from vramplan.gpus.context import session_contexts
from vramplan.graph import Graph
from vramplan.held import Bound, Held
from vramplan.options import Options
from vramplan.precision import Converted, Policy, apply_policy
from vramplan.ranges import Evidence, Range
from vramplan.result import Run
from vramplan.runtimes.onnxruntime.optimised import for_cuda
from vramplan.runtimes.onnxruntime.options import Search, SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.plan import SessionPlan, plan_session
from vramplan.runtimes.onnxruntime.session import Declared
from vramplan.runtimes.plan import PhasePeak
from vramplan.sources import Source, open_model
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces

GRAPH_NODE_BYTES = 64 << 10
"""Of a kernel in a CUDA graph, at most: 362 MB of a process with 500 of them became 395 with 1,000 and 458 with 2,000.

https://forums.developer.nvidia.com/t/increasing-memory-footprint-with-large-task-graphs/244901 (driver 470, CUDA 11.2).
"""

SHOWN_NODES = 4
"""Nodes on the CPU that a note names."""


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
    solved, note = planned(bound, converted, session, conv_workspaces(options.gpu, flags=session.cudnn_flags))
    loaded, run = session_contexts(options.gpu, is_exhaustive=session.search is Search.EXHAUSTIVE)
    captured = _captured(bound, solved) if session.captures_graph else Range.exact(0)
    contexts = {"session": loaded.nominal_bytes}
    phases = {
        name: replace(phase, process_bytes=solved.device_bytes[name] + contexts.get(name, (run + captured).nominal_bytes))
        for name, phase in solved.plan.phases.items()
    }
    if session.captures_graph:
        phases["run1"] = phases["run2"]  # the first call runs again by itself until the graph is captured
    return Held(
        plan=solved.plan,
        context=run + captured,
        phases=phases,
        memory_format="channels_last" if session.prefers_nhwc else "contiguous",
        account=tuple(_account(bound, solved, run, captured)),
        notes=(note, *solved.notes, *_more_notes(solved, session)),
        runs=tuple(_runs(bound, solved, run.nominal_bytes)),
        fallbacks=solved.fallbacks,
    )


def _captured(bound: Bound, solved: SessionPlan) -> Range:
    """What the driver keeps for the kernels of a CUDA graph. `UsageError` where ONNX Runtime captures none."""
    if solved.fallbacks:
        named = ", ".join(f"{show(node.node)} ({node.op})" for node in solved.fallbacks[:3])
        raise UsageError(
            f"enable_cuda_graph: ONNX Runtime captures no graph of a model with nodes on the CPU: {named}",
            hint="Leave the option out.",
        )
    if bound.turns:
        raise UsageError("enable_cuda_graph: a CUDA graph has one set of shapes", hint="Give each input one --shape.")
    most = GRAPH_NODE_BYTES * len(solved.plan.layers)
    return Range(low_bytes=0, nominal_bytes=most, high_bytes=most, evidence=Evidence.BOUNDED)


def _account(bound: Bound, solved: SessionPlan, run: Range, captured: Range) -> Iterator[tuple[str, int]]:
    """From the weights of the file to the process, line by line."""
    yield "context and kernels", run.nominal_bytes
    if captured.nominal_bytes:
        yield "kernels of the CUDA graph", captured.nominal_bytes
    of_file = sum(bound.graph.tensors[name].size_bytes for name in bound.graph.weights)
    for name, size_bytes in solved.account:
        if name != "weights":
            yield name, size_bytes
            continue
        yield "weights, as in the file", of_file
        if size_bytes != of_file:
            yield "weights that are folded, converted, or stay on the CPU", size_bytes - of_file


def _more_notes(solved: SessionPlan, session: SessionOptions) -> Iterator[str]:
    if solved.fallbacks:
        named = [f"{node.node} ({node.op})" for node in solved.fallbacks]
        more = f" and {len(named) - SHOWN_NODES} more" if len(named) > SHOWN_NODES else ""
        yield f"on the CPU: {', '.join(named[:SHOWN_NODES])}{more}; --explain says what is copied for each"
    if session.captures_graph:
        yield (
            "CUDA graph: the driver keeps up to 64 KiB for each kernel (500 more took 32 MiB under driver 470; newer ones need"
            " less); the arena is that of the runs before it was captured, and inputs have to be bound to the GPU"
        )


def _runs(bound: Bound, solved: SessionPlan, context_bytes: int) -> Iterator[Run]:
    for index, peaks in solved.runs:
        graph = bound.turns[index]
        phase = PhasePeak(
            allocated_peak_bytes=peaks.in_use_peak_bytes,
            reserved_peak_bytes=peaks.reserved_peak_bytes,
            process_bytes=peaks.device_bytes + context_bytes,
        )
        yield Run(shapes={name: graph.tensors[name].shape or () for name in graph.inputs}, phase=phase)


def planned(bound: Bound, converted: Converted, session: SessionOptions, workspaces: ConvWorkspaces) -> tuple[SessionPlan, str]:
    """The plan of the session's graph, and whose graph it is."""
    declared = Declared.of([item.dims for item in bound.source.inputs])
    plan = functools.partial(plan_session, declared=declared, workspaces=workspaces)
    optimised, version = _optimised(bound, session.level)
    if optimised is not None:
        with contextlib.suppress(VramplanError, ValueError):  # a graph that our reader makes nothing of
            joins_masks = declared.is_static and session.level in ("extended", "all")
            at = functools.partial(_optimised_graph, optimised, policy=converted.policy, joins_masks=joins_masks)
            turns = tuple(map(at, bound.turns))
            solved = plan(at(bound.graph), session, turns=turns, is_optimised=True)
            return solved, f"ONNX Runtime {version}, installed here, optimised the graph"
    turns = tuple(apply_policy(graph, converted.policy).graph for graph in bound.turns)
    solved = plan(converted.graph, session, turns=turns)
    if session.level in ("extended", "all"):
        solved = _widened(solved, plan(converted.graph, replace(session, level="basic"), turns=turns))
    how = "gave no answer that can be used" if version else "is not installed"
    return solved, (
        f"ONNX Runtime {how}: the graph is optimised by rules of our own, and high includes a graph with fewer fusions"
        + ("" if version else "; with `pip install onnxruntime` it is asked for its own")
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


def _optimised(bound: Bound, level: str) -> tuple[bytes | None, str]:
    """The model that ONNX Runtime makes of the file, serialized, and its version.

    None when it is not installed (no version either), or gave no answer. `RefusedError` when it does not take the model.
    """
    version = ort_graph.installed_version()
    answer = _answer(bound.source.onnx.structure, "extended" if level == "all" else level) if version else None
    if isinstance(answer, ort_graph.Refusal):
        raise RefusedError(
            f"ONNX Runtime {answer.version} refuses {bound.source.onnx.where}: {answer.reason}",
            hint="Correct the export. `--runtime tensorrt` does not ask ONNX Runtime.",
        )
    return (answer.model_bytes, answer.version) if answer is not None else (None, version or "")


def _optimised_graph(model_bytes: bytes, original: Graph, *, policy: Policy, joins_masks: bool) -> Graph:
    """The graph of the model at the sizes of *original*, as a session of the CUDA provider has it, under *policy*."""
    shapes = {name: original.tensors[name].shape for name in original.inputs}
    graph = _bound(model_bytes, tuple((name, shape) for name, shape in shapes.items() if shape is not None))
    return apply_policy(for_cuda(graph, original, joins_masks=joins_masks), policy).graph


@functools.lru_cache(maxsize=16)
def _answer(structure: bytes, level: str) -> ort_graph.Answer | None:
    return ort_graph.ask(structure, level)


@functools.lru_cache(maxsize=8)
def _bound(model_bytes: bytes, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Graph:
    return _opened(model_bytes).bind(batch=None, shapes=dict(shapes), dims={})


@functools.lru_cache(maxsize=4)
def _opened(model_bytes: bytes) -> Source:
    return open_model(model_bytes)
