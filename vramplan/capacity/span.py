"""A rate or a demand with its doubt: low – nominal – high, what is behind it, and which fact was missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vramplan.ranges import Evidence, weakest


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A number between two limits. ``sources`` say where it is from, ``missing`` which facts would narrow it.

    Invariant: 0 <= low <= nominal <= high, all finite.
    """

    low: float
    nominal: float
    high: float
    evidence: Evidence
    sources: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.nominal <= self.high and math.isfinite(self.high)):
            raise ValueError(f"not a span: {self.low} – {self.nominal} – {self.high}")

    @classmethod
    def of(cls, value: float, evidence: Evidence, *sources: str) -> Span:
        """A span without width."""
        return cls(low=value, nominal=value, high=value, evidence=evidence, sources=sources)

    @classmethod
    def around(cls, values: Iterable[float], evidence: Evidence, *sources: str, missing: str = "") -> Span:
        """From the lowest to the highest of *values*, nominal their lower median."""
        ordered = sorted(values)
        return cls(
            low=ordered[0],
            nominal=ordered[(len(ordered) - 1) // 2],
            high=ordered[-1],
            evidence=evidence,
            sources=sources,
            missing=(missing,) if missing else (),
        )

    def scaled(self, factor: float) -> Span:
        """Every limit times *factor*, which is exact."""
        return replace(self, low=self.low * factor, nominal=self.nominal * factor, high=self.high * factor)

    def times(self, other: Span) -> Span:
        """The product of two numbers whose errors are independent: relative errors add as squares."""
        return self._joined(
            other,
            nominal=self.nominal * other.nominal,
            down=math.hypot(_distance(self.nominal, self.low), _distance(other.nominal, other.low)),
            up=math.hypot(_distance(self.high, self.nominal), _distance(other.high, other.nominal)),
        )

    def _joined(self, other: Span, *, nominal: float, down: float, up: float) -> Span:
        return Span(
            low=nominal * math.exp(-down),
            nominal=nominal,
            high=nominal * math.exp(up),
            evidence=weakest((self.evidence, other.evidence)),
            sources=tuple(dict.fromkeys((*self.sources, *other.sources))),
            missing=tuple(dict.fromkeys((*self.missing, *other.missing))),
        )


def _distance(above: float, below: float) -> float:
    """How far apart two limits are, as the logarithm of their ratio; a limit of zero is as far as numbers go."""
    if above <= 0:
        return 0.0
    return math.log(above / below) if below > 0 else 700.0
