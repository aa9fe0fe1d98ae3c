"""From a graph to the memory program of a session: its creation, and run after run.

``session``  initializers, one by one, in the order of a hash table that differs from process to process
``run1``     inputs copied from the CPU, every result allocated when its kernel runs and freed after its last reader
``run2``     the same, with one block for all results (`pattern`); what run 1 took from the arena stays beside it
``run3``     as run 2, until the arena has settled
``steady``   the run after that: the measured fourth

A session whose input shapes change has one plan for each set of shapes, a `Turn`, and runs them one after the other, round
after round: each has its own memory pattern, and all share the arena.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vramplan.allocators.bfc import BfcArena, BfcRules
from vramplan.allocators.driver import driver_bytes
from vramplan.graph import Graph, Node
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role
from vramplan.runtimes.onnxruntime.options import SessionOptions
from vramplan.runtimes.onnxruntime.order import execution_order
from vramplan.runtimes.onnxruntime.pattern import pattern_bytes
from vramplan.runtimes.onnxruntime.placement import Placement, place
from vramplan.runtimes.onnxruntime.planner import Shared, share_buffers
from vramplan.runtimes.onnxruntime.rewrites import Rewritten, rewrite
from vramplan.runtimes.onnxruntime.scratch import OFF_STREAM
from vramplan.runtimes.onnxruntime.symbols import Dims, known_dims

RUNS = ("run1", "run2", "run3", "steady")

PATTERN = "memory pattern"
"""What the one block for all results is called."""

ORDER_COUNT = 31
"""Orders of the initializers that are tried; the arena's size after them is a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the file says about its inputs' dimensions before anybody binds them.

    ``is_static``: all are fixed. ``knows_sides``: all but the batch axis are, so that convolutions may be NHWC.
    ``dims`` are those of every input (None: their number is open); empty where all are fixed.
    """

    is_static: bool = True
    knows_sides: bool = True
    dims: tuple[Dims | None, ...] = ()

    @classmethod
    def of(cls, dims: Sequence[Sequence[int | str] | None]) -> Declared:
        """From the declared dimensions of every input; None where even their number is open."""
        sizes = [(axis, dim) for shape in dims for axis, dim in enumerate(shape if shape is not None else ("?", "?"))]
        open_axes = [axis for axis, dim in sizes if not isinstance(dim, int)]
        return cls(
            is_static=not open_axes,
            knows_sides=not any(open_axes),
            dims=tuple(None if shape is None else tuple(shape) for shape in dims) if open_axes else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph as a session plans it: ``nodes`` in execution order, and the buffers on the GPU by `Shared`."""

    rewritten: Rewritten
    nodes: tuple[Node, ...]
    placement: Placement
    buffers: tuple[Shared, ...]
    pattern_bytes: int
    is_nhwc: bool

    def is_on_gpu(self, node: Node) -> bool:
        """Whether *node* runs there."""
        return not self.placement.host.issuperset(node.writes)


def prepare(graph: Graph, options: SessionOptions, declared: Declared, *, is_optimised: bool = False) -> Prepared:
    """Rewrite, order, place and plan *graph*; one that a session has optimised itself is rewritten and ordered already."""
    rewritten = rewrite(graph, "disabled" if is_optimised else options.level, is_static=declared.is_static)
    nodes = rewritten.nodes if is_optimised else execution_order(rewritten.nodes)
    constants = frozenset(rewritten.initializers)
    placement = place(nodes, rewritten.tensors, constants)
    rewritten = replace(rewritten, initializers=tuple(name for name in rewritten.initializers if name in placement.weights))
    dims = known_dims(nodes, rewritten.tensors, constants, _input_dims(rewritten, declared))
    shared = share_buffers(nodes, rewritten.tensors, dims, outputs=rewritten.outputs, host=placement.host)
    buffers = tuple(_on_gpu(shared, nodes, placement))
    return Prepared(
        rewritten=rewritten,
        nodes=nodes,
        placement=placement,
        buffers=buffers,
        pattern_bytes=_pattern_bytes(buffers, len(nodes)) if options.uses_pattern else 0,
        is_nhwc=options.prefers_nhwc and declared.knows_sides,
    )


def _input_dims(rewritten: Rewritten, declared: Declared) -> dict[str, Dims | None]:
    """What the file says of the inputs; their actual sizes where it fixes all."""
    if not declared.dims:
        return {name: rewritten.tensors[name].shape for name in rewritten.inputs}
    given = dict(zip(rewritten.inputs, declared.dims, strict=False))
    return {name: given.get(name) for name in rewritten.inputs}


def _on_gpu(shared: Sequence[Shared], nodes: Sequence[Node], placement: Placement) -> Iterator[Shared]:
    """The buffers on the GPU: a result of the CPU is copied there when its first reader runs."""
    for buffer in shared:
        if buffer.name not in placement.host:
            yield buffer
        elif buffer.name in placement.copies:
            steps = range(buffer.first_step, len(nodes))
            first = next(step for step in steps if buffer.name in placement.copied_for(nodes[step]))
            yield replace(buffer, first_step=first)


def _pattern_bytes(buffers: Sequence[Shared], step_count: int) -> int:
    starts, stops = by_step([buffer for buffer in buffers if not buffer.is_output])
    events = []
    for step in range(step_count):
        events += [(buffer.name, buffer.size_bytes) for buffer in starts.get(step, ())]
        events += [(buffer.name, -1) for buffer in stops.get(step, ())]
    return pattern_bytes(events)


