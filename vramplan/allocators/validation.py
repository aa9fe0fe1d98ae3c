"""Is this placement right? Slow, obvious, and written without a line of the allocators it checks.

Every pair of buffers is looked at, in order, so the answer is always the first thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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


def find_caching_fault(
    log: Sequence[tuple[str, int, int, int]],
    *,
    requested: Mapping[int, int] | None = None,
    free: Sequence[tuple[int, int]] | None = None,
) -> str:
    """Describe the first line of a caching allocator's log that cannot be; empty when there is none.

    A line is what happened (segment, release, hold, free), a key, an address and a size. *requested* has the bytes each key
    asked for. *free* has address and size of the free blocks at the end: with the held ones they must tile the segments.
    """
    segments: dict[int, int] = {}
    held: dict[int, tuple[int, int]] = {}
    for number, (what, key, address, size) in enumerate(log):
        fault = _line_fault(segments, held, (what, key, address, size))
        if not fault and what == "hold" and requested is not None and requested[key] > size:
            fault = f"buffer {key} asked for {requested[key]} bytes and has {size}"
        if fault:
            return f"line {number}: {fault}"
        _apply(segments, held, (what, key, address, size))
        if sum(size for _, size in held.values()) > sum(segments.values()):
            return f"line {number}: more is allocated than reserved"
    return "" if free is None else _tiling_fault(segments, sorted(held.values()), sorted(free))


def find_bfc_fault(
    log: Sequence[tuple[str, int, int, int]],
    *,
    requested: Mapping[int, int],
    free: Sequence[tuple[int, int]] | None = None,
    bypassing: Collection[int] = (),
    alignment_bytes: int = 256,
    max_dead_bytes: int = 128 << 20,
) -> str:
    """Describe the first line of a BFC arena's log that cannot be, without streams; empty when there is none.

    On top of what `find_caching_fault` sees: every buffer begins where the smallest gap does that is large enough, and is cut
    off that gap only where the rules say so. Buffers *bypassing* the arena have a segment of their own and exact size.
    """
    fault = find_caching_fault(log, requested=requested, free=free)
    segments: dict[int, int] = {}
    held: dict[int, tuple[int, int]] = {}
    for number, (what, key, address, size) in enumerate(log if not fault else ()):
        if what == "hold" and key in bypassing:
            fault = "" if segments.get(address) == size == requested[key] else f"buffer {key} has no segment of its own"
        elif what == "hold":
            rounded = -(-requested[key] // alignment_bytes) * alignment_bytes
            new = log[number - 1][2] if number and log[number - 1][0] == "segment" else None
            fault = _fit_fault(_gaps(segments, held), new, (address, size), rounded, max_dead_bytes)
        if fault:
            return f"line {number}: {fault}"
        _apply(segments, held, (what, key, address, size))
    return fault


def _apply(segments: dict[int, int], held: dict[int, tuple[int, int]], line: tuple[str, int, int, int]) -> None:
    """Bring *segments* and *held* to where *line* leaves them."""
    what, key, address, size = line
    if what == "segment":
        segments[address] = size
    elif what == "release":
        del segments[address]
    elif what == "hold":
        held[key] = (address, size)
    else:
        del held[key]


def _gaps(segments: Mapping[int, int], held: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """Size and address of every stretch of a segment that no buffer takes, smallest first."""
    gaps = []
    for start, length in segments.items():
        end = start
        inside = sorted(place for place in held.values() if start <= place[0] < start + length)
        for address, size in [*inside, (start + length, 0)]:
            if address > end:
                gaps.append((address - end, end))
            end = address + size
    return sorted(gaps)


def _fit_fault(gaps: list[tuple[int, int]], new: int | None, place: tuple[int, int], rounded: int, max_dead: int) -> str:
    fits = [(length, at) for length, at in gaps if length >= rounded]
    if new is not None and any(at != new for _, at in fits):
        return f"a segment is reserved for {rounded} bytes though the gap at {next(at for _, at in fits if at != new)} has room"
    if not fits or place[0] != fits[0][1]:
        return f"{rounded} bytes are at {place[0]}, not in the smallest gap that has room" + (
            f", at {fits[0][1]}" if fits else ""
        )
    length = fits[0][0]
    expected = rounded if length >= 2 * rounded or length - rounded >= max_dead else length
    return "" if place[1] == expected else f"{rounded} bytes in a gap of {length} take {place[1]}, not {expected}"


def _line_fault(segments: dict[int, int], held: dict[int, tuple[int, int]], line: tuple[str, int, int, int]) -> str:
    what, key, address, size = line
    place = (address, address + size)
    if size <= 0:
        return f"{what} of {size} bytes"
    if what in ("segment", "release"):
        return _segment_fault(segments, held, what, place)
    if what == "hold":
        return _hold_fault(segments, held, key, place)
    if what == "free":
        return "" if held.get(key) == (address, size) else f"buffer {key} does not hold {_text(place)}"
    return f"unknown word {what!r}"


def _segment_fault(segments: dict[int, int], held: dict[int, tuple[int, int]], what: str, place: tuple[int, int]) -> str:
    if what == "segment":
        crossed = [start for start, length in segments.items() if _common(place, (start, start + length))]
        return f"segment {_text(place)} overlaps the one at {crossed[0]}" if crossed else ""
    if segments.get(place[0]) != place[1] - place[0]:
        return f"there is no segment {_text(place)} to release"
    inside = [key for key, (start, length) in held.items() if _common(place, (start, start + length))]
    return f"segment {_text(place)} is released under buffer {inside[0]}" if inside else ""


def _hold_fault(segments: dict[int, int], held: dict[int, tuple[int, int]], key: int, place: tuple[int, int]) -> str:
    if key in held:
        return f"buffer {key} is held already"
    if not any(start <= place[0] and place[1] <= start + length for start, length in segments.items()):
        return f"buffer {key} takes bytes {_text(place)}, which are inside no segment"
    for other, (start, length) in held.items():
        shared = _common(place, (start, start + length))
        if shared:
            return f"buffers {other} and {key} both take bytes {_text(shared)}"
    return ""


def _tiling_fault(segments: dict[int, int], held: Sequence[tuple[int, int]], free: Sequence[tuple[int, int]]) -> str:
    """Describe the first segment that held and free blocks do not tile, or two free neighbours that should be one block."""
    for start, length in sorted(segments.items()):
        blocks = sorted(
            (address, size, is_free)
            for is_free, some in ((False, held), (True, free))
            for address, size in some
            if start <= address < start + length
        )
        end, was_free = start, False
        for address, size, is_free in blocks:
            if address != end:
                return f"bytes {_text((min(end, address), max(end, address)))} of the segment at {start} are in no block or two"
            if was_free and is_free:
                return f"free blocks meet at byte {address} and are not merged"
            end, was_free = address + size, is_free
        if end != start + length:
            return f"the blocks of the segment at {start} end at {end}, not at {start + length}"
    outside = [address for address, _ in free if not any(at <= address < at + length for at, length in segments.items())]
    return f"free block at {outside[0]} is inside no segment" if outside else ""


def _place(request: Request, offset: int) -> tuple[int, int]:
    return offset, offset + request.size_bytes


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int] | None:
    """What two half-open intervals share, if anything."""
    start, stop = max(one[0], other[0]), min(one[1], other[1])
    return (start, stop) if start < stop else None


def _text(interval: tuple[int, int]) -> str:
    return f"[{interval[0]}, {interval[1]})"
