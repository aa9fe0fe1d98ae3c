"""ONNX Runtime's BFC arena, replayed: which chunk serves which request, and what is taken from the driver for it.

Source: onnxruntime/core/framework/bfc_arena.{h,cc} and allocator_utils.cc of ONNX Runtime 1.16 and later, whose CUDA provider
makes the arena stream aware and shares no chunk between streams (``CUDAExecutionProvider::CreateCudaAllocator``); the same
rules stand in the CUDA plugin's cuda_arena.cc. With the defaults of `BfcRules`:

- A request is rounded up to 256 B. The smallest free chunk that fits serves it, the lowest address among equals. (The 21 bins
  only make the search fast: they are ordered by size, and so are the chunks of a bin.)
- The low part is handed out. The rest becomes a free chunk when the chunk has at least twice the request, or the rest at least
  128 MiB; otherwise the whole chunk counts as in use.
- Without one a region is allocated by one cudaMalloc. kNextPowerOfTwo: the next size, doubled until it covers the request.
  The first is 1 MiB. A region that needed no doubling doubles the next one, up to 1 GiB; one that did leaves it at its own
  size. kSameAsRequested: the rounded request.
- A freed chunk merges with its free neighbours in the region. Regions stay until the arena is shrunk.
- A request of a run carries the run's stream, and so does its chunk, even when it is free again. What was split off a fresh
  region carries none. Chunks merge only with their like, and only until the run ends: then all are cleared and merge.
- Initializers may bypass all this (``session.use_device_allocator_for_initializers``): one cudaMalloc each.

Known limitations: addresses of regions are modelled as rising, as in `vramplan.allocators.caching`; one stream, one thread.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, count
from typing import NamedTuple

from vramplan.allocators.caching import Row
from vramplan.allocators.driver import driver_bytes
from vramplan.program import Action, MemoryProgram, Phase, Role
from vramplan.units import GIB, KIB, MIB


class ExtendStrategy(StrEnum):
    """How much is taken from the driver when no free chunk serves (arena_extend_strategy.h)."""

    NEXT_POWER_OF_TWO = "kNextPowerOfTwo"
    SAME_AS_REQUESTED = "kSameAsRequested"


@dataclass(frozen=True, slots=True, kw_only=True)
class BfcRules:
    """The arena's constants, in bytes; provider options change some (`vramplan.allocators.bfc_options`).

    alignment_bytes       ``kMinAllocationSize`` (bfc_arena.h)
    initial_chunk_bytes   the first region under kNextPowerOfTwo (``DEFAULT_INITIAL_CHUNK_SIZE_BYTES``)
    max_dead_bytes        from this much waste on a chunk is split (``DEFAULT_MAX_DEAD_BYTES_PER_CHUNK``)
    initial_growth_bytes  the next region after the arena was shrunk (``DEFAULT_INITIAL_GROWTH_CHUNK_SIZE_BYTES``)
    max_extend_bytes      where doubling without need ends (``DEFAULT_MAX_POWER_OF_TWO_EXTEND_BYTES``, from 1.16; before
                          that there was no end: None). Like all defaults here: the CUDA provider's since 1.16
    limit_bytes           ``gpu_mem_limit`` (None: no limit)

    Invariant: sizes are positive; those of regions are multiples of the alignment, as ``AllocationRegion`` enforces.
    """

    alignment_bytes: int = 256
    strategy: ExtendStrategy = ExtendStrategy.NEXT_POWER_OF_TWO
    initial_chunk_bytes: int = MIB
    max_dead_bytes: int = 128 * MIB
    initial_growth_bytes: int = 2 * MIB
    max_extend_bytes: int | None = GIB
    limit_bytes: int | None = None

    def __post_init__(self) -> None:
        regions = (self.initial_growth_bytes, *(() if self.max_extend_bytes is None else (self.max_extend_bytes,)))
        limit = 1 if self.limit_bytes is None else self.limit_bytes
        if min(self.alignment_bytes, self.initial_chunk_bytes, self.max_dead_bytes, limit, *regions) <= 0:
            raise ValueError("an arena's sizes are positive")
        if any(size % self.alignment_bytes for size in regions):
            raise ValueError(f"a region is a multiple of {self.alignment_bytes} bytes: {regions}")

    def rounded_bytes(self, size_bytes: int) -> int:
        """``RoundedBytes``: what a request of *size_bytes* takes at least."""
        return -(-size_bytes // self.alignment_bytes) * self.alignment_bytes

    def is_split(self, chunk_bytes: int, rounded_bytes: int) -> bool:
        """``SplitFreeChunkFromBin``: whether the rest of a chunk is worth keeping apart."""
        return chunk_bytes >= 2 * rounded_bytes or chunk_bytes - rounded_bytes >= self.max_dead_bytes


DEFAULT_RULES = BfcRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class BfcPeaks:
    """One phase of a replayed program, in bytes: what is held at its end, the most that was, and the event of the peak.

    in use: whole chunks (``bytes_in_use``); reserved: whole regions (``total_allocated_bytes``); device: the driver's pages
    under them. Peaks count what was held before the phase.
    """

    requested_bytes: int
    in_use_bytes: int
    reserved_bytes: int
    device_bytes: int
    requested_peak_bytes: int
    in_use_peak_bytes: int
    reserved_peak_bytes: int
    peak_event_index: int


class OutOfMemory(Exception):  # noqa: N818  an answer about a device, not an error of ours
    """A request for which no region fits below the limit, or on the device.

    reserved_bytes  what is taken from the driver already
    limit_bytes     what may be: ``gpu_mem_limit``, or what the device has
    """

    def __init__(self, requested_bytes: int, reserved_bytes: int, limit_bytes: int | None) -> None:
        super().__init__(f"{requested_bytes} bytes do not fit: {reserved_bytes} of {limit_bytes} are reserved already")
        self.requested_bytes, self.reserved_bytes, self.limit_bytes = requested_bytes, reserved_bytes, limit_bytes


class Region(NamedTuple):
    """One cudaMalloc: a region of the arena, or a single buffer that bypasses it."""

    address: int
    size_bytes: int
    is_bypass: bool


@dataclass(slots=True, eq=False)
class _Chunk:
    """A stretch of a region, in the chain of its neighbours by address."""

    address: int
    size: int
    on_stream: bool = False
    is_free: bool = False
    before: _Chunk | None = None
    after: _Chunk | None = None


class BfcArena:
    """Hands out chunks as ONNX Runtime's arena does.

    device_bytes      what the driver has for regions (None: enough); near its end regions are made smaller
    region_addresses  where the first regions lie, in the order of allocation; later ones rise from 2**60 by 2**44
    log               gets a `Row` for everything that happens

    Invariant: requested <= in use <= reserved, the sum of ``regions``.
    """

    def __init__(
        self,
        rules: BfcRules = DEFAULT_RULES,
        *,
        device_bytes: int | None = None,
        region_addresses: Iterable[int] = (),
        log: list[Row] | None = None,
    ) -> None:
        self.rules, self.device_bytes, self.log = rules, device_bytes, log
        self.requested_bytes = self.in_use_bytes = self.reserved_bytes = 0
        self.reset_peaks()
        self._next_bytes = rules.rounded_bytes(min(rules.limit_bytes or rules.initial_chunk_bytes, rules.initial_chunk_bytes))
        self._free: list[tuple[int, int, _Chunk]] = []
        self._held: dict[int, tuple[_Chunk, int]] = {}
        self._regions: dict[int, tuple[Region, _Chunk]] = {}
        self._addresses = chain(region_addresses, count(1 << 60, 1 << 44))

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every cudaMalloc that is not given back, oldest first."""
        return tuple(region for region, _ in self._regions.values())

    def reset_peaks(self) -> None:
        """Peaks count from now on."""
        self.requested_peak_bytes = self.requested_bytes
        self.in_use_peak_bytes = self.in_use_bytes
        self.reserved_peak_bytes = self.reserved_bytes

    def hold(self, key: int, size_bytes: int, *, on_stream: bool = False) -> None:
        """Serve a request, of a run when *on_stream*. `OutOfMemory` beyond a limit, ValueError for a key that is held."""
        if not self._is_new(key, size_bytes):
            return
        rounded = self.rules.rounded_bytes(size_bytes)
        chunk = self._found(rounded, on_stream) or self._extended(rounded, size_bytes)
        if self.rules.is_split(chunk.size, rounded):
            self._split(chunk, rounded)
        chunk.on_stream = on_stream
        self._count(key, chunk, size_bytes)

    def reserve(self, key: int, size_bytes: int) -> None:
        """``Reserve``: one cudaMalloc of exactly that size, past the arena and its limit. Freed, it goes back to the driver."""
        if not self._is_new(key, size_bytes):
            return
        if not self._fits(size_bytes):
            raise OutOfMemory(size_bytes, self.reserved_bytes, self.device_bytes)
        self._count(key, self._allocated(size_bytes, is_bypass=True), size_bytes)

    def free(self, key: int) -> None:
        """Take back what *key* holds; nothing when that was no bytes."""
        if key not in self._held:
            return
        chunk, size_bytes = self._held.pop(key)
        self.requested_bytes -= size_bytes
        self.in_use_bytes -= chunk.size
        self._note("free", key, chunk.address, chunk.size)
        if chunk.address in self._regions and self._regions[chunk.address][0].is_bypass:
            self._release(chunk)
        else:
            self._put_back(chunk)

    def end_run(self) -> None:
        """``ResetChunkOnTargetStream``: no chunk carries the run's stream any more, so all free neighbours merge."""
        for _, first in self._regions.values():
            for chunk in _from(first):
                chunk.on_stream = False
        for _, _, chunk in list(self._free):
            if chunk.is_free:
                self._drop(chunk)
                self._put_back(chunk)

    def shrink(self) -> None:
        """``Shrink``: give whole free regions back, except the very first one of kNextPowerOfTwo; growth starts anew."""
        arena = [first for region, first in self._regions.values() if not region.is_bypass]
        for first in arena[self.rules.strategy is ExtendStrategy.NEXT_POWER_OF_TWO :]:
            chunks = list(_from(first))
            if all(chunk.is_free for chunk in chunks):
                for chunk in chunks:
                    self._drop(chunk)
                self._release(first)
        self._next_bytes = self.rules.initial_growth_bytes

    def free_chunks(self) -> list[tuple[int, int]]:
        """Address and size of every free chunk, by address."""
        return sorted((address, size) for size, address, _ in self._free)

    def _is_new(self, key: int, size_bytes: int) -> bool:
        if key in self._held:
            raise ValueError(f"buffer {key} is held already")
        return size_bytes > 0

    def _count(self, key: int, chunk: _Chunk, size_bytes: int) -> None:
        self._held[key] = (chunk, size_bytes)
        self.requested_bytes += size_bytes
        self.in_use_bytes += chunk.size
        self.requested_peak_bytes = max(self.requested_peak_bytes, self.requested_bytes)
        self.in_use_peak_bytes = max(self.in_use_peak_bytes, self.in_use_bytes)
        self._note("hold", key, chunk.address, chunk.size)

    def _found(self, rounded: int, on_stream: bool) -> _Chunk | None:
        """``FindChunkPtr``: a request without a stream leaves the run's chunks alone, a run may have any."""
        for index in range(bisect_left(self._free, (rounded, -1)), len(self._free)):
            chunk = self._free[index][2]
            if on_stream or not chunk.on_stream:
                del self._free[index]
                chunk.is_free = False
                return chunk
        return None

    def _extended(self, rounded: int, size_bytes: int) -> _Chunk:
        """``Extend``: a region as large as the strategy says, or a tenth smaller until the driver has it."""
        limit, alignment = self.rules.limit_bytes, self.rules.alignment_bytes
        # Buffers past the arena may exceed the limit. ONNX Runtime's unsigned difference then wraps: nothing is limited.
        room = None if limit is None or self.reserved_bytes > limit else limit - self.reserved_bytes
        if room is not None and rounded > (room := room // alignment * alignment):
            raise OutOfMemory(size_bytes, self.reserved_bytes, limit)
        size = self._extend_bytes(rounded, room)
        while not self._fits(size):
            size = self.rules.rounded_bytes(_nine_tenths(size))
            if size < rounded or size < 8 * KIB:
                raise OutOfMemory(size_bytes, self.reserved_bytes, self.device_bytes)
        return self._allocated(size, is_bypass=False)

    def _extend_bytes(self, rounded: int, room: int | None) -> int:
        """``get_extend_bytes``. What it decides on the next region stays decided even when this one fails."""
        rules = self.rules
        if rules.strategy is ExtendStrategy.SAME_AS_REQUESTED:
            return rounded
        is_doubled = rounded > self._next_bytes
        while rounded > self._next_bytes:
            self._next_bytes *= 2
        size = self._next_bytes
        if not is_doubled:
            doubled = 2 * self._next_bytes
            self._next_bytes = doubled if rules.max_extend_bytes is None else min(doubled, rules.max_extend_bytes)
        return size if room is None else min(size, room)

    def _fits(self, size: int) -> bool:
        taken = (region.size_bytes for region, _ in self._regions.values())
        return self.device_bytes is None or driver_bytes((*taken, size)) <= self.device_bytes

    def _allocated(self, size: int, *, is_bypass: bool) -> _Chunk:
        chunk = _Chunk(next(self._addresses), size)
        self._regions[chunk.address] = (Region(chunk.address, size, is_bypass), chunk)
        self.reserved_bytes += size
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, self.reserved_bytes)
        self._note("segment", -1, chunk.address, size)
        return chunk

    def _release(self, first: _Chunk) -> None:
        region, _ = self._regions.pop(first.address)
        self.reserved_bytes -= region.size_bytes
        self._note("release", -1, region.address, region.size_bytes)

    def _split(self, chunk: _Chunk, rounded: int) -> None:
        """``SplitChunk``: the rest carries what the chunk carried before this request."""
        rest = _Chunk(chunk.address + rounded, chunk.size - rounded, chunk.on_stream, before=chunk, after=chunk.after)
        if chunk.after is not None:
            chunk.after.before = rest
        chunk.after, chunk.size = rest, rounded
        self._pool(rest)

    def _put_back(self, chunk: _Chunk) -> None:
        """``FreeAndMaybeCoalesce``: the lower of two chunks swallows the higher."""
        for lower, higher in ((chunk, chunk.after), (chunk.before, chunk)):
            other = higher if lower is chunk else lower
            if lower is None or higher is None or other is None or not other.is_free or other.on_stream != chunk.on_stream:
                continue
            self._drop(other)
            lower.size, lower.after, chunk = lower.size + higher.size, higher.after, lower
            if higher.after is not None:
                higher.after.before = lower
        self._pool(chunk)

    def _pool(self, chunk: _Chunk) -> None:
        chunk.is_free = True
        insort(self._free, (chunk.size, chunk.address, chunk))

    def _drop(self, chunk: _Chunk) -> None:
        chunk.is_free = False
        del self._free[bisect_left(self._free, (chunk.size, chunk.address))]

    def _note(self, *row: *Row) -> None:
        if self.log is not None:
            self.log.append(row)


