"""Which nodes run as one kernel, which results never exist, and which tensors share storage.

No runtime executes the graph it is given. `fuse` turns a `Graph` into the straight list of kernels that TensorRT would
launch, in four passes:

1. constants are folded: shape arithmetic, anchors, whatever does not depend on an input; views share storage;
2. chains of pointwise ops become one kernel (TensorRT prints it as ``PWN(...)``);
3. bias, normalisation, clamp and residual sum join the convolution before them, and so does any other activation in
   engines of 16 bits and fewer;
4. runs of everything else (attention, reductions, shuffles) are compiled together, as one region.

Sources: the layer fusion catalogue of the TensorRT documentation, and the layer lists of public YOLO engines, where
``/model.0/conv/Conv`` and ``PWN(PWN(/model.0/act/Sigmoid), /model.0/act/Mul)`` are two layers, and later convolutions
of a 16-bit engine carry their activation and their residual sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from vramplan.graph import Graph, Node, Tensor
from vramplan.runtimes.ops import AFFINE, CLAMPS, RANDOM, VIEWS, Kind, kind_of, standard_op


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Nodes that run as one launch, at ``position`` in the node list.

    ``reads`` and ``writes`` are the storage roots that must exist in memory while it runs; constants are not listed.
    A region keeps the kernels it is made of in ``inner``.
    """

    kind: Kind
    position: int
    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    inner: tuple[Kernel, ...] = ()

    @property
    def name(self) -> str:
        """The names of its nodes, joined as TensorRT joins them; the middle of a long chain is left out."""
        names = [node.name or node.op for node in self.nodes]
        return " + ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedGraph:
    """Kernels in execution order. ``root_of`` maps every view to the tensor whose storage it shares.

    ``constants`` are the tensors that kernels read and that no input changes.
    Invariant: what a kernel reads is an input, or was written by an earlier kernel.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    root_of: dict[str, str]
    constants: tuple[str, ...]

    def root(self, name: str) -> str:
        """The tensor whose storage *name* lives in."""
        return self.root_of.get(name, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph after the passes that every engine shares: constants folded, views found, pointwise chains merged."""

    graph: Graph
    kernels: dict[int, Kernel]
    root_of: dict[str, str]
    constants: tuple[str, ...]


def fuse(graph: Graph, *, activations_join: bool) -> FusedGraph:
    """The kernels that run *graph*; ``activations_join`` says whether convolutions carry activations beyond a clamp."""
    return finish(prepare(graph), activations_join=activations_join)


def prepare(graph: Graph) -> Prepared:
    """The first two passes."""
    constants = fold_constants(graph)
    nodes = live_nodes(graph, constants)
    root_of = find_views(graph, nodes, constants)
    kernels = {
        position: _kernel(node, position, root_of, constants)
        for position, node in enumerate(nodes)
        if not all(name in root_of for name in node.writes)
    }
    read = {name for node in nodes for name in node.reads}
    return Prepared(
        graph=graph,
        kernels=_join_pointwise(kernels, graph, root_of),
        root_of=root_of,
        constants=tuple(name for name in graph.tensors if name in constants and name in read),
    )


def finish(prepared: Prepared, *, activations_join: bool) -> FusedGraph:
    """The last two passes."""
    graph, root_of = prepared.graph, prepared.root_of
    kernels = _join_convolutions(prepared.kernels, graph, root_of, activations_join=activations_join)
    ordered = sorted(kernels.values(), key=lambda kernel: kernel.position)
    return FusedGraph(
        graph=graph,
        kernels=tuple(_join_regions(ordered, frozenset(graph.outputs))),
        root_of=root_of,
        constants=prepared.constants,
    )


