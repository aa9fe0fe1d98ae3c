"""How ONNX Runtime's CUDA provider holds memory for one graph: the arena that a session and its runs leave behind.

What follows from shapes and the published rules is replayed (`vramplan.allocators.bfc`). Two things are not known:

order of initializers   a hash table's: several are drawn, nominal is the one with the median arena when loaded, low and
                        high are the extremes of a few after all runs
scratch of kernels      a range each (`scratch`); low and high are replays with all of them at their limits

An arena never shrinks, so the process holds in the end what the arena took from the driver at any time: the parts are what is
held at the peak of a settled run, and the rest of the arena is slack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

from vramplan.allocators.bfc import BfcPeaks, ExtendStrategy, OutOfMemory, replay
from vramplan.errors import UsageError
from vramplan.graph import Graph
from vramplan.program import MemoryProgram, Role
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.onnxruntime.fallbacks import Fallback, fallbacks
from vramplan.runtimes.onnxruntime.options import SessionOptions
from vramplan.runtimes.onnxruntime.scratch import Scratch, scratch_of
from vramplan.runtimes.onnxruntime.session import (
    PATTERN,
    RUNS,
    Declared,
    Prepared,
    Turn,
    by_step,
    orders_by_size,
    phases_of,
    prepare,
    runs_in,
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
    fallbacks: tuple[Fallback, ...] = ()
    runs: tuple[tuple[int, BfcPeaks], ...] = ()


def plan_session(
    graph: Graph,
    options: SessionOptions,
    declared: Declared,
    workspaces: ConvWorkspaces,
    *,
    is_optimised: bool = False,
    turns: Sequence[Graph] = (),
) -> SessionPlan:
    """What a session of *graph* and its runs hold. UsageError when that is more than ``gpu_mem_limit``.

    *is_optimised* says that *graph* is what ONNX Runtime made of the file, in its order. *turns* is the graph at each of the
    sets of shapes that are run in turn, where they change; ``runs`` of the answer are then the first two rounds, each run with
    the index of its turn. Where only the block of the memory pattern is too large for the limit, ONNX Runtime goes on without
    (execution_frame.cc), and so do we.
    """

    def solved(chosen: SessionOptions) -> SessionPlan:
        prepared = [prepare(each, chosen, declared, is_optimised=is_optimised) for each in turns or (graph,)]
        return _Solver(prepared, chosen, workspaces).solved()

    try:
        return solved(options)
    except UsageError:
        if not options.uses_pattern:
            raise
    plain = solved(replace(options, uses_pattern=False))
    return replace(plain, notes=(*plain.notes, _NO_ROOM))


_SETTLED_COUNT = 5
"""How many orders of the weights are followed through the runs, evenly spread over what they take when loaded."""

_NO_ROOM = (
    "the block of the memory pattern does not fit into gpu_mem_limit: ONNX Runtime allocates result by result at each run"
)


def _nominal_bytes(size: Range) -> int:
    return size.nominal_bytes


def _scratch_of(turn: Prepared, options: SessionOptions, workspaces: ConvWorkspaces) -> Scratch:
    """That of the kernels on the GPU."""
    found = scratch_of(turn.nodes, turn.rewritten.tensors, options, workspaces, is_nhwc=turn.is_nhwc)
    return {step: sizes for step, sizes in found.items() if turn.is_on_gpu(turn.nodes[step])}


class _Solver:
    """A prepared graph, at one or several sets of shapes, under one set of options, replayed with several assumptions.

    ``prepared`` and what follows from it are of the turn that is the largest.
    """

    def __init__(self, turns: Sequence[Prepared], options: SessionOptions, workspaces: ConvWorkspaces) -> None:
        self.turns, self.options = turns, options
        self.scratches = [_scratch_of(turn, options, workspaces) for turn in turns]
        self.steady = phases_of("steady", len(turns))
        self.choose(max(range(len(turns)), key=lambda index: sum(buffer.size_bytes for buffer in turns[index].buffers)))
        prepared = self.prepared
        weights = tuple((name, self.tensors[name].size_bytes) for name in prepared.rewritten.initializers)
        self.orders = self.within_limit(lambda: orders_by_size(weights, options.arena, is_reserved=options.reserves_weights))
        self.note = workspaces.note

    def replayed(self, program: MemoryProgram, options: SessionOptions | None = None) -> dict[str, BfcPeaks]:
        chosen = options or self.options
        return self.within_limit(
            lambda: replay(program, chosen.arena, run_phases=runs_in(program), reserves_weights=chosen.reserves_weights)
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

    def choose(self, index: int) -> None:
        """Let the turn at *index* be the one that is described."""
        self.index, self.prepared, self.ranges = index, self.turns[index], self.scratches[index]
        self.tensors = self.prepared.rewritten.tensors

    def program(self, size_of: Callable[[Range], int], order: tuple[str, ...]) -> MemoryProgram:
        """All turns, with *size_of* each scratch."""
        turns = [
            Turn(prepared=turn, scratch={step: [size_of(size) for size in sizes] for step, sizes in ranges.items()})
            for turn, ranges in zip(self.turns, self.scratches, strict=True)
        ]
        return session_program(turns, order)

    def settled_bytes(self, size_of: Callable[[Range], int], order: tuple[str, ...]) -> int:
        """The arena in the end; no more than the limit when that is met."""
        try:
            program = self.program(size_of, order)
            peaks = replay(
                program, self.options.arena, run_phases=runs_in(program), reserves_weights=self.options.reserves_weights
            )
        except OutOfMemory as error:
            return error.limit_bytes or error.reserved_bytes
        return peaks[self.steady[-1]].device_bytes

    def settled_orders(self, nominal_bytes: int) -> list[tuple[str, ...]]:
        """A few orders of the weights, from the smallest arena after all runs to the largest.

        The one with the smallest arena after loading may have no room for the first run, and be the largest in the end.
        *nominal_bytes* is that of `middle_order`, which has been replayed.
        """
        if self.options.reserves_weights or self.options.arena.strategy is ExtendStrategy.SAME_AS_REQUESTED:
            return [self.orders[0]]  # every weight has a region of its own
        last = len(self.orders) - 1
        spread = [self.orders[round(last * part / (_SETTLED_COUNT - 1))] for part in range(_SETTLED_COUNT)]
        known = {self.middle_order: nominal_bytes}
        return sorted(dict.fromkeys(spread), key=lambda order: known.get(order) or self.settled_bytes(_nominal_bytes, order))

    @property
    def middle_order(self) -> tuple[str, ...]:
        """The order of the weights whose arena is the median once they are loaded."""
        return self.orders[len(self.orders) // 2]

    def solved(self) -> SessionPlan:
        """Nominal, with the limits around it."""
        program = self.program(_nominal_bytes, self.middle_order)
        by_phase = self.replayed(program)
        peaks = {name: self.round(by_phase, name) for name in SHOWN}
        orders = self.settled_orders(by_phase[self.steady[-1]].device_bytes)
        low = self.settled_bytes(lambda size: size.low_bytes, orders[0])
        high = self.settled_bytes(lambda size: size.high_bytes, orders[-1])
        plan = self.planned(program, peaks, low, high)
        return SessionPlan(
            plan=plan,
            device_bytes={name: peaks[name].device_bytes for name in SHOWN},
            account=tuple(self.account(program, peaks, plan)),
            notes=tuple(self.notes()),
            fallbacks=tuple(fallbacks(self.prepared)),
            runs=tuple(self.runs(by_phase)) if len(self.turns) > 1 else (),
        )

    def round(self, peaks: Mapping[str, BfcPeaks], name: str) -> BfcPeaks:
        """The peaks of the round *name*, whatever its runs are called, and what is held at its end."""
        if name in peaks:
            return peaks[name]
        found = [peaks[phase] for phase in phases_of(name, len(self.turns))]
        return replace(
            found[-1],
            in_use_peak_bytes=max(each.in_use_peak_bytes for each in found),
            reserved_peak_bytes=max(each.reserved_peak_bytes for each in found),
        )

    def runs(self, peaks: Mapping[str, BfcPeaks]) -> Iterator[tuple[int, BfcPeaks]]:
        """Two rounds: in the first nothing is planned yet, in the second each turn has its memory pattern."""
        for name in RUNS[:2]:
            for index, phase in enumerate(phases_of(name, len(self.turns))):
                yield index, peaks[phase]

    def planned(self, program: MemoryProgram, peaks: Mapping[str, BfcPeaks], low: int, high: int) -> Plan:
        index, peak = max(
            enumerate(program.peak(phase) for phase in self.steady), key=lambda found: (found[1].live_bytes, -found[0])
        )
        self.choose(index)
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

    def scratch_bytes(self, step: int) -> int:
        """All that the kernel at *step* takes beside its results, nominally."""
        return sum(size.nominal_bytes for size in self.ranges.get(step, ()))

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
            yield live + self.scratch_bytes(step)
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
        starts = [index for index, name in enumerate(program.ops) if name == "inputs"]
        first_op = starts[self.index] if starts else 0
        for step, (node, live) in enumerate(zip(self.prepared.nodes, self.live_bytes(), strict=True)):
            if not self.prepared.is_on_gpu(node):
                continue
            result = self.tensors[node.writes[0]]
            yield Layer(
                name=node.name or node.op,
                kind=node.op.lower(),
                ops=(node.op,),
                dtype=str(result.dtype),
                output_shape=result.shape,
                output_bytes=sum(self.tensors[name].size_bytes for name in node.writes),
                weights_bytes=sum(self.tensors[name].size_bytes for name in set(node.reads) & weights),
                workspace_bytes=self.scratch_bytes(step),
                live_bytes=live,
                op_index=first_op + 1 + step,
            )

    def account(self, program: MemoryProgram, peaks: Mapping[str, BfcPeaks], plan: Plan) -> Iterator[tuple[str, int]]:
        """Where the arena's bytes go; the lines sum to the arena."""
        arena = replace(self.options.arena, strategy=ExtendStrategy.SAME_AS_REQUESTED, limit_bytes=None)
        device = peaks["steady"].device_bytes
        grown = self.replayed(program, replace(self.options, arena=arena))
        least = min(self.round(grown, "steady").device_bytes, device)
        has_block = self.prepared.pattern_bytes > 0
        copied = self.copied_bytes(program, plan)
        where = "results of kernels, in the block of the memory pattern" if has_block else "results of kernels"
        held = [
            ("weights", plan.weights.nominal_bytes),
            ("inputs and outputs, copied from and to the CPU", plan.inputs.nominal_bytes + plan.outputs.nominal_bytes),
            (where, plan.activations.nominal_bytes - copied),
            *([("copies of what the CPU works out", copied)] if copied else []),
            ("scratch of kernels at the peak", plan.workspace.nominal_bytes),
        ]
        yield from held
        live = sum(size for _, size in held)
        used = max(live, min(least, peaks["steady"].in_use_peak_bytes))
        yield "rounding of these to chunks", used - live
        yield "chunks that earlier runs left, of no use to this one" if has_block else "chunks kept for later", least - used
        yield "regions that double, beyond what is asked for", device - least

    def copied_bytes(self, program: MemoryProgram, plan: Plan) -> int:
        """What the results of nodes on the CPU take at the peak."""
        copies = self.prepared.placement.copies
        rows = [(name, size) for inside in plan.inside.values() for name, size, _ in inside.live]
        rows += [(program.buffers[index].name, program.buffers[index].size_bytes) for index in plan.peak.live]
        return sum(size for name, size in rows if name in copies)

    def notes(self) -> Iterator[str]:
        """Doubts about this estimate."""
        yield (
            "ONNX Runtime: the arena depends on the order of the weights, which differs from process to process: low and high"
            " include the orders tried"
        )
        yield from self.prepared.placement.notes
        if any(node.op in ("Conv", "ConvTranspose") for node in self.prepared.nodes):
            yield self.note
