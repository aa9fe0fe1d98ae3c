"""A graph that ONNX Runtime has optimised itself, for the CPU, as a session of the CUDA provider would have it.

Some things differ. The CPU has few kernels for half precision, so a file of that type was given to it in single precision: its
types come back here, and its casts. A mask that is added before a Softmax joins it on CUDA only, where the file fixes all
dimensions. And a HardSwish, which newer versions take apart for the CPU, is one kernel on CUDA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vramplan.dtypes import DType
from vramplan.graph import Graph, Node, Tensor
from vramplan.runtimes.onnxruntime.rewrites import MICROSOFT


def for_cuda(graph: Graph, original: Graph, *, joins_masks: bool) -> Graph:
    """*graph* without what is the CPU's; *original* is the graph of the file, which has the types and the order of the weights.

    *joins_masks* makes BiasSoftmax, as the extended level does with known shapes.
    """
    nodes: Sequence[Node] = _cast(graph.nodes, original)
    swishes = {node.outputs[0]: node.name for node in original.nodes if node.op == "HardSwish"}
    if swishes:
        nodes = _swished(nodes, frozenset(graph.outputs), swishes)
    places = {name: index for index, name in enumerate(original.weights)}
    return replace(
        graph,
        tensors=_typed(graph.tensors, nodes, original),
        nodes=tuple(_biased(nodes, graph) if joins_masks else nodes),
        weights=tuple(sorted(graph.weights, key=lambda name: places.get(name, len(places)))),
    )


def _cast(nodes: Sequence[Node], original: Graph) -> list[Node]:
    """Casts between half and single precision, for which another op stood in."""
    casts = {node.outputs[0]: node for node in original.nodes if node.op == "Cast"}
    return [
        replace(node, op="Cast", attributes=casts[node.outputs[0]].attributes)
        if node.op != "Cast" and node.outputs[0] in casts
        else node
        for node in nodes
    ]


def _typed(tensors: Mapping[str, Tensor], nodes: Sequence[Node], original: Graph) -> dict[str, Tensor]:
    """What the file knows has its type; what a fusion made has that of what its op reads first."""
    found = {
        name: replace(tensor, dtype=original.tensors[name].dtype) if name in original.tensors else tensor
        for name, tensor in tensors.items()
    }
    half = {tensor.dtype for tensor in original.tensors.values() if tensor.dtype.is_float and tensor.dtype.bits == 16}
    for node in nodes if half else ():
        first = next((found[name].dtype for name in node.reads if found[name].dtype.is_float), None)
        for name in (*node.reads, *node.writes) if first in half and node.op != "Cast" else ():
            if name not in original.tensors and found[name].dtype is DType.FLOAT32:
                found[name] = replace(found[name], dtype=first or DType.FLOAT32)
    return found


def _biased(nodes: Sequence[Node], graph: Graph) -> list[Node]:
    """BiasSoftmax: an Add whose only reader is a Softmax is part of it, if what it adds is a mask."""
    reads = Counter(name for node in nodes for name in node.reads)
    sums = {
        node.outputs[0]: node
        for node in nodes
        if node.op == "Add" and node.outputs[0] not in graph.outputs and _adds_mask(node, graph.tensors)
    }
    joined = {
        node.inputs[0] for node in nodes if node.op == "Softmax" and node.inputs[0] in sums and reads[node.inputs[0]] == 1
    }
    found = []
    for node in nodes:
        if node.op == "Softmax" and node.inputs[0] in joined:
            found.append(replace(node, op="BiasSoftmax", domain=MICROSOFT, inputs=sums[node.inputs[0]].inputs))
        elif not joined.intersection(node.writes):
            found.append(node)
    return found


def _adds_mask(add: Node, tensors: Mapping[str, Tensor]) -> bool:
    """Whether one operand repeats over the first batch dimensions of the result, or over the last of them.

    Source: onnxruntime/core/optimizer/bias_softmax_fusion.cc. ::

        scores  8 4 128 128    mask  8 1 1 128    and  1 4 128 128 are masks
                               not   8 1 128 128, which repeats in between
    """
    result = tensors[add.outputs[0]].shape
    shapes = [tensors[name].shape for name in add.inputs]
    masks = [shape for shape in shapes if shape is not None and shape != result]
    if not result or len(masks) != 1 or len(masks[0]) > len(result) or masks[0][-1:] != result[-1:]:
        return False
    padded = (1,) * (len(result) - len(masks[0])) + masks[0]
    repeats = [one == 1 for one, many in zip(padded[:-1], result[:-1], strict=True) if many != 1]
    return repeats in (sorted(repeats), sorted(repeats, reverse=True))


def _swished(nodes: Sequence[Node], outputs: frozenset[str], names: Mapping[str, str]) -> list[Node]:
    """HardSwish again: a product of x and its HardSigmoid that nobody else reads; *names* by result, as in the file."""
    reads = Counter(name for node in nodes for name in node.reads)
    gates = {
        node.outputs[0]: node
        for node in nodes
        if node.op == "HardSigmoid" and reads[node.outputs[0]] == 1 and node.outputs[0] not in outputs
    }
    found, joined = [], set()
    for node in nodes:
        gate = next((gates[name] for name in node.reads if name in gates), None)
        if node.op == "Mul" and gate is not None and set(node.reads) == {gate.inputs[0], gate.outputs[0]}:
            name = names.get(node.outputs[0], node.name)
            found.append(replace(node, name=name, op="HardSwish", inputs=gate.inputs, attributes={}))
            joined.add(gate.outputs[0])
        else:
            found.append(node)
    return [node for node in found if not joined.intersection(node.writes)]
