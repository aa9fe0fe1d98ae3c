"""Bytes as printed numbers that add up.

A row is printed in one unit with one number of decimals, chosen by its total: MiB below 1 GiB, GiB from there on, about
four digits in either. Total and parts are rounded to the nearest last digit. Where the parts then sum to more or less than
the total, as many last digits as are missing move the other way, at the parts whose rounding was the closest call (the
method of largest remainders): a reader with a pencil gets the printed total, and no part is off by a whole last digit. Parts
that a reader can work out, or compare from row to row, are the last to move. A part of exactly nothing reads ``0``; one that
is too small for the last digit reads ``0.0``.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from vramplan.units import GIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A unit and a number of decimals: one tick is the last printed digit.

    Invariant: unit_bytes > 0 and decimals >= 0.
    """

    unit: str
    unit_bytes: int
    decimals: int

    def __post_init__(self) -> None:
        if self.unit_bytes <= 0 or self.decimals < 0:
            raise ValueError(f"not a scale: {self.unit_bytes} bytes, {self.decimals} decimals")

    def ticks(self, size_bytes: int) -> int:
        """*size_bytes* in last digits, rounded to the nearest."""
        factor: int = 10**self.decimals
        return (2 * size_bytes * factor + self.unit_bytes) // (2 * self.unit_bytes)

    def number(self, size_bytes: int) -> str:
        """*size_bytes* to the last digit, without the unit."""
        return "0" if size_bytes == 0 else self.digits(self.ticks(size_bytes))

    def text(self, size_bytes: int) -> str:
        """*size_bytes* to the last digit, with the unit."""
        return f"{self.digits(self.ticks(size_bytes))} {self.unit}"

    def digits(self, ticks: int) -> str:
        """*ticks* as a decimal number."""
        whole, rest = divmod(ticks, 10**self.decimals)
        return f"{whole}.{rest:0{self.decimals}}" if self.decimals else str(whole)


MEBIBYTES = Scale(unit="MiB", unit_bytes=MIB, decimals=1)


def scale_for(total_bytes: int) -> Scale:
    """The unit and decimals of a row: ``831.4 MiB``, ``1.253 GiB``, ``12.53 GiB``, ``125.3 GiB``."""
    if MEBIBYTES.ticks(total_bytes) < MEBIBYTES.ticks(GIB):
        return MEBIBYTES
    decimals = 3 if total_bytes < 10 * GIB else 2 if total_bytes < 100 * GIB else 1
    return Scale(unit="GiB", unit_bytes=GIB, decimals=decimals)


def add_up(parts: Sequence[int], scale: Scale, *, steady: Container[int] = ()) -> tuple[str, ...]:
    """*parts*, in bytes, as numbers that sum to the number of their sum; those at the indices *steady* move last."""
    factor: int = 10**scale.decimals
    ticks = [scale.ticks(part) for part in parts]
    missing = scale.ticks(sum(parts)) - sum(ticks)
    step = 1 if missing > 0 else -1
    lost = [(part * factor - tick * scale.unit_bytes) * step for part, tick in zip(parts, ticks, strict=True)]
    movable = (index for index in range(len(parts)) if lost[index] > 0)
    for index in sorted(movable, key=lambda index: (index in steady, -lost[index]))[: abs(missing)]:
        ticks[index] += step
    return tuple("0" if part == 0 else scale.digits(tick) for part, tick in zip(parts, ticks, strict=True))
