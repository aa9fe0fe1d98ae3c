"""How TensorRT holds memory: weights once per engine, one activation block per execution context.

``engine``   weights and folded constants, as stored
``context``  inputs and outputs (the caller's bindings), and the context's own memory: results between kernels and the
             scratch of compiled regions. The context's part is what ``ICudaEngine::device_memory_size_v2`` says; it is
             assigned to shared blocks at build time (`vramplan.allocators.blocks`) and sized for the profile's largest
             shapes.

What follows from shapes is computed; what the builder decides by timing kernels is a range:

nominal  convolutions carry any activation in engines of 16 bits and fewer, only clamps in 32-bit ones; results share
         blocks; a concatenation is written in place or copied, whichever takes more: layer lists show both
low      the largest live set when everything fuses: no assignment needs less
high     nothing but clamps fuses, concatenations are copied, an 8-bit engine keeps 16-bit results where those kernels
         won the timing, and one more copy of the largest result is alive: a reformatted one, or the scratch of a tactic

Sources: build logs collected in ``benchmarks/data/published_trt_memory.csv``, the layer lists of public engines, the
TensorRT developer guide ("How TensorRT works: memory").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.placement import Request
from vramplan.graph import Graph
from vramplan.precision import Converted
from vramplan.program import Action, MemoryProgram, Peak, Role
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.fusion import FusedGraph, finish, prepare
from vramplan.runtimes.lowering import ALIGNMENT, lower, region_floor, region_peak, region_scratch, scratch_name
from vramplan.runtimes.plan import Inside, Layer, PhasePeak, Plan
from vramplan.units import KIB, MIB

PERSISTENT = Range(low_bytes=0, nominal_bytes=125 * KIB, high_bytes=2 * MIB, evidence=Evidence.BOUNDED)
"""Device persistent memory of a context: 0 to 2 MB in logs from 8.4 on, at most 125 KB in 10.x."""

WEIGHTS_STORED_RATIO = 1.35
"""Weights may be stored transformed for their kernels: YOLOv8s fp32 took 57 MiB for 42.6 MiB of parameters (8.6)."""

OWN_ROLES = frozenset({Role.ACTIVATION, Role.WORKSPACE})
"""What a context places itself; inputs and outputs are the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusions:
    """A graph fused both ways: with activations in convolutions, and with clamps only."""

    joined: FusedGraph
    plain: FusedGraph

    @classmethod
    def of(cls, graph: Graph) -> Fusions:
        """Fuse *graph*; the result serves every precision, because fusion does not depend on element types."""
        prepared = prepare(graph)
        return cls(joined=finish(prepared, activations_join=True), plain=finish(prepared, activations_join=False))


def plan(fusions: Fusions, converted: Converted, *, workspace_cap_bytes: int | None = None) -> Plan:
    """What an engine of *converted* holds; ``workspace_cap_bytes`` is the builder's workspace limit (None: no limit)."""
    fused = fusions.joined if _joins_activations(converted) else fusions.plain
    program, blocks_bytes = max((_placed(fused, converted, in_place=choice) for choice in (True, False)), key=itemgetter(1))
    peak = context_peak(program)
    alive = [program.buffers[index] for index in peak.live]
    held = {role: sum(buffer.size_bytes for buffer in alive if buffer.role is role) for role in Role}
    own_bytes = held[Role.ACTIVATION] + held[Role.WORKSPACE]
    weights_bytes = sum(buffer.size_bytes for buffer in program.buffers if buffer.role is Role.WEIGHT)
    low_bytes = min(_fewest_bytes(fusions, converted), own_bytes)
    low_activations_bytes = min(held[Role.ACTIVATION], low_bytes)
    high_bytes, copy_bytes = _most_bytes(fusions, converted)
    if workspace_cap_bytes is not None:
        copy_bytes = min(copy_bytes, workspace_cap_bytes)
    scratch = _bounded(low_bytes - low_activations_bytes, held[Role.WORKSPACE], held[Role.WORKSPACE] + copy_bytes)
    return Plan(
        program=program,
        weights=_bounded(weights_bytes, weights_bytes, round(weights_bytes * WEIGHTS_STORED_RATIO)),
        inputs=_bindings(converted.graph, converted.graph.inputs),
        activations=_bounded(low_activations_bytes, held[Role.ACTIVATION], held[Role.ACTIVATION]),
        outputs=_bindings(converted.graph, converted.graph.outputs),
        workspace=scratch + PERSISTENT,
        allocator_slack=_bounded(0, blocks_bytes - own_bytes, max(high_bytes, blocks_bytes) - own_bytes),
        phases={"engine": PhasePeak.of(weights_bytes), "context": PhasePeak.of(blocks_bytes)},
        lower_bound_bytes=largest_live_set(context_requests(program), alignment=ALIGNMENT),
        sum_of_outputs_bytes=_all_results_bytes(fused, converted.graph),
        peak=peak,
        inside=_inside(fused, converted.graph, {buffer.name for buffer in alive}),
        layers=tuple(_layers(fused, converted, program)),
    )


def _placed(fused: FusedGraph, converted: Converted, *, in_place: bool) -> tuple[MemoryProgram, int]:
    """The program, and the bytes of the shared blocks that hold what the context places itself."""
    program = lower(fused, converted, in_place=in_place)
    return program, assign_blocks(context_requests(program), alignment=ALIGNMENT).total_bytes


