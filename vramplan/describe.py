"""From the inside of an estimate to the facts a result shows: the model, the moment of the peak, the coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vramplan.graph import Graph
from vramplan.result import Binding, Coverage, LiveBuffer, ModelFacts, PeakMoment
from vramplan.runtimes.ops import is_known
from vramplan.runtimes.plan import Plan
from vramplan.sources import Source

if TYPE_CHECKING:
    from vramplan.sources.onnx_tree import Declared


def describe_model(source: Source, graph: Graph) -> ModelFacts:
    """Which model it is, with its bindings at the shapes and types of *graph*."""
    return ModelFacts(
        name=source.name,
        format=source.format,
        parameters=graph.parameter_count,
        inputs=tuple(_bindings(source.inputs, graph)),
        outputs=tuple(_bindings(source.outputs, graph)),
        digest=lambda: source.sha256,
    )


def _bindings(declared: Iterable[Declared], graph: Graph) -> Iterable[Binding]:
    for item in declared:
        tensor = graph.tensors[item.name]
        dims = item.dims if item.dims is not None else ("?",) * len(tensor.shape or ())
        yield Binding(name=item.name, dtype=str(tensor.dtype), dims=dims, shape=tensor.shape, size_bytes=tensor.size_bytes)


def describe_peak(plan: Plan) -> PeakMoment:
    """Who is alive at the peak, largest first, and which op lets each go; a compiled region is opened."""
    program, peak = plan.program, plan.peak
    lifetimes = program.lifetimes()
    op, live = program.ops[peak.op_index], list[LiveBuffer]()
    for index in peak.live:
        buffer, stop = program.buffers[index], lifetimes[index].stop
        until = program.ops[program.events[stop].op_index] if stop < len(program.events) else ""
        inside = plan.inside.get(buffer.name)
        rows = inside.live if inside else ()
        is_of_peak = program.events[lifetimes[index].start].op_index == peak.op_index
        op = inside.op if inside and is_of_peak else op  # a block for a whole run says nothing about the op
        live += (LiveBuffer(name=name, role=buffer.role.value, size_bytes=size, until=last) for name, size, last in rows)
        rest = buffer.size_bytes - sum(size for _, size, _ in rows)
        if rest or not inside:
            live.append(LiveBuffer(name=buffer.name, role=buffer.role.value, size_bytes=rest, until=until))
    live.sort(key=lambda item: (-item.size_bytes, item.name))
    return PeakMoment(op=op, index=peak.op_index, live=tuple(live))


def describe_coverage(graph: Graph) -> Coverage:
    """How well the sizes behind each op are known.

    An op is unmodelled when the walk does not know it or could not size its results, bounded when a size depends on the
    data, exact otherwise.
    """
    unmodelled: Counter[str] = Counter()
    bounded = 0
    for node in graph.nodes:
        results = [graph.tensors[name] for name in node.writes]
        if not is_known(node) or any(tensor.shape is None for tensor in results):
            unmodelled[f"{node.domain}.{node.op}" if node.domain else node.op] += 1
        elif not all(tensor.is_certain for tensor in results):
            bounded += 1
    return Coverage(
        ops=len(graph.nodes),
        exact=len(graph.nodes) - bounded - unmodelled.total(),
        measured=0,
        bounded=bounded,
        unmodelled=tuple(f"{op} × {count}" if count > 1 else op for op, count in sorted(unmodelled.items())),
    )
