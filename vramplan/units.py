"""Bytes and text. GiB (2^30) and GB (10^9) are different, and both are understood."""

from __future__ import annotations

import math
import re

from vramplan.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MAX_BYTES = 1 << 60
"""No GPU holds an exbibyte: a larger size in a model or on the command line is a mistake or an attack."""

_FACTORS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 10**3,
    "m": MIB, "mib": MIB, "mb": 10**6,
    "g": GIB, "gib": GIB, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip

_SIZE = re.compile(r"\s*(\d[\d,_]*(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str | int, *, what: str = "size") -> int:
    """Read ``8GiB``, ``500 MB``, ``1.5g`` or a plain number of bytes; *what* names the value in the error.

    A bare ``k``, ``m``, ``g`` or ``t`` is binary. Raises `UsageError` for anything else, and for sizes beyond `MAX_BYTES`.
    """
    match = _SIZE.fullmatch(str(text))
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{what}: cannot read {str(text)[:80]!r} as a size", hint="Write it like 8GiB, 500MB or 1073741824.")
    size_bytes = math.floor(float(match.group(1).replace(",", "").replace("_", "")) * factor)
    if "." not in match.group(1):
        size_bytes = int(match.group(1).replace(",", "").replace("_", "")) * factor
    if size_bytes > MAX_BYTES:
        raise UsageError(f"{what}: {str(text)[:80]!r} is beyond any GPU", hint="Write it like 8GiB, 500MB or 1073741824.")
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """``512 B``, ``1.5 KiB``, ``831.4 MiB``, ``1.25 GiB``: KiB and bytes only where MiB would read 0.0."""
    magnitude = abs(size_bytes)
    if magnitude >= GIB:
        return f"{size_bytes / GIB:,.2f} GiB"
    if magnitude >= MIB // 20 or magnitude == 0:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{size_bytes / KIB:.1f} KiB" if magnitude >= KIB else f"{size_bytes} B"


def parse_share(text: str, *, what: str) -> float:
    """``5%`` or ``0.05`` as a ratio from 0 to below 1. `UsageError` for anything else; *what* names it there."""
    word = text.strip()
    try:
        ratio = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise UsageError(f"{what}: {text[:40]!r} is no share below 100 %", hint="Write it like 5%")
    return ratio
