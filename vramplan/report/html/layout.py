"""Where buffers lie in memory, and what the runtime's allocator holds, step by step: what the pictures of a cell show.

Addresses are offsets in a picture, not device pointers: the regions of an allocator lie one above the other, in the order in
which they are taken. PyTorch's come from a replay through its caching allocator, ONNX Runtime's from one through its arena,
TensorRT's context from the shared blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from vramplan.allocators.bfc import BfcArena, replay
from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.caching import CachingAllocator, CachingRules, Row
from vramplan.allocators.placement import NO_BLOCK, Request
from vramplan.program import Action, Lifetime, MemoryProgram, Role
from vramplan.report.html.places import Place, Region
from vramplan.report.html.planned import planned_places
from vramplan.result import Estimate
from vramplan.runtimes.lowering import ALIGNMENT
from vramplan.runtimes.onnxruntime.options import SessionOptions, parse_session_options
from vramplan.runtimes.onnxruntime.session import runs_in
from vramplan.runtimes.tensorrt import OWN_ROLES

_SEGMENT_ROOM = 1 << 44
"""Between two segments of the replay that a picture is made from: more than any segment has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The memory of one cell over the steps of its program, in bytes.

    reserved_bytes  what the runtime holds after each step (None: not known)
    peak_step       the step at which the parts of the budget are counted; 0 for an empty program
    regions, places where that is; none where the runtime's placement is not known
    inside          what lies within some of ``places``: results that ONNX Runtime plans in its one block

    Invariant: ``reserved_bytes`` has a number for each event.
    """

    reserved_bytes: tuple[int, ...] | None
    peak_step: int
    regions: tuple[Region, ...] = ()
    places: tuple[Place, ...] = ()
    inside: Mapping[Place, tuple[Place, ...]] = field(default_factory=dict)

    @property
    def top(self) -> int:
        """The end of the highest region."""
        return max((region.address + region.size_bytes for region in self.regions), default=0)


def lay_out(cell: Estimate, rules: CachingRules, address_ranks: Sequence[int] = ()) -> Layout:
    """The layout of *cell*; *rules* and the order of segments are for PyTorch's allocator."""
    program = cell.program
    phases = {phase.name: phase for phase in program.phases}
    if cell.runtime == "torch":
        return _caching(program, cell.peak.index, rules, address_ranks)
    if cell.runtime == "onnxruntime":
        return _arena(program, cell.peak.index, parse_session_options(cell.runtime_options))
    if cell.runtime == "tensorrt" and {"engine", "context"} == phases.keys():
        return _engine(program, cell.peak.index, phases["engine"].stop)
    return Layout(reserved_bytes=None, peak_step=_first_peak(program, cell.peak.index, tuple(program.live_bytes())))


def _first_peak(program: MemoryProgram, op_index: int, held_bytes: Sequence[int]) -> int:
    """The first step of the peak's op at which most is held."""
    steps = [step for step, event in enumerate(program.events) if event.op_index == op_index]
    return max(steps or range(len(held_bytes)), key=lambda step: held_bytes[step], default=0)


@dataclass(slots=True)
class _Watched:
    """An allocator's log, each row with its step; what it holds and what it hands out after each step."""

    log: list[Row] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)
    reserved_bytes: list[int] = field(default_factory=list)
    in_use_bytes: list[int] = field(default_factory=list)

    def after(self, step: int, reserved_bytes: int, in_use_bytes: int) -> None:
        self.rows += ((step, row) for row in self.log)
        self.log.clear()
        self.reserved_bytes.append(reserved_bytes)
        self.in_use_bytes.append(in_use_bytes)

    def layout(self, program: MemoryProgram, op_index: int, label: str) -> Layout:
        regions, bases = _segments(self.rows, len(program.events), label)
        return Layout(
            reserved_bytes=tuple(self.reserved_bytes),
            peak_step=_first_peak(program, op_index, self.in_use_bytes),
            regions=regions,
            places=tuple(_placed(self.rows, bases, program.lifetimes())),
        )


