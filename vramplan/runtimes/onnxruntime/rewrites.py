"""The graph as a session of the CUDA provider runs it: what is folded, dropped and fused before anything is allocated.

Only rewrites that change what is held in memory are made, in the order of onnxruntime/core/optimizer/graph_transformer_utils.cc
(1.20 and later): constant folding and elimination (basic level), then the fusions that its list names for the CUDA provider
(extended level). Among the latter there is none for a convolution with its activation: those of ``ConvActivationFusion`` and
``ConvAddActivationFusion`` are for other providers, so a Relu after a convolution is a kernel of its own that works in place.

Known limitations: attention and embedding fusions are not made, so that a transformer holds more here than in a session that
finds them; fusions that only rename (Gemm with its Transpose) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vramplan.graph import Graph, Node, Tensor
from vramplan.runtimes.onnxruntime.order import depth_first
from vramplan.runtimes.ops import RANDOM

LEVELS = ("disabled", "basic", "extended", "all")
"""``graph_optimization_level``; the last only adds rewrites for the CPU."""

GONE = frozenset({"Identity", "Dropout"})
"""Ops that are eliminated outright: their result is their input under another name."""

SCALES = frozenset({"BatchNormalization", "Mul", "Add"})
"""What is folded into the weight and bias of a convolution when its other operands are constants."""

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Nodes after the rewrites, in the order of their indices, and the constants that they read.

    ``fused_counts`` says how often each fusion was made. Invariant: every name that a node reads is a key of ``tensors``.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]
    fused_counts: Mapping[str, int]


def rewrite(graph: Graph, level: str = "all", *, is_static: bool = True) -> Rewritten:
    """*graph* after the rewrites of *level* (one of `LEVELS`).

    *is_static* says that the file fixes every dimension: shapes are then constants, and what computes them is folded away.
    """
    work = _Work(graph, is_static)
    if level != "disabled":
        work.eliminate()
        work.fold_constants()
        work.fold_into_convolutions()
        work.matmul_add()
    if level in ("extended", "all"):
        work.gelu()
        work.layer_norm()
        work.bias_gelu()
        work.quick_gelu()
        work.matmul_scale()
        work.matmul_operands()
    if is_static and level in ("extended", "all"):
        work.skip_layer_norm()
        work.bias_softmax()
    return work.result()


class _Work:
    """A graph that is being rewritten: nodes by index, who writes and who reads each tensor."""

    def __init__(self, graph: Graph, is_static: bool) -> None:
        self.graph, self.tensors, self.is_static = graph, dict(graph.tensors), is_static
        self.nodes: dict[int, Node] = dict(enumerate(graph.nodes))
        self.constants = set(graph.weights)
        self.outputs = frozenset(graph.outputs)
        self.counts: Counter[str] = Counter()
        self._highest = len(graph.nodes)
        self._index()

    def _index(self) -> None:
        self.writer = {name: index for index, node in self.nodes.items() for name in node.writes}
        self.readers: dict[str, list[int]] = {}
        for index, node in self.nodes.items():
            for name in node.reads:
                self.readers.setdefault(name, []).append(index)

    def in_order(self) -> Iterator[tuple[int, Node]]:
        """The nodes in the order of execution, which a pass visits them in and numbers new ones by; fused ones are skipped."""
        indices = sorted(self.nodes)
        for position in tuple(depth_first([self.nodes[index] for index in indices])):
            if indices[position] in self.nodes:
                yield indices[position], self.nodes[indices[position]]

    def result(self) -> Rewritten:
        read = dict.fromkeys(name for node in self.nodes.values() for name in node.reads)
        order = dict.fromkeys((*(name for name in self.graph.weights if name in read), *read))
        return Rewritten(
            nodes=tuple(self.nodes[index] for index in sorted(self.nodes)),
            tensors=self.tensors,
            inputs=self.graph.inputs,
            outputs=self.graph.outputs,
            initializers=tuple(name for name in order if name in self.constants),
            fused_counts=dict(self.counts),
        )

    def eliminate(self) -> None:
        """Identity and Dropout vanish, unless their result is one of the graph's, and a Cast to the same type; so do twins.

        Twins do the same to the same (``CommonSubexpressionElimination``).
        """
        alias: dict[str, str] = {}
        seen: dict[tuple[object, ...], Node] = {}
        for index, node in list(self.nodes.items()):
            reads = tuple(alias.get(name, name) for name in node.inputs)
            node = self.nodes[index] = replace(node, inputs=reads)  # noqa: PLW2901  the node as it is now
            if self._is_idle(node) and node.outputs[0] not in self.outputs and self._lacks_readers(node.outputs[1:]):
                alias[node.outputs[0]] = node.inputs[0]
                del self.nodes[index]
                continue
            work = (node.op, node.domain, node.inputs, repr(sorted(node.attributes.items())), len(node.outputs))
            twin = seen.setdefault(work, node)
            if twin is not node and node.op not in RANDOM and not self.outputs.intersection(node.writes):
                alias.update(zip(node.outputs, twin.outputs, strict=True))
                del self.nodes[index]
        self._index()

    def _is_idle(self, node: Node) -> bool:
        is_same = node.op == "Cast" and self.tensors[node.inputs[0]].dtype is self.tensors[node.outputs[0]].dtype
        return node.op in GONE or is_same

    def _lacks_readers(self, names: Iterable[str]) -> bool:
        return not any(name in self.outputs or self.readers.get(name) for name in names)

    def fold_constants(self) -> None:
        """What follows from constants alone is computed once, and becomes a constant itself."""
        for index, node in list(self.nodes.items()):
            if self._is_constant(node) and not self.outputs.intersection(node.writes):
                self.constants.update(node.writes)
                del self.nodes[index]
        self._drop_unread()

    def _is_constant(self, node: Node) -> bool:
        is_known = self.is_static and all(self.tensors[name].value is not None for name in node.writes)
        return node.op == "Constant" or is_known or (node.op not in RANDOM and self.constants.issuperset(node.reads))

    def _drop_unread(self) -> None:
        """Nodes that only worked out what is a constant now."""
        self._index()
        for index in sorted(self.nodes, reverse=True):
            node = self.nodes[index]
            if not any(name in self.outputs or self.readers.get(name) for name in node.writes):
                del self.nodes[index]
                for name in node.reads:
                    self.readers[name].remove(index)
        self._index()

    def fold_into_convolutions(self) -> None:
        """A batch norm, and a scale or a bias with constant operands, joins the convolution before it."""
        for index, node in list(self.nodes.items()):
            while index in self.nodes and node.op in ("Conv", "ConvTranspose") and node.inputs[1] in self.constants:
                after = self._only_reader(node.outputs[0])
                if after is None or not self._is_scale(self.nodes[after], node.outputs[0]):
                    break
                bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else self._new_bias(node)
                node = replace(node, inputs=(*node.inputs[:2], bias), outputs=self.nodes[after].outputs[:1])  # noqa: PLW2901
                if not self._fuse("Conv", (index, after), node, at=index):
                    break

    def _is_scale(self, node: Node, read: str) -> bool:
        others = [name for name in node.reads if name != read]
        shapes = [self.tensors[name].count for name in others]
        result = self.tensors[node.outputs[0]]
        channels = result.shape[1] if result.shape and len(result.shape) > 1 else 0
        is_small = all(count in (1, channels) for count in shapes)
        return node.op in SCALES and bool(others) and is_small and self.constants.issuperset(others)

    def _new_bias(self, node: Node) -> str:
        name, weight = f"{node.inputs[1]}_bias", self.tensors[node.inputs[1]]
        outputs = (self.tensors[node.outputs[0]].shape or (0, 0))[1]
        self.tensors[name] = Tensor(name=name, dtype=weight.dtype, shape=(outputs,))
        self.constants.add(name)
        return name

    def matmul_add(self) -> None:
        """A product and the constant vector that is added to it become one Gemm, where shapes are fixed or have two axes."""
        for index, node in self.in_order():
            after = self._only_reader(node.outputs[0]) if node.op == "MatMul" else None
            if after is None or self.nodes[after].op != "Add" or not (self.is_static or self._rank(node.inputs[0]) == 2):
                continue
            other = next(iter(self._others(self.nodes[after], node.outputs[0])), "")
            if other in self.constants and len(self.tensors[other].shape or ()) == 1 and node.inputs[1] in self.constants:
                fused = Node(
                    name=node.name, op="Gemm", inputs=(*node.inputs, other), outputs=self.nodes[after].outputs, attributes={}
                )
                self._fuse("Gemm", (index, after), fused, at=index)

    def gelu(self) -> None:
        """``x / sqrt(2) → Erf → + 1 → * x → * 0.5``, in either order of the products."""
        for erf in [index for index, node in self.in_order() if node.op == "Erf"]:
            chain = self._gelu_chain(erf)
            if chain:
                root = self._others_constant(self.nodes[chain[0]])
                last = chain[-1]
                fused = Node(
                    name=self.nodes[erf].name, op="Gelu", domain=MICROSOFT, inputs=(root,), outputs=self.nodes[last].outputs
                )
                self._fuse("Gelu", chain, fused)

    def _gelu_chain(self, erf: int) -> tuple[int, ...]:
        before = self.writer.get(self.nodes[erf].inputs[0])
        if before is None or self.nodes[before].op not in ("Div", "Mul"):
            return ()
        x = self._others_constant(self.nodes[before])
        chain, name = [before, erf], self.nodes[erf].outputs[0]
        seen_x = x == ""
        for _ in range(3):
            after = self._only_reader(name)
            if after is None or self.nodes[after].op not in ("Add", "Mul"):
                break
            others = self._others(self.nodes[after], name)
            product = self.writer.get(others[0]) if others else None
            if others == [x]:
                seen_x = True
            elif product is not None and x in self.nodes[product].reads and self.nodes[product].op == "Mul":
                seen_x = True
                chain.append(product)
            elif not self.constants.issuperset(others):
                break
            chain.append(after)
            name = self.nodes[after].outputs[0]
        return tuple(dict.fromkeys(chain)) if seen_x and len(chain) >= 5 else ()

    def layer_norm(self) -> None:
        """``ReduceMean → Sub → Pow → ReduceMean → Add → Sqrt → Div → Mul → Add``."""
        for index, node in self.in_order():
            if node.op != "ReduceMean":
                continue
            x = node.inputs[0]
            chain, result = self._norm_chain(index)
            if result:
                weights = [name for i in chain[-2:] for name in self.nodes[i].reads if name in self.constants]
                fused = Node(name=node.name, op="LayerNormalization", inputs=(x, *weights), outputs=(result,))
                self._fuse("LayerNormalization", chain, fused)

    def _norm_chain(self, index: int) -> tuple[tuple[int, ...], str]:
        x, chain = self.nodes[index].inputs[0], [index]
        subtract = self._only_reader(self.nodes[index].outputs[0])
        if subtract is None or self.nodes[subtract].op != "Sub" or x not in self.nodes[subtract].reads:
            return (), ""
        chain.append(subtract)
        centred = self.nodes[subtract].outputs[0]
        name = centred
        for op in ("Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"):
            found = [i for i in self.readers.get(name, ()) if self.nodes[i].op == op or (op == "Pow" and self._is_square(i))]
            if len(found) != 1:
                return (), ""
            chain.append(found[0])
            name = self.nodes[found[0]].outputs[0]
        return tuple(dict.fromkeys(chain)), name

    def _is_square(self, index: int) -> bool:
        node = self.nodes[index]
        return node.op == "Mul" and len(set(node.inputs)) == 1

    def bias_gelu(self) -> None:
        """The constant vector that is added before a Gelu joins it."""
        for index, node in self.in_order():
            before = self.writer.get(node.inputs[0]) if node.op == "Gelu" else None
            if before is None or self.nodes[before].op != "Add" or self._only_reader(node.inputs[0]) != index:
                continue
            vectors = [name for name in self.nodes[before].reads if name in self.constants and self._rank(name) == 1]
            if vectors:
                fused = replace(node, op="BiasGelu", inputs=self.nodes[before].inputs)
                self._fuse("BiasGelu", (before, index), fused)

    def skip_layer_norm(self) -> None:
        """A sum and the layer norm of it, where nobody else reads the sum."""
        for index, node in self.in_order():
            before = self.writer.get(node.inputs[0]) if node.op == "LayerNormalization" else None
            if before is None or self.nodes[before].op != "Add" or self._rank(node.inputs[0]) != 3:
                continue
            if self._only_reader(node.inputs[0]) != index:
                continue
            reads = self.nodes[before].reads
            if self.constants.intersection(reads) or len({self.tensors[name].shape for name in reads}) != 1:
                continue
            fused = replace(
                node,
                op="SkipLayerNormalization",
                domain=MICROSOFT,
                inputs=(*reads, *node.inputs[1:]),
                outputs=node.outputs[:1],
            )
            self._fuse("SkipLayerNormalization", (before, index), fused)

    def quick_gelu(self) -> None:
        """``x * Sigmoid(x)``, the SiLU of detectors."""
        for index, node in self.in_order():
            after = self._only_reader(node.outputs[0]) if node.op == "Sigmoid" else None
            if after is None or self.nodes[after].op != "Mul":
                continue
            if self._others(self.nodes[after], node.outputs[0]) == [node.inputs[0]]:
                fused = Node(
                    name=node.name, op="QuickGelu", domain=MICROSOFT, inputs=node.inputs, outputs=self.nodes[after].outputs
                )
                self._fuse("QuickGelu", (index, after), fused)

    def bias_softmax(self) -> None:
        """A mask that is added before a Softmax joins it."""
        for index, node in self.in_order():
            before = self.writer.get(node.inputs[0]) if node.op == "Softmax" else None
            if before is not None and self.nodes[before].op == "Add" and self._only_reader(node.inputs[0]) == index:
                fused = replace(node, op="BiasSoftmax", domain=MICROSOFT, inputs=self.nodes[before].inputs)
                self._fuse("BiasSoftmax", (before, index), fused)

    def matmul_scale(self) -> None:
        """A constant factor before or after a matrix product becomes its alpha."""
        for index, node in self.in_order():
            after = self._only_reader(node.outputs[0]) if node.op == "MatMul" else None
            if after is None or self.nodes[after].op not in ("Mul", "Div"):
                continue
            others = self._others(self.nodes[after], node.outputs[0])
            if others and others[0] in self.constants and self.tensors[others[0]].count == 1:
                fused = replace(node, op="FusedMatMul", domain=MICROSOFT, outputs=self.nodes[after].outputs)
                self._fuse("FusedMatMul", (index, after), fused)

    def matmul_operands(self) -> None:
        """A constant factor of an operand, and a transposition of its last two axes, become the product's own."""
        for index, node in self.in_order():
            for position in (0, 1):
                while node.op in ("MatMul", "FusedMatMul") and (taken := self._operand(node, position)):
                    before, operand, swaps = taken
                    flag = "transB" if position else "transA"
                    attributes = {**node.attributes, flag: int(bool(node.attributes.get(flag, 0)) != swaps)}
                    inputs = (operand, node.inputs[1]) if position == 0 else (node.inputs[0], operand)
                    node = replace(node, op="FusedMatMul", domain=MICROSOFT, inputs=inputs, attributes=attributes)  # noqa: PLW2901
                    if not self._fuse("FusedMatMul", (before, index), node, at=index):
                        break

    def _operand(self, node: Node, position: int) -> tuple[int, str, bool] | None:
        """Who writes an operand that can be taken over, what it reads, and whether the last two axes are swapped."""
        before = self.writer.get(node.inputs[position])
        if before is None or before not in self.nodes or self._only_reader(node.inputs[position]) is None:
            return None
        writer = self.nodes[before]
        if writer.op == "Transpose":
            order, rank = writer.attributes.get("perm"), self._rank(writer.inputs[0])
            swapped = (*range(rank - 2), rank - 1, rank - 2)
            return (before, writer.inputs[0], True) if rank > 1 and order == swapped else None
        factors = [name for name in writer.reads if name in self.constants and self.tensors[name].count == 1]
        is_scaled = writer.op in ("Mul", "Div") and len(factors) == 1 and writer.inputs[-1] == factors[0]
        return (before, writer.inputs[0], False) if is_scaled else None

    def _rank(self, name: str) -> int:
        return len(self.tensors[name].shape or ())

    def _others(self, node: Node, name: str) -> list[str]:
        return [other for other in node.reads if other != name]

    def _others_constant(self, node: Node) -> str:
        return next((name for name in node.reads if name not in self.constants), "")

    def _only_reader(self, name: str) -> int | None:
        """The node that reads *name*, when it is one and the graph itself does not."""
        found = self.readers.get(name, ())
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def _fuse(self, what: str, members: Iterable[int], node: Node, *, at: int | None = None) -> bool:
        """Put *node* in the place of *members*: at the index of one of them, or as a new node behind all others.

        Nothing happens when somebody else reads what is written between them.
        """
        inside = set(members)
        between = {name for index in inside for name in self.nodes[index].writes}.difference(node.writes)
        if self.outputs & between or any(not inside.issuperset(self.readers.get(name, ())) for name in between):
            return False
        for index in inside:
            gone = self.nodes.pop(index)
            for name in gone.reads:
                self.readers[name] = [reader for reader in self.readers[name] if reader != index]
        if at is None:
            at, self._highest = self._highest, self._highest + 1
        self.nodes[at] = node
        self.writer.update(dict.fromkeys(node.writes, at))
        for name in node.reads:
            self.readers.setdefault(name, []).append(at)
        self.counts[what] += 1
        return True
