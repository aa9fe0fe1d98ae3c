"""One block, an offset for each buffer: largest buffer first, each at the lowest address free during its lifetime.

The greedy rule of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020,
arXiv:2001.03288, "Greedy by Size for Offset Calculation"), except that a buffer takes the lowest gap that fits and not
the tightest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from vramplan.allocators.crowd import is_crowded, share_in_turn
from vramplan.allocators.occupancy import Occupancy
from vramplan.allocators.placement import Placement, Request, aligned_sizes, largest_first


def assign_offsets(requests: Sequence[Request], *, alignment: int = 1) -> Placement:
    """Place *requests* in one block, sizes rounded up to *alignment* bytes, so that every offset is a multiple of it.

    The total is at least the largest live set and at most the sum of all sizes; it is not always the least possible.
    Crowded problems are shared in order of time (`vramplan.allocators.crowd`).
    """
    sizes = aligned_sizes(requests, alignment)
    if is_crowded(requests):
        return _side_by_side(*share_in_turn(requests, sizes))
    return place_in_order(requests, sizes, largest_first(sizes, requests))


def place_in_order(requests: Sequence[Request], sizes: Sequence[int], order: Sequence[int]) -> Placement:
    """Place the requests of *order*, one after the other, each at the lowest address free during its lifetime.

    Some order gives the least possible total. Requests left out of *order* must need no bytes; they lie at 0.
    """
    occupancy = Occupancy(requests[index].lifetime for index in order)
    offsets = [0] * len(requests)
    total_bytes = 0
    for index in order:
        size = sizes[index]
        offsets[index] = occupancy.fit(requests[index].lifetime, size)
        total_bytes = max(total_bytes, offsets[index] + size)
    return Placement(offsets=tuple(offsets), total_bytes=total_bytes)


def _side_by_side(block_of: Sequence[int], block_sizes: Sequence[int]) -> Placement:
    """Shared blocks laid out one after the other."""
    starts = [0, *accumulate(block_sizes)]
    return Placement(offsets=tuple(starts[block] if block >= 0 else 0 for block in block_of), total_bytes=starts[-1])