def fold_constants(graph: Graph) -> set[str]:
    """Names of the tensors that no input changes: weights, shapes, and what is computed from them.

    A dequantised weight is left alone: the engine stores the quantised one.
    """
    constants = {*graph.weights, *(name for name, tensor in graph.tensors.items() if tensor.value is not None)}
    constants.difference_update(graph.inputs)
    for node in graph.nodes:
        is_shape = node.op in {"Shape", "Size"} and all(_is_static(graph.tensors[name]) for name in node.reads)
        is_fixed = node.op not in RANDOM and node.op != "DequantizeLinear" and constants.issuperset(node.reads)
        if is_shape or is_fixed:
            constants.update(node.writes)
    return constants


def live_nodes(graph: Graph, constants: set[str]) -> list[Node]:
    """Nodes whose results reach an output and depend on an input, in execution order."""
    needed, live = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if any(name in needed and name not in constants for name in node.writes):
            live.append(node)
            needed.update(node.reads)
    return live[::-1]


def find_views(graph: Graph, nodes: Iterable[Node], constants: set[str]) -> dict[str, str]:
    """For each tensor that is only another way to look at one: the tensor whose storage it shares."""
    root_of: dict[str, str] = {}
    for node in nodes:
        reads = [name for name in node.reads if name not in constants] or list(node.reads)
        if reads and _is_view(graph, node, reads[0]):
            root = root_of.get(reads[0], reads[0])
            root_of.update(dict.fromkeys(node.writes, root))
    return root_of


def _is_view(graph: Graph, node: Node, source: str) -> bool:
    """Whether the result is *source* seen otherwise. Readers of a dequantised tensor take the quantised one and scale."""
    if any(name in graph.outputs for name in node.writes):
        return False
    tensor, result = graph.tensors[source], graph.tensors[node.writes[0]]
    if node.op == "Slice" and any(step != 1 for step in _slice_steps(graph, node)):
        return False
    if node.op == "Cast":
        return tensor.dtype is result.dtype
    if node.op == "DequantizeLinear":
        return True
    return node.op in VIEWS or (node.op == "Transpose" and _moves_only_ones(tensor, node))


def _slice_steps(graph: Graph, node: Node) -> tuple[int, ...]:
    steps = node.inputs[4] if len(node.inputs) > 4 else ""
    return (graph.tensors[steps].value or ()) if steps else ()


def _moves_only_ones(tensor: Tensor, node: Node) -> bool:
    """A transposition that leaves the order of the dimensions longer than one alone moves no data."""
    order = node.attributes.get("perm")
    if tensor.shape is None or not isinstance(order, tuple) or sorted(order) != list(range(len(tensor.shape))):
        return False
    long = [axis for axis in order if tensor.shape[int(axis)] > 1]
    return long == sorted(long)


def _is_static(tensor: Tensor) -> bool:
    return tensor.shape is not None and tensor.is_certain


def _kernel(node: Node, position: int, root_of: dict[str, str], constants: set[str]) -> Kernel:
    roots = (root_of.get(name, name) for name in node.reads)
    reads = dict.fromkeys(root for root in roots if root not in constants)
    return Kernel(kind=kind_of(node), position=position, nodes=(node,), reads=tuple(reads), writes=node.writes)


def _readers(kernels: Iterable[Kernel], graph: Graph, root_of: dict[str, str]) -> Counter[str]:
    """How many kernels read each root; a graph output counts as one more, for it must exist."""
    readers = Counter(name for kernel in kernels for name in kernel.reads)
    readers.update(root_of.get(name, name) for name in graph.outputs)
    return readers


def _join_pointwise(kernels: dict[int, Kernel], graph: Graph, root_of: dict[str, str]) -> dict[int, Kernel]:
    """Merge each pointwise kernel with the pointwise kernels of the same shape that only it reads."""
    readers = _readers(kernels.values(), graph, root_of)
    joined: dict[int, Kernel] = {}
    producer: dict[str, Kernel] = {}
    for original in kernels.values():
        kernel = original
        while source := _pointwise_source(kernel, producer, readers, graph):
            readers.subtract(set(source.reads) & set(kernel.reads))
            joined.pop(source.position)
            kernel = _merged(source, kernel)
        joined[kernel.position] = kernel
        producer.update(dict.fromkeys(kernel.writes, kernel))
    return joined


