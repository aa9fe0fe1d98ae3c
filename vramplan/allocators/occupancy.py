"""Which addresses are taken at which steps.

A segment tree over the steps. A lifetime is cut into the few tree nodes that tile it; each node keeps the addresses that
are taken, not who took them, so buffers packed side by side cost one entry, however many they are.

::

    steps        0 1 2 3         covered[n]: taken at every step below node n by lifetimes that have n as a tile
    tree         [  1  ]         touched[n]: taken at some step below node n
                 [2 ][3 ]
    [0, 3)        2 + leaf 2     taken during [0, 3) = touched of its tiles + covered of all nodes above them

Addresses taken are sorted edges: ``[0, 4, 6, 9]`` is bytes [0, 4) and [6, 9).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from vramplan.program import Lifetime


class Occupancy:
    """Addresses from 0 up, at the steps of *lifetimes*, all free at first. Only those lifetimes can be fitted.

    n lifetimes cost about n log n as long as the taken addresses have few gaps, as in a chain of ops or a stack; where they
    are all long and random, every fit walks past thousands of gaps and the cost nears n * n.

    Invariant: what `fit` answered stays taken during its lifetime, and is never answered again for an overlapping one.
    """

    def __init__(self, lifetimes: Iterable[Lifetime]) -> None:
        lifetimes = tuple(lifetimes)
        # Two lifetimes overlap exactly when both hold the later of their starts: other steps need no leaf.
        self._steps = sorted({lifetime.start for lifetime in lifetimes})
        self._leaves = 1 << max(len(self._steps) - 1, 0).bit_length()
        tiles = {tile for lifetime in lifetimes for tile in self._tiles(lifetime)}
        self._covered: dict[int, list[int]] = {tile: [] for tile in tiles}
        self._touched: dict[int, list[int]] = {tile: [] for tile in tiles}

    def fit(self, lifetime: Lifetime, length: int) -> int:
        """Take the lowest *length* bytes that are free during all of *lifetime*; return their address."""
        tiles = tuple(self._tiles(lifetime))
        above = [node for node in _ancestors(tiles) if node in self._covered]
        taken = [self._touched[node] for node in tiles] + [self._covered[node] for node in above]
        address = _lowest_gap([edges for edges in taken if edges], length)
        for node in tiles:
            _add(self._covered[node], address, address + length)
        for node in (*tiles, *above):
            _add(self._touched[node], address, address + length)
        return address

    def _tiles(self, lifetime: Lifetime) -> Iterator[int]:
        """List the fewest nodes that make up *lifetime*. Node 1 is the root; node n has the children 2n and 2n + 1."""
        low = self._leaves + bisect_left(self._steps, lifetime.start)
        high = self._leaves + bisect_left(self._steps, lifetime.stop)
        while low < high:
            if low & 1:
                yield low
                low += 1
            if high & 1:
                high -= 1
                yield high
            low, high = low >> 1, high >> 1


def _ancestors(nodes: Iterable[int]) -> set[int]:
    """Collect all nodes above *nodes*."""
    above: set[int] = set()
    for leaf in nodes:
        node = leaf >> 1
        while node and node not in above:
            above.add(node)
            node >>= 1
    return above


def _lowest_gap(taken: Sequence[list[int]], length: int) -> int:
    """Find the lowest address from which *length* bytes miss every span of every list in *taken*."""
    address, settled = 0, -1
    while address != settled:
        settled = address
        for edges in taken:
            address = _clear_of(edges, address, length)
    return address


def _add(edges: list[int], begin: int, end: int) -> None:
    """Take [begin, end) as well; spans that meet become one. An odd position in *edges* is inside a span."""
    first, last = bisect_left(edges, begin), bisect_right(edges, end)
    edges[first:last] = [begin] * (first % 2 == 0) + [end] * (last % 2 == 0)


def _clear_of(edges: list[int], address: int, length: int) -> int:
    """Find the lowest address from *address* up from which *length* bytes miss every span."""
    position = bisect_right(edges, address)
    if position % 2:
        address = edges[position]
        position += 1
    while position < len(edges) and edges[position] < address + length:
        address = edges[position + 1]
        position += 2
    return address
