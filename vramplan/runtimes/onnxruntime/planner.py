"""Which results share a buffer: the planner of a session, for one stream.

Source: onnxruntime/core/framework/allocation_planner.cc (``ComputeSingleStreamReusePlan``). Node by node, a result

1. that is the graph's own gets a buffer of its own;
2. of an op that must alias (Reshape) or may work in place (Relu) takes over the buffer of that input: an alias always, in place
   when the input is used for the last time, is neither a weight nor an input of the graph, and has the same shape and width;
3. takes the most recently freed buffer of the same shape and element size;
4. gets a new buffer.

A buffer that is taken over stays held from its first result to the last reader of its last one: also in between, when
nothing lives in it. Shapes are compared as the session knows them before it runs (`symbols`): results whose shape is open share
nothing.

Registration of kernels says which ops work in place: ``MayInplace`` and ``Alias`` in onnxruntime/core/providers/cuda.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vramplan.graph import Node, Tensor
from vramplan.runtimes.onnxruntime.symbols import Known

ALIASES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Optional", "OptionalGetElement"})
"""Ops whose result is their input under another shape."""

IN_PLACE = frozenset({
    "Abs", "Affine", "Ceil", "Cos", "Elu", "Erf", "Exp", "FastGelu", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Log", "Neg", "Not", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
    "Sqrt", "Tanh", "ThresholdedRelu",
})  # fmt: skip
"""Kernels of one operand. Those of two (Add, Mul) write a new buffer on CUDA, and so do Clip, Softmax and the norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One buffer: who lives in it, which step allocates it and which step lets it go (None: it outlives the run).

    Invariant: ``first_step <= last_step`` where there is one.
    """

    name: str
    members: tuple[str, ...]
    size_bytes: int
    first_step: int
    last_step: int | None
    is_output: bool


def share_buffers(
    nodes: Sequence[Node],
    tensors: Mapping[str, Tensor],
    dims: Known,
    *,
    outputs: Iterable[str],
    host: Collection[str] = (),
) -> list[Shared]:
    """The buffers of one run of *nodes*, in the order of their allocation; also those of *host*, which lie on the CPU.

    *dims* is what the session knows of each shape before it runs (`symbols`).
    """
    plan = _Plan(nodes, tensors, dims, frozenset(outputs), frozenset(host))
    for step, node in enumerate(nodes):
        plan.take(step, node)
        plan.let_go(step, node)
    return plan.buffers()


class _Plan:
    """The planner's state: how often each buffer will still be used, and which are free."""

    def __init__(
        self,
        nodes: Sequence[Node],
        tensors: Mapping[str, Tensor],
        dims: Known,
        outputs: frozenset[str],
        host: frozenset[str],
    ) -> None:
        self.tensors, self.dims, self.outputs, self.host = tensors, dims, outputs, host
        self.uses: Counter[str] = Counter(name for node in nodes for name in (*node.reads, *node.writes))
        self.uses.update(outputs)
        self.home: dict[str, str] = {}
        self.members: dict[str, list[str]] = {}
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.free: dict[tuple[object, ...], list[str]] = {}

    def take(self, step: int, node: Node) -> None:
        """Give every result of *node* a buffer."""
        for position, name in enumerate(node.outputs):
            if not name or self._is_view_of_given(node, position, name):
                continue
            source = None if name in self.outputs else self._source(node, position, name)
            if source is None:
                self.home[name], self.members[name], self.first[name] = name, [name], step
            else:
                home = self.home[source]
                self.home[name] = home
                self.members[home].append(name)
                self.uses[home] += self.uses[name]

    def _is_view_of_given(self, node: Node, position: int, name: str) -> bool:
        """Whether *name* is an input of the graph or a weight under another shape: no buffer of the run's own."""
        is_alias = node.op in ALIASES and position == 0 and bool(node.inputs)
        return is_alias and node.inputs[0] not in self.home and name not in self.outputs

    def _source(self, node: Node, position: int, name: str) -> str | None:
        """The tensor whose buffer the result *name* takes over."""
        first = node.inputs[0] if node.inputs else ""
        if position == 0 and first in self.home:
            if node.op in ALIASES:
                return first
            if node.op in IN_PLACE and self.uses[self.home[first]] == 1 and self._size(first) == self._size(name) is not None:
                return first
        stack = self.free.get(self._size(name) or ())
        return stack.pop() if stack else None

    def _size(self, name: str) -> tuple[object, ...] | None:
        """Shape, width and place of what can be compared; None for scalars and shapes that are open before the run."""
        dims = self.dims.get(name)
        is_known = dims and None not in dims and self.tensors[name].is_certain
        return (dims, self.tensors[name].dtype.bits, name in self.host) if is_known else None

    def let_go(self, step: int, node: Node) -> None:
        """Count what *node* has used, and what nothing reads."""
        for name in (*node.reads, *node.writes):
            home = self.home.get(name)
            if home is None:
                continue
            self.uses[home] -= 1
            if self.uses[home] == 0:
                self.last[home] = step
                if size := self._size(home):
                    self.free.setdefault(size, []).append(home)

    def buffers(self) -> list[Shared]:
        return [
            Shared(
                name=name,
                members=tuple(members),
                size_bytes=max(self.tensors[member].size_bytes for member in members),
                first_step=self.first[name],
                last_step=None if name in self.outputs else self.last.get(name),
                is_output=name in self.outputs,
            )
            for name, members in self.members.items()
        ]
