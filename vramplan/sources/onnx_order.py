"""The order of the nodes in a graph: checked, and restored where it can be."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Set as AbstractSet

from vramplan.errors import ModelError
from vramplan.sources.onnx_tree import Operation
from vramplan.sources.onnx_types import show


def in_order(operations: list[Operation], given: AbstractSet[str], *, where: str) -> tuple[tuple[Operation, ...], bool]:
    """*operations* so that each comes after those it reads from, and whether any had to move.

    ONNX demands this order. A file that breaks it without a cycle is sorted, with nodes that are ready kept in the order
    of the file. Raises `ModelError` for a cycle, and for a name that is written twice or is among *given*.
    """
    producers = _producers(operations, given, where)
    before = [{producers[name] for name in operation.reads if name in producers} for operation in operations]
    if all(not sources or max(sources) < index for index, sources in enumerate(before)):
        return tuple(operations), False
    return tuple(operations[index] for index in _sorted_indices(operations, before, where)), True


def _producers(operations: list[Operation], given: AbstractSet[str], where: str) -> dict[str, int]:
    producers: dict[str, int] = {}
    for index, operation in enumerate(operations):
        for name in filter(None, operation.outputs):
            if name in producers or name in given:
                raise ModelError(
                    f"{where}: tensor {show(name)} is written twice, the second time by node {show(operation.name)} "
                    f"({operation.op[:80]})"
                )
            producers[name] = index
    return producers


def _sorted_indices(operations: list[Operation], before: list[set[int]], where: str) -> list[int]:
    after = defaultdict[int, list[int]](list)
    for index, sources in enumerate(before):
        for source in sources:
            after[source].append(index)
    waiting = [len(sources) for sources in before]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    done: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        done.append(index)
        for follower in after[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(done) < len(operations):
        raise _cycle_error(operations, before, waiting, where)
    return done


def _cycle_error(operations: list[Operation], before: list[set[int]], waiting: list[int], where: str) -> ModelError:
    """Walk back from a node that never became ready, along nodes that never did, until one comes round again."""
    index, seen = next(index for index, count in enumerate(waiting) if count), set[int]()
    while index not in seen:
        seen.add(index)
        index = min(source for source in before[index] if waiting[source])
    operation = operations[index]
    return ModelError(f"{where}: node {show(operation.name)} ({operation.op[:80]}) needs its own output: the graph has a cycle")
