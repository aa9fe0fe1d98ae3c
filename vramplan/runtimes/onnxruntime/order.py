"""The order in which a session runs the nodes of its graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vramplan.graph import Node


def execution_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The order that a session runs *nodes* in: from the last leaf upwards, of several inputs the latest node first.

    ``GraphViewer``'s default order: a depth-first walk against the edges that emits a node when all before it are emitted.
    """
    return tuple(nodes[position] for position in depth_first(nodes))


def depth_first(nodes: Sequence[Node]) -> Iterator[int]:
    """The positions of *nodes* in that order."""
    writer = {name: index for index, node in enumerate(nodes) for name in node.writes}
    read = {name for node in nodes for name in node.reads}
    stack = [(index, False) for index, node in enumerate(nodes) if not read.intersection(node.writes)]
    visited: set[int] = set()
    while stack:
        index, leaves = stack.pop()
        if leaves:
            yield index
        elif index not in visited:
            visited.add(index)
            stack.append((index, True))
            before = sorted({writer[name] for name in nodes[index].reads if name in writer})
            stack += ((each, False) for each in before if each not in visited)
