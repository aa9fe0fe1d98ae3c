"""What a limit is: how much the card has, how much a stream takes, and how many streams that makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from vramplan.capacity.span import Span
from vramplan.ranges import Evidence, weakest

LIMITS = ("vram", "decode", "compute", "pcie")
"""The four, in the order of a report; at equal counts the first binds."""

MOST_STREAMS = 1_000_000
"""Where a stream takes next to nothing of something, that does not limit: larger counts are cut here."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One of the four. ``capacity`` and ``demand`` (of one stream) are in ``unit``.

    ``capacity`` is None where the number is not known (``applies``) or where nothing of the kind is used (not ``applies``);
    ``reason`` says which. A limit that is not known does not count as no limit: a report names it beside the answer.

    Invariant: capacity and demand are both known or both None, and what is known applies.
    """

    name: str
    unit: str
    capacity: Span | None
    demand: Span | None
    applies: bool = True
    reason: str = ""
    forced_streams: int | None = None

    def __post_init__(self) -> None:
        if (self.capacity is None) != (self.demand is None):
            raise ValueError(f"limit {self.name}: capacity and demand are known together or not at all")
        if self.capacity is not None and not self.applies:
            raise ValueError(f"limit {self.name} has a number, and does not apply")

    @property
    def is_known(self) -> bool:
        """Whether there is a number."""
        return self.capacity is not None or self.forced_streams is not None

    @property
    def low(self) -> int | None:
        """Streams at the pessimistic end: the least capacity, the largest demand."""
        return self._streams(lambda span: span.low, lambda span: span.high)

    @property
    def nominal(self) -> int | None:
        """Streams at the nominal capacity and demand."""
        return self._streams(lambda span: span.nominal, lambda span: span.nominal)

    @property
    def high(self) -> int | None:
        """Streams at the optimistic end."""
        return self._streams(lambda span: span.high, lambda span: span.low)

    @property
    def exact_nominal(self) -> float:
        """The nominal count before it is cut to whole streams: which of two equal limits ends first."""
        if self.capacity is None or self.demand is None or self.demand.nominal <= 0:
            return float(self.nominal or 0)
        return self.capacity.nominal / self.demand.nominal

    @property
    def evidence(self) -> Evidence | None:
        """How well the number is known; None when it is not."""
        if self.capacity is None or self.demand is None:
            return None
        return weakest((self.capacity.evidence, self.demand.evidence))

    @property
    def sources(self) -> tuple[str, ...]:
        """Where capacity and demand are from."""
        spans = [span for span in (self.capacity, self.demand) if span is not None]
        return tuple(dict.fromkeys(source for span in spans for source in span.sources))

    @property
    def missing(self) -> tuple[str, ...]:
        """Facts that would narrow the range, or give one."""
        spans = [span for span in (self.capacity, self.demand) if span is not None]
        return tuple(dict.fromkeys(fact for span in spans for fact in span.missing))

    def headroom(self, streams: int) -> float | None:
        """What is left of the nominal capacity with *streams* running, in ``unit``; negative when over."""
        if self.capacity is None or self.demand is None:
            return None
        return self.capacity.nominal - streams * self.demand.nominal

    def _streams(self, capacity_edge: Callable[[Span], float], demand_edge: Callable[[Span], float]) -> int | None:
        if self.forced_streams is not None:
            return self.forced_streams
        if self.capacity is None or self.demand is None:
            return None
        demand = demand_edge(self.demand)
        if demand <= 0:
            return MOST_STREAMS
        return min(MOST_STREAMS, max(0, math.floor(capacity_edge(self.capacity) / demand + _TOLERANCE)))