def _caching(program: MemoryProgram, op_index: int, rules: CachingRules, ranks: Iterable[int]) -> Layout:
    seen = _Watched()
    allocator = CachingAllocator(rules, segment_addresses=((1 + rank) * _SEGMENT_ROOM for rank in ranks), log=seen.log)
    for step, (action, index, _) in enumerate(program.events):
        if action is Action.HOLD:
            allocator.hold(index, program.buffers[index].size_bytes)
        else:
            allocator.free(index)
        seen.after(step, allocator.reserved_bytes, allocator.allocated_bytes)
    return seen.layout(program, op_index, "segment")


def _arena(program: MemoryProgram, op_index: int, options: SessionOptions) -> Layout:
    seen = _Watched()
    arena = BfcArena(options.arena, log=seen.log)

    def after(step: int) -> None:
        seen.after(step, arena.reserved_bytes, arena.in_use_bytes)

    runs = runs_in(program)
    replay(program, run_phases=runs, reserves_weights=options.reserves_weights, arena=arena, after=after)
    layout = seen.layout(program, op_index, "region")
    return replace(layout, inside=planned_places(program, runs, layout.places))


def _segments(rows: Iterable[tuple[int, Row]], stop: int, label: str) -> tuple[tuple[Region, ...], dict[int, int]]:
    """The segments, one above the other as they are reserved, and where each begins by its address in the replay."""
    taken: dict[int, Region] = {}
    bases: dict[int, int] = {}
    top = 0
    for step, (what, _, address, size) in rows:
        if what == "segment":
            taken[address] = Region(f"{label} {len(taken) + 1}", top, size, step, stop)
            bases[address] = top
            top += size
        elif what == "release":
            taken[address] = taken[address]._replace(stop=step)
    return tuple(taken.values()), bases


def _placed(rows: Iterable[tuple[int, Row]], bases: dict[int, int], lifetimes: Sequence[Lifetime]) -> Iterator[Place]:
    addresses = sorted(bases)
    for step, (what, index, address, size) in rows:
        if what == "hold":
            segment = addresses[bisect_right(addresses, address) - 1]
            yield Place(index, bases[segment] + address - segment, size, step, lifetimes[index].stop)


def _engine(program: MemoryProgram, op_index: int, loaded: int) -> Layout:
    """Weights as they are loaded; from then on the caller's bindings, and the one memory of the context."""
    stop, lifetimes = len(program.events), program.lifetimes()
    own = [index for index, item in enumerate(program.buffers) if item.role in OWN_ROLES and item.size_bytes]
    blocks = assign_blocks([Request(program.buffers[i].size_bytes, lifetimes[i]) for i in own], alignment=ALIGNMENT)
    groups = {
        "weights": [index for index, item in enumerate(program.buffers) if item.role is Role.WEIGHT],
        "inputs and outputs": [i for i, item in enumerate(program.buffers) if item.role in (Role.INPUT, Role.OUTPUT)],
    }
    regions, places, top = list[Region](), list[Place](), 0
    for label, indices in groups.items():
        start, size = top, sum(program.buffers[index].size_bytes for index in indices)
        for index in indices:
            places.append(Place(index, top, program.buffers[index].size_bytes, *lifetimes[index]))
            top += program.buffers[index].size_bytes
        if size:
            regions.append(Region(label, start, size, loaded, stop))
    starts = [top + offset for offset in accumulate(blocks.sizes, initial=0)]
    regions += (Region(f"context block {n + 1}", starts[n], size, loaded, stop) for n, size in enumerate(blocks.sizes))
    for index, block in zip(own, blocks.block_of, strict=True):
        if block != NO_BLOCK:
            places.append(Place(index, starts[block], program.buffers[index].size_bytes, *lifetimes[index]))
    live = tuple(program.live_bytes())
    mine = tuple(_own_bytes(program))
    return Layout(
        reserved_bytes=tuple(size if step < loaded else starts[-1] for step, size in enumerate(live)),
        peak_step=_first_peak(program, op_index, mine),
        regions=tuple(regions),
        places=tuple(places),
    )


def _own_bytes(program: MemoryProgram) -> Iterator[int]:
    """What the context itself holds after each event."""
    sizes = (
        (item.size_bytes if action is Action.HOLD else -item.size_bytes) if item.role in OWN_ROLES else 0
        for action, item in ((event.action, program.buffers[event.buffer_index]) for event in program.events)
    )
    return accumulate(sizes)