def _nine_tenths(size: int) -> int:
    """``bytes * 0.9f``: ONNX Runtime multiplies in single precision."""
    single = struct.Struct("f")
    size_f, factor_f = (single.unpack(single.pack(value))[0] for value in (size, 0.9))
    return int(single.unpack(single.pack(size_f * factor_f))[0])


def _from(chunk: _Chunk | None) -> Iterator[_Chunk]:
    """The chunk and those after it in its region."""
    while chunk is not None:
        yield chunk
        chunk = chunk.after


def replay(
    program: MemoryProgram,
    rules: BfcRules = DEFAULT_RULES,
    *,
    sizes: Mapping[int, int] | None = None,
    run_phases: Collection[str] = (),
    reserves_weights: bool = False,
    arena: BfcArena | None = None,
    after: Callable[[int], None] | None = None,
) -> dict[str, BfcPeaks]:
    """Run *program* through a fresh arena; what each phase holds and peaks at, by name.

    *sizes* replaces the bytes of some buffers, by index. *run_phases* are the names of the phases that are a run each: their
    requests carry a stream until the phase ends. *reserves_weights* is ``session.use_device_allocator_for_initializers``.
    Who wants to watch brings an *arena* (with rules and a log of its own), and is called *after* each step.
    """
    arena = arena or BfcArena(rules)
    wanted = [buffer.size_bytes for buffer in program.buffers]
    for index, size_bytes in (sizes or {}).items():
        wanted[index] = size_bytes
    bypass = {index for index, buffer in enumerate(program.buffers) if reserves_weights and buffer.role is Role.WEIGHT}

    def tell(action: Action, index: int, on_stream: bool) -> None:
        if action is Action.FREE:
            arena.free(index)
        elif index in bypass:
            arena.reserve(index, wanted[index])
        else:
            arena.hold(index, wanted[index], on_stream=on_stream and program.buffers[index].is_on_stream)

    return {phase.name: _phase(arena, program, phase, tell, after, is_run=phase.name in run_phases) for phase in program.phases}


def _phase(
    arena: BfcArena,
    program: MemoryProgram,
    phase: Phase,
    tell: Callable[[Action, int, bool], None],
    after: Callable[[int], None] | None,
    *,
    is_run: bool,
) -> BfcPeaks:
    arena.reset_peaks()
    peak, peak_index = arena.in_use_peak_bytes, max(phase.start - 1, 0)
    for step, (action, index, _) in enumerate(program.events[phase.start : phase.stop], phase.start):
        tell(action, index, is_run)
        if arena.in_use_peak_bytes > peak:
            peak, peak_index = arena.in_use_peak_bytes, step
        if after is not None:
            after(step)
    if is_run:
        arena.end_run()
    return BfcPeaks(
        requested_bytes=arena.requested_bytes,
        in_use_bytes=arena.in_use_bytes,
        reserved_bytes=arena.reserved_bytes,
        device_bytes=driver_bytes(region.size_bytes for region in arena.regions),
        requested_peak_bytes=arena.requested_peak_bytes,
        in_use_peak_bytes=peak,
        reserved_peak_bytes=arena.reserved_peak_bytes,
        peak_event_index=peak_index,
    )