def _inside(fused: FusedGraph, graph: Graph, alive: set[str]) -> dict[str, Inside]:
    """The regions whose scratch is alive at the peak, opened."""
    opened = {}
    for kernel in fused.kernels:
        if kernel.inner and scratch_name(kernel) in alive:
            member, live = region_peak(kernel, graph.tensors)
            rows = ((name, graph.tensors[name].size_bytes, until.name) for name, until in live.items())
            opened[scratch_name(kernel)] = Inside(op=member.name, live=tuple(rows))
    return opened


def _all_results_bytes(fused: FusedGraph, graph: Graph) -> int:
    """What every kernel writes, those inside a region too, as if nothing were ever freed."""
    kernels = (member for kernel in fused.kernels for member in (kernel.inner or (kernel,)))
    return sum(graph.tensors[name].size_bytes for kernel in kernels for name in kernel.writes)


def context_requests(program: MemoryProgram) -> list[Request]:
    """What the context places itself, with its lifetimes."""
    pairs = zip(program.buffers, program.lifetimes(), strict=True)
    return [
        Request(buffer.size_bytes, lifetime) for buffer, lifetime in pairs if buffer.role in OWN_ROLES and buffer.size_bytes
    ]


def context_peak(program: MemoryProgram) -> Peak:
    """The first step at which most of the context's own bytes are live; ``live`` names everything held then."""
    held = list(_own_live_bytes(program))
    most_bytes = max(held, default=0)
    step_of_most = held.index(most_bytes) if held else 0
    live = tuple(program.live_at(step_of_most))
    op_index = program.events[step_of_most].op_index if program.events else 0
    return Peak(step=step_of_most, op_index=op_index, live_bytes=most_bytes, live=live)


def _fewest_bytes(fusions: Fusions, converted: Converted) -> int:
    least = replace(converted, graph=converted.graph.at_low())
    return largest_live_set(context_requests(lower(fusions.joined, least, scratch=region_floor)))


def _most_bytes(fusions: Fusions, converted: Converted) -> tuple[int, int]:
    """The blocks when little fuses and nothing is narrower than 16 bits, and the largest single result among them."""
    wide = replace(converted, graph=converted.wide_graph)
    requests = context_requests(lower(fusions.plain, wide, in_place=False))
    return assign_blocks(requests, alignment=ALIGNMENT).total_bytes, max(
        (request.size_bytes for request in requests), default=0
    )


def _joins_activations(converted: Converted) -> bool:
    """Whether most results are 16 bits or fewer: the convolutions of those engines carry any activation."""
    floats = [tensor for tensor in converted.graph.tensors.values() if tensor.dtype.is_float]
    wide_bytes = sum(tensor.size_bytes for tensor in floats if tensor.dtype.bits > 16)
    return converted.policy.activation_type is not None or 2 * wide_bytes < sum(tensor.size_bytes for tensor in floats)


def _bounded(low_bytes: int, nominal_bytes: int, high_bytes: int) -> Range:
    return Range(low_bytes=low_bytes, nominal_bytes=nominal_bytes, high_bytes=high_bytes, evidence=Evidence.BOUNDED)


def _bindings(graph: Graph, names: Iterable[str]) -> Range:
    """The caller's tensors: exact when their shapes are certain."""
    tensors = [graph.tensors[name] for name in dict.fromkeys(names)]
    low = sum(tensor.dtype.storage_bytes(tensor.count_low) for tensor in tensors)
    nominal = sum(tensor.size_bytes for tensor in tensors)
    return Range.exact(nominal) if low == nominal else _bounded(low, nominal, nominal)


def _layers(fused: FusedGraph, converted: Converted, program: MemoryProgram) -> Iterator[Layer]:
    """One row per kernel, in execution order; ``live_bytes`` is the most the context holds while it runs."""
    tensors = converted.graph.tensors
    live, constants = _live_by_op(program), frozenset(fused.constants)
    for index, kernel in enumerate(fused.kernels, start=1):
        weights = {fused.root(name) for node in kernel.nodes for name in node.reads} & constants
        result = tensors[kernel.writes[-1]]
        yield Layer(
            name=kernel.name,
            kind=kernel.kind.value,
            ops=tuple(node.op for node in kernel.nodes),
            dtype=str(result.dtype),
            output_shape=result.shape,
            output_bytes=sum(tensors[name].size_bytes for name in kernel.writes),
            weights_bytes=sum(tensors[name].size_bytes for name in weights),
            workspace_bytes=region_scratch(kernel, tensors) if kernel.inner else 0,
            live_bytes=live[index],
        )


def _live_by_op(program: MemoryProgram) -> list[int]:
    most = [0] * len(program.ops)
    for event, live_bytes in zip(program.events, _own_live_bytes(program), strict=True):
        most[event.op_index] = max(most[event.op_index], live_bytes)
    return most


def _own_live_bytes(program: MemoryProgram) -> Iterator[int]:
    """What the context itself holds after each event."""
    live_bytes = 0
    for action, index, _ in program.events:
        buffer = program.buffers[index]
        if buffer.role in OWN_ROLES:
            live_bytes += buffer.size_bytes if action is Action.HOLD else -buffer.size_bytes
        yield live_bytes
