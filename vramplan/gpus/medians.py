"""The lower median: the middle number, or the smaller of the two, so that the result is always a number that was read.

The standard library has it in ``statistics``, whose import takes longer than reading the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def lower_median(numbers: Iterable[Number]) -> Number:
    """The lower median of *numbers*, which must not be empty."""
    ordered = sorted(numbers)
    return ordered[(len(ordered) - 1) // 2]
