"""Shared blocks: a buffer has a whole block to itself while it is held, and leaves it to the next.

What TensorRT's builder reports ("assign 8 blocks to 122 nodes requiring 17818624 bytes"): blocks, each as large as its
largest buffer, added up. NVIDIA does not publish the rule. This one gives the two blocks in the log of the MNIST sample,
25,088 + 6,656 = 31,744 bytes, where 6,272 bytes are rounded up to a multiple of 512.
"""

from __future__ import annotations

from collections.abc import Sequence

from vramplan.allocators.crowd import is_crowded, share_in_turn
from vramplan.allocators.occupancy import Occupancy
from vramplan.allocators.placement import NO_BLOCK, Blocks, Request, aligned_sizes, largest_first


def assign_blocks(requests: Sequence[Request], *, alignment: int = 512) -> Blocks:
    """Give each request the first block that is free during its lifetime, largest request first.

    A request that finds none opens a block of its size, rounded up to *alignment* bytes: later ones are never larger.
    Crowded problems are shared in order of time (`vramplan.allocators.crowd`).
    """
    sizes = aligned_sizes(requests, alignment)
    if is_crowded(requests):
        return _descending(*share_in_turn(requests, sizes))
    order = largest_first(sizes, requests)
    occupancy = Occupancy(requests[index].lifetime for index in order)
    block_of = [NO_BLOCK] * len(requests)
    block_sizes: list[int] = []
    for index in order:
        block = occupancy.fit(requests[index].lifetime, 1)  # a block is an address of length one: the first is the lowest
        block_of[index] = block
        if block == len(block_sizes):
            block_sizes.append(sizes[index])
    return Blocks(block_of=tuple(block_of), sizes=tuple(block_sizes))


def _descending(block_of: Sequence[int], block_sizes: Sequence[int]) -> Blocks:
    """Renumber the blocks so that the largest comes first."""
    order = sorted(range(len(block_sizes)), key=lambda block: -block_sizes[block])
    rank = {block: position for position, block in enumerate(order)} | {NO_BLOCK: NO_BLOCK}
    return Blocks(block_of=tuple(rank[block] for block in block_of), sizes=tuple(block_sizes[block] for block in order))
