"""How ONNX Runtime's CUDA provider holds memory for one graph: the arena that a session and its runs leave behind.

What follows from shapes and the published rules is replayed (`vramplan.allocators.bfc`). Two things are not known:

order of initializers   a hash table's: several are drawn, nominal is the one with the median arena, low and high the extremes
scratch of kernels      a range each (`scratch`); low and high are replays with all of them at their limits

An arena never shrinks, so the process holds in the end what the arena took from the driver at any time: the parts are what is
held at the peak of a settled run, and the rest of the arena is slack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

from vramplan.allocators.bfc import BfcPeaks, ExtendStrategy, OutOfMemory, replay
from vramplan.errors import UsageError
from vramplan.graph import Graph
from vramplan.program import MemoryProgram, Role
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.onnxruntime.options import SessionOptions
from vramplan.runtimes.onnxruntime.scratch import scratch_of
from vramplan.runtimes.onnxruntime.session import (
    PATTERN,
    RUNS,
    Declared,
    Prepared,
    by_step,
    orders_by_size,
    prepare,
    session_program,
)
from vramplan.runtimes.plan import Inside, Layer, PhasePeak, Plan
from vramplan.units import format_bytes
from vramplan.workspace.cudnn import ConvWorkspaces

Solved = TypeVar("Solved")

SHOWN = ("session", "run1", "run2", "steady")
"""The phases that are reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A `Plan`, the driver's memory under the arena after each phase (bytes), and where it goes (`account`)."""

    plan: Plan
    device_bytes: Mapping[str, int]
    account: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def plan_session(
    graph: Graph, options: SessionOptions, declared: Declared, workspaces: ConvWorkspaces, *, is_optimised: bool = False
) -> SessionPlan:
    """What a session of *graph* and its runs hold. UsageError when that is more than ``gpu_mem_limit``.

    *is_optimised* says that *graph* is what ONNX Runtime made of the file, in its order.
    """
    return _Solver(prepare(graph, options, declared, is_optimised=is_optimised), options, workspaces).solved()


