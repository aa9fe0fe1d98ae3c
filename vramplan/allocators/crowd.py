"""Shared blocks for problems too crowded for the careful rule: one pass in order of time.

Placing largest first asks each buffer about all that overlap it. When thousands are alive at once that costs n² and helps
an attacker more than a user, so beyond `CROWD_LIMIT` buffers take turns instead: each takes the smallest free block that
holds it, or enlarges the largest free one, or opens a new one. Every answer stays valid; it may be larger.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import accumulate

from vramplan.allocators.placement import NO_BLOCK, Request

CROWD_LIMIT = 4_000_000
"""Buffers times the most alive at once: about two seconds of careful placement."""


def is_crowded(requests: Sequence[Request]) -> bool:
    """Whether careful placement would take too long."""
    changes = sorted([(r.lifetime.start, 1) for r in requests] + [(r.lifetime.stop, -1) for r in requests])
    return len(requests) * max(accumulate(change for _, change in changes), default=0) > CROWD_LIMIT


def share_in_turn(requests: Sequence[Request], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """The block of each request and the size of each block. O(n log n) but for the sorted list of free blocks."""
    block_of = [NO_BLOCK] * len(requests)
    block_sizes: list[int] = []
    free: list[tuple[int, int]] = []
    busy: list[tuple[int, int]] = []
    for index in sorted((i for i, size in enumerate(sizes) if size), key=lambda i: (requests[i].lifetime.start, -sizes[i])):
        start, stop = requests[index].lifetime
        while busy and busy[0][0] <= start:
            block = heapq.heappop(busy)[1]
            insort(free, (block_sizes[block], block))
        block = _take(free, block_sizes, sizes[index])
        block_of[index] = block
        heapq.heappush(busy, (stop, block))
    return block_of, block_sizes


def _take(free: list[tuple[int, int]], block_sizes: list[int], size: int) -> int:
    if not free:
        block_sizes.append(size)
        return len(block_sizes) - 1
    position = min(bisect_left(free, (size, -1)), len(free) - 1)
    block = free.pop(position)[1]
    block_sizes[block] = max(block_sizes[block], size)
    return block
