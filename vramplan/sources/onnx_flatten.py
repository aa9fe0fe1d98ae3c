"""Walks a `Tree` in execution order and writes down a flat `Graph`: functions and control flow inlined, shapes inferred."""

from __future__ import annotations

from collections.abc import Mapping

from vramplan.graph import Graph
from vramplan.sources.onnx_control import walk_if, walk_loop, walk_scan
from vramplan.sources.onnx_facts import Fact
from vramplan.sources.onnx_scope import Scope
from vramplan.sources.onnx_tensors import describe
from vramplan.sources.onnx_tree import Tree
from vramplan.sources.onnx_walk import Walk

_CONTROL = {"If": walk_if, "Loop": walk_loop, "Scan": walk_scan}


def flatten(tree: Tree, inputs: Mapping[str, tuple[int, ...] | None], symbols: Mapping[str, int], *, where: str) -> Graph:
    """The graph of *tree* with *inputs* of these shapes; *symbols* are the sizes of named dimensions.

    Raises `ModelError` naming the node or tensor that makes no sense.
    """
    walk = Walk(tree, symbols, _CONTROL, where=where)
    scope = Scope(tree.body, opsets=tree.opsets)
    for declared in tree.body.inputs:
        walk.write(scope, declared.name, Fact(dtype=declared.dtype, dims=inputs[declared.name]))
    walk.run(scope)
    outputs = tuple(walk.name_of(scope, declared.name, reader="the list of outputs") for declared in tree.body.outputs)
    names = tuple(scope.names[declared.name] for declared in tree.body.inputs)
    tensors, notes = describe(walk.facts, walk.nodes, (*names, *outputs), walk.weights)
    return Graph(
        name=tree.body.name or "graph",
        tensors=tensors,
        nodes=tuple(walk.nodes),
        inputs=names,
        outputs=outputs,
        weights=tuple(walk.weights),
        notes=(*tree.notes, *dict.fromkeys(walk.notes), *notes),
    )
