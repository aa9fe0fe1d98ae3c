"""A number with its doubt: low – nominal – high, and the kind of evidence behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Evidence(StrEnum):
    """How a number is known, from the strongest to the weakest."""

    EXACT = "exact"
    """Follows from shapes and a runtime's published rules."""
    MEASURED = "measured"
    """Read from a real GPU; the note says which, with driver and versions."""
    CATALOGUE = "catalogue"
    """Copied from a source named in the row it came from."""
    BOUNDED = "bounded"
    """Lies within limits that have a reason."""
    ASSUMED = "assumed"
    """A default the user can override."""


def weakest(kinds: Iterable[Evidence]) -> Evidence:
    """The weakest of *kinds*: a sum is known no better than its worst part. Nothing summed is exact."""
    order = list(Evidence)
    return max(kinds, key=order.index, default=Evidence.EXACT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bytes between two limits.

    Invariant: 0 <= low_bytes <= nominal_bytes <= high_bytes, and an exact range has no width.
    """

    low_bytes: int
    nominal_bytes: int
    high_bytes: int
    evidence: Evidence

    def __post_init__(self) -> None:
        if not 0 <= self.low_bytes <= self.nominal_bytes <= self.high_bytes:
            raise ValueError(f"not a range: {self.low_bytes} – {self.nominal_bytes} – {self.high_bytes}")
        if self.evidence is Evidence.EXACT and self.low_bytes != self.high_bytes:
            raise ValueError(f"exact, yet {self.low_bytes} – {self.high_bytes}")

    @classmethod
    def exact(cls, size_bytes: int) -> Range:
        """A range without width."""
        return cls(low_bytes=size_bytes, nominal_bytes=size_bytes, high_bytes=size_bytes, evidence=Evidence.EXACT)

    def __add__(self, other: Range) -> Range:
        return Range(
            low_bytes=self.low_bytes + other.low_bytes,
            nominal_bytes=self.nominal_bytes + other.nominal_bytes,
            high_bytes=self.high_bytes + other.high_bytes,
            evidence=weakest((self.evidence, other.evidence)),
        )
