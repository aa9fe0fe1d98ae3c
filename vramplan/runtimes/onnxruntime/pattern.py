"""The memory pattern: one block for all results of a run, with the offsets that the run before would have needed.

Source: onnxruntime/core/framework/mem_pattern_planner.h. The first run allocates result by result and is traced; each traced
allocation gets the smallest gap that fits between the blocks that are held, or the end behind the last of them. From the
second run with the same input shapes on, one block of that size is allocated before the first kernel. The graph's outputs are
not part of it, and neither is scratch memory of kernels.
"""

from __future__ import annotations

from collections.abc import Iterable

ALIGNMENT_BYTES = 256
"""``kAllocAlignment``: every traced size is a multiple."""


class Pattern:
    """Offsets of what is traced, in bytes; ``size_bytes`` is the block that holds everything.

    ::

        hold a 512   [aaaa]              hold c 256   [aaaa][bb][c]
        hold b 256   [aaaa][bb]          free a       [    ][bb][c]
                                         hold d 256   [dd  ][bb][c]     the gap, not the end
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._held: list[tuple[int, int, str]] = []

    def hold(self, name: str, size_bytes: int) -> int:
        """Trace an allocation; returns its offset."""
        size = -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        offset, least_waste, end = self._end(), None, 0
        for start, length, _ in self._held:
            gap = start - end
            if gap >= size and (least_waste is None or gap - size < least_waste):
                offset, least_waste = end, gap - size
            end = start + length
        if size:
            self._held.append((offset, size, name))
            self._held.sort()
            self.size_bytes = max(self.size_bytes, offset + size)
        return offset

    def free(self, name: str) -> None:
        """Trace the end of what *name* holds."""
        self._held = [held for held in self._held if held[2] != name]

    def _end(self) -> int:
        return self._held[-1][0] + self._held[-1][1] if self._held else 0


def pattern_bytes(events: Iterable[tuple[str, int]]) -> int:
    """The size of the block for *events*: a name and the bytes it holds, or -1 where it is let go."""
    pattern = Pattern()
    for name, size_bytes in events:
        if size_bytes < 0:
            pattern.free(name)
        else:
            pattern.hold(name, size_bytes)
    return pattern.size_bytes
