"""What single allocations by the CUDA driver take of a card: it maps memory in pages."""

from __future__ import annotations

from collections.abc import Iterable

from vramplan.units import MIB

PAGE_BYTES = 2 * MIB
"""Measured (ONNX Runtime on an H200): all readings of used memory lie a multiple of this apart."""

SHARED_UP_TO_BYTES = MIB
"""Allocations up to this size share pages, larger ones have their own. Measured there too, with one region a weight: the
readings of MobileNetV2, ResNet-50 and VGG-16 lie 96 and 428 MiB apart, as this rule says (16, 112 and 540 MiB); without
sharing at 1 MiB itself ResNet-50 would have 124. A half-precision ResNet-50 took 4 MiB less than it says."""

SMALL_ALIGNMENT_BYTES = 512
"""The least step between two allocations."""


def driver_bytes(sizes: Iterable[int]) -> int:
    """What cudaMallocs of *sizes* take together: pages of their own, or small ones in the first shared page with room.

    Known limitation: what was freed in between may have left pages half full.
    """
    total, rooms = 0, list[int]()
    for size in sizes:
        if size > SHARED_UP_TO_BYTES:
            total += -(-size // PAGE_BYTES) * PAGE_BYTES
            continue
        taken = -(-size // SMALL_ALIGNMENT_BYTES) * SMALL_ALIGNMENT_BYTES
        place = next((index for index, room in enumerate(rooms) if room >= taken), None)
        if place is None:
            place, total = len(rooms), total + PAGE_BYTES
            rooms.append(PAGE_BYTES)
        rooms[place] -= taken
    return total