def _pointwise_source(kernel: Kernel, producer: dict[str, Kernel], readers: Counter[str], graph: Graph) -> Kernel | None:
    if kernel.kind is not Kind.POINTWISE:
        return None
    sources = (producer[name] for name in kernel.reads if name in producer and readers[name] == 1)
    return next((s for s in sources if s.kind is Kind.POINTWISE and _same_shape(graph, s, kernel)), None)


def _same_shape(graph: Graph, one: Kernel, other: Kernel) -> bool:
    return graph.tensors[one.writes[0]].shape == graph.tensors[other.writes[0]].shape


def _merged(first: Kernel, second: Kernel) -> Kernel:
    """One kernel that does both, at the place of the second."""
    reads = dict.fromkeys(name for name in (*first.reads, *second.reads) if name not in first.writes)
    return Kernel(
        kind=first.kind, position=second.position, nodes=first.nodes + second.nodes, reads=tuple(reads), writes=second.writes
    )


def _join_convolutions(
    kernels: dict[int, Kernel], graph: Graph, root_of: dict[str, str], *, activations_join: bool
) -> dict[int, Kernel]:
    """Merge each pointwise kernel into the last convolution whose result only it reads, where TensorRT can."""
    readers = _readers(kernels.values(), graph, root_of)
    producer = {name: kernel for kernel in kernels.values() for name in kernel.writes}
    joined = dict(kernels)
    for kernel in kernels.values():
        if kernel.kind is Kind.POINTWISE:
            sources = [producer[name] for name in kernel.reads if name in producer and readers[name] == 1]
            sources = [s for s in sources if s.kind is Kind.CONVOLUTION and _same_shape(graph, s, kernel)]
            last = max(sources, key=lambda source: source.position, default=None)
            if last and _may_join(last, kernel, graph, activations_join=activations_join):
                joined.pop(last.position)
                joined[kernel.position] = _merged(last, kernel)
    return joined


ALWAYS_JOIN = CLAMPS | AFFINE | {"QuantizeLinear"}


def _may_join(convolution: Kernel, pointwise: Kernel, graph: Graph, *, activations_join: bool) -> bool:
    """Clamps, folded scales, requantisation and one residual sum always join; other activations only where the engine can.

    The first convolution takes no other activation: few-channel inputs run on kernels of their own.
    """
    if len(pointwise.reads) > 2:
        return False
    if all(standard_op(node) in ALWAYS_JOIN for node in pointwise.nodes):
        return True
    return activations_join and not any(name in graph.inputs for name in convolution.reads)


def _join_regions(kernels: list[Kernel], outputs: frozenset[str]) -> Iterator[Kernel]:
    """Merge each run of consecutive kernels that starts and ends with a region kernel into one region."""
    last_read = {name: kernel.position for kernel in kernels for name in kernel.reads}
    for joins, run in groupby(kernels, key=lambda kernel: kernel.kind in {Kind.REGION, Kind.POINTWISE}):
        members = list(run)
        regional = [index for index, kernel in enumerate(members) if joins and kernel.kind is Kind.REGION]
        if len(regional) < 2:
            yield from members
            continue
        start, stop = regional[0], regional[-1] + 1
        yield from members[:start]
        yield _region(members[start:stop], last_read, outputs)
        yield from members[stop:]


def _region(members: list[Kernel], last_read: Mapping[str, int], outputs: frozenset[str]) -> Kernel:
    position = members[-1].position
    written = [name for kernel in members for name in kernel.writes]
    inside = frozenset(written)
    reads = dict.fromkeys(name for kernel in members for name in kernel.reads if name not in inside)
    return Kernel(
        kind=Kind.REGION,
        position=position,
        nodes=tuple(node for kernel in members for node in kernel.nodes),
        reads=tuple(reads),
        writes=tuple(name for name in written if name in outputs or last_read.get(name, -1) > position),
        inner=tuple(members),
    )
