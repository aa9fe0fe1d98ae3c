"""The lower bound: no allocator needs fewer bytes than the largest set of buffers held at one step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from vramplan.allocators.placement import Request, aligned_sizes


def largest_live_set(requests: Sequence[Request], *, alignment: int = 1) -> int:
    """Find the most bytes held at one step, sizes rounded up to *alignment*."""
    sizes = aligned_sizes(requests, alignment)
    changes = [(request.lifetime.start, size) for request, size in zip(requests, sizes, strict=True)]
    changes += [(request.lifetime.stop, -size) for request, size in zip(requests, sizes, strict=True)]
    changes.sort()  # at one step the negative change comes first: lifetimes are half-open
    return max(accumulate(change for _, change in changes), default=0)
