"""Is this placement right? Slow, obvious, and written without a line of the allocators it checks.

Every pair of buffers is looked at, in order, so the answer is always the first thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from vramplan.allocators.placement import Blocks, Placement, Request


def find_placement_fault(requests: Sequence[Request], placement: Placement, *, alignment: int = 1) -> str:
    """Describe the first buffer outside the block or pair that shares a byte at some step; empty when there is none."""
    if len(placement.offsets) != len(requests):
        return f"{len(requests)} buffers, but {len(placement.offsets)} offsets"
    for index, ((size, _), offset) in enumerate(zip(requests, placement.offsets, strict=True)):
        if offset % alignment != 0:
            return f"buffer {index} begins at byte {offset}, which is not a multiple of {alignment}"
        if offset < 0 or offset + size > placement.total_bytes:
            return f"buffer {index} takes bytes [{offset}, {offset + size}) of a block of {placement.total_bytes}"
    for second in range(len(requests)):
        for first in range(second):
            steps = _common(requests[first].lifetime, requests[second].lifetime)
            places = _common(*(_place(requests[index], placement.offsets[index]) for index in (first, second)))
            if steps and places:
                return f"buffers {first} and {second} both take bytes {_text(places)} during steps {_text(steps)}"
    return ""


def find_blocks_fault(requests: Sequence[Request], blocks: Blocks) -> str:
    """Describe the first buffer that its block cannot hold or pair that shares a block at some step; empty when none."""
    if len(blocks.block_of) != len(requests):
        return f"{len(requests)} buffers, but {len(blocks.block_of)} block numbers"
    for index, ((size, _), block) in enumerate(zip(requests, blocks.block_of, strict=True)):
        if size > 0 and not 0 <= block < len(blocks.sizes):
            return f"buffer {index} has no block: its number is {block} of {len(blocks.sizes)}"
        if size > 0 and size > blocks.sizes[block]:
            return f"buffer {index} needs {size} bytes, but its block {block} has {blocks.sizes[block]}"
    for second in range(len(requests)):
        for first in range(second):
            steps = _common(requests[first].lifetime, requests[second].lifetime)
            both_need_bytes = requests[first].size_bytes > 0 and requests[second].size_bytes > 0
            if steps and both_need_bytes and blocks.block_of[first] == blocks.block_of[second]:
                return f"buffers {first} and {second} are both in block {blocks.block_of[first]} during steps {_text(steps)}"
    return ""


def _place(request: Request, offset: int) -> tuple[int, int]:
    return offset, offset + request.size_bytes


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int] | None:
    """What two half-open intervals share, if anything."""
    start, stop = max(one[0], other[0]), min(one[1], other[1])
    return (start, stop) if start < stop else None


def _text(interval: tuple[int, int]) -> str:
    return f"[{interval[0]}, {interval[1]})"