class _Solver:
    """One prepared graph under one set of options, replayed with several assumptions."""

    def __init__(self, prepared: Prepared, options: SessionOptions, workspaces: ConvWorkspaces) -> None:
        self.prepared, self.options = prepared, options
        self.tensors = prepared.rewritten.tensors
        self.ranges = scratch_of(prepared.nodes, self.tensors, options, workspaces, is_nhwc=prepared.is_nhwc)
        weights = tuple((name, self.tensors[name].size_bytes) for name in prepared.rewritten.initializers)
        self.orders = self.within_limit(lambda: orders_by_size(weights, options.arena, is_reserved=options.reserves_weights))
        self.note = workspaces.note

    def replayed(self, program: MemoryProgram, options: SessionOptions | None = None) -> dict[str, BfcPeaks]:
        chosen = options or self.options
        return self.within_limit(
            lambda: replay(program, chosen.arena, run_phases=RUNS, reserves_weights=chosen.reserves_weights)
        )

    def within_limit(self, solve: Callable[[], Solved]) -> Solved:
        """What *solve* gives. UsageError when the limit is met."""
        try:
            return solve()
        except OutOfMemory as error:
            raise UsageError(
                f"gpu_mem_limit: {format_bytes(error.limit_bytes or 0)} is too little: {format_bytes(error.requested_bytes)}"
                f" more are asked for when {format_bytes(error.reserved_bytes)} are held",
                hint="ONNX Runtime would fail too. Raise gpu_mem_limit, or leave it out.",
            ) from None

    def settled_bytes(self, scratch: Mapping[int, int], order: tuple[str, ...]) -> int:
        """The arena in the end; no more than the limit when that is met."""
        try:
            program = session_program(self.prepared, scratch, order)
            peaks = replay(program, self.options.arena, run_phases=RUNS, reserves_weights=self.options.reserves_weights)
        except OutOfMemory as error:
            return error.limit_bytes or error.reserved_bytes
        return peaks["steady"].device_bytes

    def solved(self) -> SessionPlan:
        """Nominal, with the limits around it."""
        scratch = {step: size.nominal_bytes for step, size in self.ranges.items()}
        program = session_program(self.prepared, scratch, self.orders[len(self.orders) // 2])
        peaks = self.replayed(program)
        low = self.settled_bytes({step: size.low_bytes for step, size in self.ranges.items()}, self.orders[0])
        high = self.settled_bytes({step: size.high_bytes for step, size in self.ranges.items()}, self.orders[-1])
        plan = self.planned(program, peaks, low, high)
        return SessionPlan(
            plan=plan,
            device_bytes={name: peaks[name].device_bytes for name in SHOWN},
            account=tuple(self.account(program, peaks, plan)),
            notes=tuple(self.notes()),
        )

    def planned(self, program: MemoryProgram, peaks: Mapping[str, BfcPeaks], low: int, high: int) -> Plan:
        peak = program.peak("steady")
        held = dict.fromkeys(Role, 0)
        for index in peak.live:
            held[program.buffers[index].role] += program.buffers[index].size_bytes
        scratch = held[Role.WORKSPACE]
        device = peaks["steady"].device_bytes
        slack = device - peak.live_bytes
        sure = peak.live_bytes - held[Role.WORKSPACE]
        return Plan(
            program=program,
            weights=Range.exact(held[Role.WEIGHT]),
            inputs=self.sized(held[Role.INPUT]),
            activations=self.sized(held[Role.ACTIVATION]),
            outputs=self.sized(held[Role.OUTPUT]),
            workspace=Range(low_bytes=0, nominal_bytes=scratch, high_bytes=scratch, evidence=Evidence.BOUNDED),
            allocator_slack=Range(
                low_bytes=min(slack, max(0, low - sure)),
                nominal_bytes=slack,
                high_bytes=max(slack, high - sure - scratch),
                evidence=Evidence.BOUNDED,
            ),
            phases={
                name: PhasePeak(
                    allocated_peak_bytes=peaks[name].in_use_peak_bytes, reserved_peak_bytes=peaks[name].reserved_peak_bytes
                )
                for name in SHOWN
            },
            lower_bound_bytes=max(self.live_bytes(), default=0),
            sum_of_outputs_bytes=sum(
                self.tensors[name].size_bytes
                for node in self.prepared.nodes
                if self.prepared.is_on_gpu(node)
                for name in node.writes
            ),
            peak=peak,
            inside=self.inside(),
            layers=tuple(self.layers(program)),
        )

    def sized(self, size_bytes: int) -> Range:
        """Exact where every size follows from shapes."""
        is_certain = all(self.tensors[member].is_certain for buffer in self.prepared.buffers for member in buffer.members)
        if is_certain:
            return Range.exact(size_bytes)
        return Range(low_bytes=0, nominal_bytes=size_bytes, high_bytes=size_bytes, evidence=Evidence.BOUNDED)

    def live_bytes(self) -> Iterator[int]:
        """Bytes of results and scratch that are held at each step, when nothing is wasted."""
        starts, stops = by_step(self.prepared.buffers)
        live = 0
        for step in range(len(self.prepared.nodes)):
            live += sum(buffer.size_bytes for buffer in starts.get(step, ()))
            scratch = self.ranges.get(step)
            yield live + (scratch.nominal_bytes if scratch else 0)
            live -= sum(buffer.size_bytes for buffer in stops.get(step, ()))

    def inside(self) -> dict[str, Inside]:
        """What the block of the memory pattern holds when it is fullest."""
        own = [buffer for buffer in self.prepared.buffers if not buffer.is_output]
        if not own or not self.prepared.pattern_bytes:
            return {}
        change = [0] * (len(self.prepared.nodes) + 1)
        for buffer in own:
            change[buffer.first_step] += buffer.size_bytes
            change[(buffer.last_step or buffer.first_step) + 1] -= buffer.size_bytes
        live = list(accumulate(change))
        step = live.index(max(live))
        names = [node.name or node.op for node in self.prepared.nodes]
        rows = tuple(
            (buffer.name, buffer.size_bytes, names[buffer.last_step or buffer.first_step])
            for buffer in own
            if buffer.first_step <= step <= (buffer.last_step or buffer.first_step)
        )
        return {PATTERN: Inside(op=names[step], live=rows)}

    def layers(self, program: MemoryProgram) -> Iterator[Layer]:
        """One row for each kernel on the GPU."""
        weights = frozenset(self.prepared.rewritten.initializers)
        first_op = next((index for index, name in enumerate(program.ops) if name == "inputs"), 0)
        for step, (node, live) in enumerate(zip(self.prepared.nodes, self.live_bytes(), strict=True)):
            if not self.prepared.is_on_gpu(node):
                continue
            result, scratch = self.tensors[node.writes[0]], self.ranges.get(step)
            yield Layer(
                name=node.name or node.op,
                kind=node.op.lower(),
                ops=(node.op,),
                dtype=str(result.dtype),
                output_shape=result.shape,
                output_bytes=sum(self.tensors[name].size_bytes for name in node.writes),
                weights_bytes=sum(self.tensors[name].size_bytes for name in set(node.reads) & weights),
                workspace_bytes=scratch.nominal_bytes if scratch else 0,
                live_bytes=live,
                op_index=first_op + 1 + step,
            )

    def account(self, program: MemoryProgram, peaks: Mapping[str, BfcPeaks], plan: Plan) -> Iterator[tuple[str, int]]:
        """Where the arena's bytes go; the lines sum to the arena."""
        arena = replace(self.options.arena, strategy=ExtendStrategy.SAME_AS_REQUESTED, limit_bytes=None)
        device = peaks["steady"].device_bytes
        least = min(self.replayed(program, replace(self.options, arena=arena))["steady"].device_bytes, device)
        held = [
            ("weights", plan.weights.nominal_bytes),
            ("inputs and outputs, copied from and to the CPU", plan.inputs.nominal_bytes + plan.outputs.nominal_bytes),
            ("results of kernels", plan.activations.nominal_bytes),
            ("scratch of kernels at the peak", plan.workspace.nominal_bytes),
        ]
        yield from held
        has_block = self.prepared.pattern_bytes > 0
        beside = "what run 1 took, beside the block of the memory pattern" if has_block else "chunks kept for later"
        yield f"{beside}, and rounding", least - sum(size for _, size in held)
        yield "regions that double, beyond what is asked for", device - least

    def notes(self) -> Iterator[str]:
        """Doubts about this estimate."""
        yield (
            "ONNX Runtime: the arena depends on the order of the weights, which differs from process to process: low and high"
            " include the orders tried"
        )
        yield from self.prepared.placement.notes
        if any(node.op in ("Conv", "ConvTranspose") for node in self.prepared.nodes):
            yield self.note
