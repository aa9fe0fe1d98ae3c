"""PyTorch's CUDA caching allocator, replayed: which block serves which request, and what is reserved for it.

Source: c10/cuda/CUDACachingAllocator.cpp, PyTorch 2.9 to 2.14. The rules, with the defaults of `CachingRules`:

- A request is rounded up to 512 B. Up to 1 MiB it comes from the small pool, else from the large one.
- Best fit: the smallest free block that is large enough, the lowest address among equals.
- Without one a segment is reserved: 2 MiB for small requests, 20 MiB for large ones below 10 MiB, else the request rounded up
  to 2 MiB. Segments stay reserved until the cache is emptied.
- The low part of a block is handed out. The rest becomes a free block when at least 512 B remain (small pool), or more than
  1 MiB (large pool); otherwise the whole block counts as allocated.
- A freed block merges with its free neighbours in the segment.
- Beyond a limit, oversize cached segments are given back first when ``max_split_bytes`` is set, then all whole cached segments;
  only then is memory out. Garbage collection needs a limit set by PyTorch itself and is not modelled.

Known limitation: addresses of segments are modelled as rising. On a device they need not, and then a tie between free blocks
of one size can go the other way. In six recordings (tests/traces) no order of segments changes what is allocated by 1 MiB, or
what is reserved by more than one segment, and the right order gives every counter to the byte.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from vramplan.program import Action, MemoryProgram, Phase
from vramplan.units import MIB

_INTERVALS = 16
"""``kRoundUpPowerOfTwoIntervals``: powers of two from 1 MiB, each with its own number of divisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingRules:
    """The allocator's constants, in bytes; `PYTORCH_CUDA_ALLOC_CONF` changes some (`vramplan.allocators.caching_conf`).

    large_segment_bytes  what a large request below ``own_segment_from_bytes`` reserves (configurable from 2.10)
    max_split_bytes      larger blocks are not split and serve only requests of their size (None: no limit)
    max_non_split_rounding_bytes  how much larger than the request such a block may be (None: below a large segment)
    power2_divisions     requests round up to one of that many steps between powers of two (0: off); 16 numbers are for
                         requests below 2 MiB, 4 MiB, … 32 GiB, and above
    The defaults are the same from PyTorch 2.9 to 2.14.

    Invariant: sizes are positive; there are one or 16 numbers of divisions, each 0 or a power of two.
    """

    alignment_bytes: int = 512
    small_limit_bytes: int = MIB
    small_segment_bytes: int = 2 * MIB
    large_segment_bytes: int = 20 * MIB
    own_segment_from_bytes: int = 10 * MIB
    segment_rounding_bytes: int = 2 * MIB
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    power2_divisions: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        sizes = (self.alignment_bytes, self.small_limit_bytes, self.small_segment_bytes, self.large_segment_bytes)
        if min(*sizes, self.own_segment_from_bytes, self.segment_rounding_bytes) <= 0:
            raise ValueError("an allocator's sizes are positive")
        divisions = self.power2_divisions if isinstance(self.power2_divisions, tuple) else (self.power2_divisions,) * _INTERVALS
        if len(divisions) != _INTERVALS or any(count < 0 or count & (count - 1) for count in divisions):
            raise ValueError(f"power-of-two divisions are one or {_INTERVALS} powers of two: {self.power2_divisions}")

    def rounded_bytes(self, size_bytes: int) -> int:
        """``round_size``: what a request of *size_bytes* takes at least."""
        if size_bytes < self.alignment_bytes:
            return self.alignment_bytes
        if self.power2_divisions:
            divisions = self.divisions(size_bytes)
            if divisions > 1 and size_bytes > self.alignment_bytes * divisions:
                return _up_to_division(size_bytes, divisions)
        return -(-size_bytes // self.alignment_bytes) * self.alignment_bytes

    def divisions(self, size_bytes: int) -> int:
        """``roundup_power2_divisions``: in how many steps a request of *size_bytes* divides its power of two."""
        if not isinstance(self.power2_divisions, tuple):
            return self.power2_divisions
        return self.power2_divisions[min(max(size_bytes.bit_length() - MIB.bit_length(), 0), _INTERVALS - 1)]

    @property
    def non_split_rounding_bytes(self) -> int:
        """How much larger than a request a block may be that is not split."""
        return self.max_non_split_rounding_bytes or self.large_segment_bytes

    def segment_bytes(self, rounded_bytes: int) -> int:
        """``get_allocation_size``: what is reserved when no free block serves a request."""
        if rounded_bytes <= self.small_limit_bytes:
            return self.small_segment_bytes
        if rounded_bytes < self.own_segment_from_bytes:
            return self.large_segment_bytes
        return -(-rounded_bytes // self.segment_rounding_bytes) * self.segment_rounding_bytes


def _up_to_division(size_bytes: int, divisions: int) -> int:
    """``roundup_power2_next_division``."""
    if size_bytes <= 4 or divisions <= 1 or size_bytes & (size_bytes - 1) == 0:
        return size_bytes
    floor = 1 << (size_bytes.bit_length() - 1)
    step = floor // divisions
    return -(-(size_bytes - floor) // step) * step + floor if step else floor * 2


DEFAULT_RULES = CachingRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingPeaks:
    """One phase of a replayed program, in bytes: what is held at its end, the most that was, and the event of the peak.

    requested  as asked for; allocated: whole blocks; reserved: whole segments. Peaks count what was held before the phase.
    """

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    requested_peak_bytes: int
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    peak_event_index: int


class OutOfMemory(Exception):  # noqa: N818  an answer about a device, not an error of ours
    """A request that does not fit below the limit, even after the cache was emptied.

    requested_bytes  what was asked for
    segment_bytes    what would have been reserved for it
    reserved_bytes   what is reserved already
    limit_bytes      what may be
    """

    def __init__(self, *, requested_bytes: int, segment_bytes: int, reserved_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{requested_bytes} bytes need a segment of {segment_bytes}; {reserved_bytes} of {limit_bytes} are reserved already"
        )
        self.requested_bytes, self.segment_bytes = requested_bytes, segment_bytes
        self.reserved_bytes, self.limit_bytes = reserved_bytes, limit_bytes


class _Block:
    """A stretch of a segment, in the chain of its neighbours by address."""

    __slots__ = ("address", "after", "before", "is_free", "is_small", "size")

    def __init__(self, address: int, size: int, is_small: bool) -> None:
        self.address, self.size, self.is_small, self.is_free = address, size, is_small, False
        self.before: _Block | None = None
        self.after: _Block | None = None


_SEGMENT_ROOM = 1 << 44
"""Between the addresses of two segments: more than any segment has."""


def _rising(address: int) -> Iterator[int]:
    """Addresses with room for any segment between them."""
    while True:
        yield address
        address += _SEGMENT_ROOM


Row = tuple[str, int, int, int]
"""One line of a log: what happened (segment, release, hold, free), a key, an address, a size."""


class CachingAllocator:
    """Hands out blocks as PyTorch does on one stream.

    limit_bytes        what the device has for segments (None: no limit)
    segment_addresses  where the first segments lie, in the order of reserving; later ones rise from 2**60
    log                gets a `Row` for everything that happens

    Invariant: requested <= allocated <= reserved.
    """

    def __init__(
        self,
        rules: CachingRules = DEFAULT_RULES,
        *,
        limit_bytes: int | None = None,
        segment_addresses: Iterable[int] = (),
        log: list[Row] | None = None,
    ) -> None:
        self.rules = rules
        self.limit_bytes = limit_bytes
        self.log = log
        self.requested_bytes = self.allocated_bytes = self.reserved_bytes = 0
        self.segment_count = 0
        self.reset_peaks()
        self._free: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}
        self._held: dict[int, tuple[_Block, int]] = {}
        self._addresses = chain(segment_addresses, _rising(1 << 60))

    def reset_peaks(self) -> None:
        """Peaks count from now on."""
        self.requested_peak_bytes = self.requested_bytes
        self.allocated_peak_bytes = self.allocated_bytes
        self.reserved_peak_bytes = self.reserved_bytes

    def hold(self, key: int, size_bytes: int) -> None:
        """Serve a request; no bytes are no request. `OutOfMemory` beyond the limit, ValueError for a key that is held."""
        if size_bytes == 0:
            return
        if key in self._held:
            raise ValueError(f"buffer {key} is held already")
        rounded = self.rules.rounded_bytes(size_bytes)
        block = self._found(rounded) or self._reserved(rounded, size_bytes)
        self._split(block, rounded)
        self._held[key] = (block, size_bytes)
        self.requested_bytes += size_bytes
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.allocated_peak_bytes:  # noqa: PLR1730  max() would take a tenth of the replay
            self.allocated_peak_bytes = self.allocated_bytes
        if self.requested_bytes > self.requested_peak_bytes:  # noqa: PLR1730
            self.requested_peak_bytes = self.requested_bytes
        if self.log is not None:
            self.log.append(("hold", key, block.address, block.size))

    def free(self, key: int) -> None:
        """Take back what *key* holds; nothing when that was no bytes."""
        held = self._held.pop(key, None)
        if held is None:
            return
        block, size_bytes = held
        self.requested_bytes -= size_bytes
        self.allocated_bytes -= block.size
        if self.log is not None:
            self.log.append(("free", key, block.address, block.size))
        self._merge(block)

    def free_blocks(self) -> list[tuple[int, int]]:
        """Address and size of every free block, by address."""
        return sorted((address, size) for pool in self._free.values() for size, address, _ in pool)

    def empty_cache(self) -> None:
        """Give whole free segments back to the driver."""
        for is_small, pool in self._free.items():
            whole = [block for _, _, block in pool if block.before is None and block.after is None]
            for block in whole:
                self._release(block)
            self._free[is_small] = [entry for entry in pool if entry[2].before or entry[2].after]

    def _found(self, rounded: int) -> _Block | None:
        """``get_free_block``: the best fit, unless splitting is limited and the fit is too loose."""
        small = rounded <= self.rules.small_limit_bytes
        pool = self._free[small]
        index = bisect_left(pool, (rounded, -1))
        if index == len(pool):
            return None
        size, _, block = pool[index]
        limit = self.rules.max_split_bytes
        if limit is not None and not small:
            if rounded < limit <= size:
                return None
            if rounded >= limit and size >= rounded + self.rules.non_split_rounding_bytes:
                return None
        del pool[index]
        block.is_free = False
        return block

    def _reserved(self, rounded: int, size_bytes: int) -> _Block:
        """``alloc_block``, and what is given back before memory is out."""
        size = self.rules.segment_bytes(rounded)
        if not self._fits(size):
            self._release_oversize(rounded)
        if not self._fits(size):
            self.empty_cache()
        if self.limit_bytes is not None and not self._fits(size):
            raise OutOfMemory(
                requested_bytes=size_bytes,
                segment_bytes=size,
                reserved_bytes=self.reserved_bytes,
                limit_bytes=self.limit_bytes,
            )
        block = _Block(next(self._addresses), size, rounded <= self.rules.small_limit_bytes)
        self.reserved_bytes += size
        self.segment_count += 1
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, self.reserved_bytes)
        if self.log is not None:
            self.log.append(("segment", -1, block.address, size))
        return block

    def _fits(self, size: int) -> bool:
        return self.limit_bytes is None or self.reserved_bytes + size <= self.limit_bytes

    def _release_oversize(self, rounded: int) -> None:
        """``release_available_cached_blocks``: one oversize block that would do, else the largest until they add up."""
        limit = self.rules.max_split_bytes
        if limit is None:
            return
        wanted = max(rounded, limit)
        pool = self._free[rounded <= self.rules.small_limit_bytes]
        index = bisect_left(pool, (wanted, -1))
        if index < len(pool):
            self._release(pool.pop(index)[2])
            return
        released = 0
        while pool and released < wanted and pool[-1][0] >= limit:
            released += pool[-1][0]
            self._release(pool.pop()[2])

    def _release(self, block: _Block) -> None:
        self.reserved_bytes -= block.size
        self.segment_count -= 1
        if self.log is not None:
            self.log.append(("release", -1, block.address, block.size))

    def _split(self, block: _Block, rounded: int) -> None:
        """``should_split``: the rest of the block is free again when it is worth keeping apart."""
        rest = block.size - rounded
        rules = self.rules
        if block.is_small:
            if rest < rules.alignment_bytes:
                return
        elif rest <= rules.small_limit_bytes or (rules.max_split_bytes is not None and rounded >= rules.max_split_bytes):
            return
        remainder = _Block(block.address + rounded, rest, block.is_small)
        remainder.before, remainder.after = block, block.after
        if block.after is not None:
            block.after.before = remainder
        block.after, block.size = remainder, rounded
        remainder.is_free = True
        insort(self._free[block.is_small], (rest, remainder.address, remainder))

    def _merge(self, block: _Block) -> None:
        """``free_block``: swallow free neighbours, and go back to the pool."""
        pool = self._free[block.is_small]
        before, after = block.before, block.after
        if before is not None and before.is_free:
            del pool[bisect_left(pool, (before.size, before.address))]
            block.address, block.size, block.before = before.address, block.size + before.size, before.before
            if before.before is not None:
                before.before.after = block
        if after is not None and after.is_free:
            del pool[bisect_left(pool, (after.size, after.address))]
            block.size, block.after = block.size + after.size, after.after
            if after.after is not None:
                after.after.before = block
        block.is_free = True
        insort(pool, (block.size, block.address, block))


def replay(
    program: MemoryProgram,
    rules: CachingRules = DEFAULT_RULES,
    *,
    sizes: Mapping[int, int] | None = None,
    address_ranks: Iterable[int] = (),
) -> dict[str, CachingPeaks]:
    """Run *program* through a fresh allocator; what each phase holds and peaks at, by name.

    *sizes* replaces the bytes of some buffers, by index: the same program with other scratch. *address_ranks* says how the
    segments lie in memory, in the order of reserving, where that is known; the others rise behind them.
    """
    allocator = CachingAllocator(rules, segment_addresses=((1 + rank) * _SEGMENT_ROOM for rank in address_ranks))
    wanted = [buffer.size_bytes for buffer in program.buffers]
    for index, size_bytes in (sizes or {}).items():
        wanted[index] = size_bytes
    return {phase.name: _phase(allocator, program, phase, wanted) for phase in program.phases}


def _phase(allocator: CachingAllocator, program: MemoryProgram, phase: Phase, sizes: list[int]) -> CachingPeaks:
    allocator.reset_peaks()
    hold, free, peak, peak_index = allocator.hold, allocator.free, allocator.allocated_peak_bytes, max(phase.start - 1, 0)
    for step, (action, index, _) in _numbered(program, phase):
        if action is Action.HOLD:
            hold(index, sizes[index])
            if allocator.allocated_peak_bytes > peak:
                peak, peak_index = allocator.allocated_peak_bytes, step
        else:
            free(index)
    return CachingPeaks(
        requested_bytes=allocator.requested_bytes,
        allocated_bytes=allocator.allocated_bytes,
        reserved_bytes=allocator.reserved_bytes,
        requested_peak_bytes=allocator.requested_peak_bytes,
        allocated_peak_bytes=peak,
        reserved_peak_bytes=allocator.reserved_peak_bytes,
        peak_event_index=peak_index,
    )


def _numbered(program: MemoryProgram, phase: Phase) -> Iterator[tuple[int, tuple[Action, int, int]]]:
    return enumerate(program.events[phase.start : phase.stop], phase.start)
