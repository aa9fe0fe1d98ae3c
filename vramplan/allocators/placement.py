"""The placement problem and its two answers: an offset for each buffer, or a shared block for each buffer.

::

    problem   size   steps 0 1 2 3        offsets            blocks
    a           4          [---)          a at 0             0: a, c   4 bytes
    b           2            [---)        b at 4             1: b      2 bytes
    c           3              [-)        c at 0, total 6    total 6
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vramplan.program import Lifetime


class Request(NamedTuple):
    """A buffer to place: its bytes, and the steps at which it is held."""

    size_bytes: int
    lifetime: Lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where each buffer begins inside one block, in the order of the requests. A buffer of no bytes lies at 0.

    Invariant: 0 <= offset <= total_bytes for every offset.
    """

    offsets: tuple[int, ...]
    total_bytes: int

    def __post_init__(self) -> None:
        if self.offsets and not 0 <= min(self.offsets) <= max(self.offsets) <= self.total_bytes:
            raise ValueError(f"offsets {min(self.offsets)}..{max(self.offsets)} outside a block of {self.total_bytes} bytes")


NO_BLOCK = -1
"""The block of a buffer of no bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Which shared block each buffer uses, in the order of the requests, and how large the blocks are.

    Invariant: every block number is below the number of blocks, or is `NO_BLOCK`; sizes descend.
    """

    block_of: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.block_of and not NO_BLOCK <= min(self.block_of) <= max(self.block_of) < len(self.sizes):
            raise ValueError(f"blocks {min(self.block_of)}..{max(self.block_of)} where there are {len(self.sizes)}")
        if list(self.sizes) != sorted(self.sizes, reverse=True):
            raise ValueError(f"block sizes do not descend: {self.sizes[:20]}")

    @property
    def total_bytes(self) -> int:
        """All blocks together."""
        return sum(self.sizes)


def aligned_sizes(requests: Sequence[Request], alignment: int) -> list[int]:
    """Round the size of each request up to *alignment*. ValueError for a negative size or an empty lifetime."""
    if alignment < 1:
        raise ValueError(f"alignment must be at least 1, not {alignment}")
    for index, (size_bytes, lifetime) in enumerate(requests):
        if size_bytes < 0 or lifetime.start >= lifetime.stop:
            raise ValueError(f"request {index} cannot be placed: {size_bytes} bytes, steps [{lifetime.start}, {lifetime.stop})")
    return [-(-request.size_bytes // alignment) * alignment for request in requests]


def largest_first(sizes: Sequence[int], requests: Sequence[Request]) -> list[int]:
    """Order the indices of the requests that need bytes: size descending, ties by start, then by index."""
    order = [index for index, size in enumerate(sizes) if size > 0]
    order.sort(key=lambda index: (-sizes[index], requests[index].lifetime.start))
    return order
