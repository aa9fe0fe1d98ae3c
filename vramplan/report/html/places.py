"""What an address map is made of: regions that the runtime holds, and the places of buffers in them."""

from __future__ import annotations

from typing import NamedTuple


class Region(NamedTuple):
    """Bytes that the runtime holds at the steps ``[start, stop)``, in use or not."""

    label: str
    address: int
    size_bytes: int
    start: int
    stop: int


class Place(NamedTuple):
    """Where a buffer lies while it is held: ``size_bytes`` is what it takes, rounding included."""

    buffer_index: int
    address: int
    size_bytes: int
    start: int
    stop: int