def by_step(buffers: Sequence[Shared]) -> tuple[dict[int, list[Shared]], dict[int, list[Shared]]]:
    """Which buffers are allocated at a step, and which are let go after it."""
    starts: dict[int, list[Shared]] = {}
    stops: dict[int, list[Shared]] = {}
    for buffer in buffers:
        starts.setdefault(buffer.first_step, []).append(buffer)
        if buffer.last_step is not None:
            stops.setdefault(buffer.last_step, []).append(buffer)
    return starts, stops


@functools.lru_cache(maxsize=16)
def orders_by_size(weights: tuple[tuple[str, int], ...], rules: BfcRules, *, is_reserved: bool) -> tuple[tuple[str, ...], ...]:
    """Some orders in which the initializers *weights* (name, bytes) may be allocated, from the smallest arena to the largest.

    Fixed draws, the same for everybody; kept, because no batch changes them. Raises `OutOfMemory` beyond a limit.
    """
    drawn = {}
    for seed in range(ORDER_COUNT):
        order = list(weights)
        random.Random(seed).shuffle(order)  # noqa: S311  no secrets: a hash table's order
        drawn[tuple(name for name, _ in order)] = _loaded_bytes([size for _, size in order], rules, is_reserved=is_reserved)
    return tuple(sorted(drawn, key=lambda order: drawn[order]))


def _loaded_bytes(sizes: Iterable[int], rules: BfcRules, *, is_reserved: bool) -> int:
    """What the driver has given once initializers of *sizes* are allocated in that order."""
    arena = BfcArena(rules)
    for index, size_bytes in enumerate(sizes):
        (arena.reserve if is_reserved else arena.hold)(index, size_bytes)
    return driver_bytes(region.size_bytes for region in arena.regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A graph at one set of shapes, and the scratch of its kernels: buffers in bytes by the position of a node."""

    prepared: Prepared
    scratch: Mapping[int, Sequence[int]]


def phases_of(name: str, turn_count: int) -> tuple[str, ...]:
    """The phases that the round *name* of `RUNS` has: itself, or one for each set of shapes."""
    return (name,) if turn_count == 1 else tuple(f"{name}, shapes {number}" for number in range(1, turn_count + 1))


def runs_in(program: MemoryProgram) -> frozenset[str]:
    """The phases of a session's program that are a run each."""
    return frozenset(phase.name for phase in program.phases if phase.name.partition(",")[0] in RUNS)


def session_program(turns: Sequence[Turn], order: Sequence[str]) -> MemoryProgram:
    """The program of a session and its runs, all *turns* in each round; *order* is that of the initializers."""
    builder = ProgramBuilder()
    writers = [_Writer(turn, builder) for turn in turns]
    writers[0].load(order)
    builder.phase("session")
    for name in RUNS:
        for writer, phase in zip(writers, phases_of(name, len(turns)), strict=True):
            writer.run(has_pattern=name != RUNS[0] and writer.prepared.pattern_bytes > 0)
            builder.phase(phase)
    return builder.build()


class _Writer:
    """Writes one turn down."""

    def __init__(self, turn: Turn, builder: ProgramBuilder) -> None:
        self.prepared, self.scratch, self.tensors = turn.prepared, turn.scratch, turn.prepared.rewritten.tensors
        self.builder = builder
        self.starts, self.stops = by_step(turn.prepared.buffers)

    def load(self, order: Sequence[str]) -> None:
        """Initializers; with ``prefer_nhwc`` each weight of a convolution is copied into that layout, and then goes."""
        held = {name: self.hold(name, Role.WEIGHT, self.tensors[name].size_bytes) for name in order}
        if not self.prepared.is_nhwc:
            return
        weights = dict.fromkeys(node.inputs[1] for node in self.prepared.nodes if node.op == "Conv" and node.inputs[1] in held)
        for name in weights:
            self.hold(f"{name} in NHWC", Role.WEIGHT, self.tensors[name].size_bytes)
            self.builder.free(held[name])

    def run(self, *, has_pattern: bool) -> None:
        """One run: inputs, the block if there is one, then kernel by kernel."""
        graph = self.prepared.rewritten
        self.builder.op("inputs")
        inputs = [self.hold(name, Role.INPUT, self.tensors[name].size_bytes) for name in graph.inputs]
        block = self.hold(PATTERN, Role.ACTIVATION, self.prepared.pattern_bytes) if has_pattern else None
        held: dict[str, int] = {}
        for step, node in enumerate(self.prepared.nodes):
            self.builder.op(node.name or node.op)
            for buffer in self.starts.get(step, ()):
                if buffer.is_output or not has_pattern:
                    role = Role.OUTPUT if buffer.is_output else Role.ACTIVATION
                    held[buffer.name] = self.hold(buffer.name, role, buffer.size_bytes)
            self.builder.free(*[self.scratched(node, size_bytes) for size_bytes in self.scratch.get(step, ())])
            self.builder.free(*(held.pop(buffer.name) for buffer in self.stops.get(step, ()) if buffer.name in held))
        self.builder.op("outputs")
        self.builder.free(*held.values(), *(() if block is None else (block,)), *inputs)

    def scratched(self, node: Node, size_bytes: int) -> int:
        """Scratch of *node*."""
        name, is_on_stream = f"scratch of {node.name or node.op}", node.op not in OFF_STREAM
        return self.builder.hold(
            Buffer(name=name, role=Role.WORKSPACE, size_bytes=size_bytes, path=name, is_on_stream=is_on_stream)
        )

    def hold(self, name: str, role: Role, size_bytes: int) -> int:
        return self.builder.hold(Buffer(name=name, role=role, size_bytes=size_bytes, path=name))
