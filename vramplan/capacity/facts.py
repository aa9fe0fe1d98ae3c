"""Facts of a card, and what stands in for one that the catalogue leaves blank: the span over comparable cards.

A blank cell is unknown, never zero. What replaces it is a range, and the name of the missing fact goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vramplan.capacity.span import Span
from vramplan.gpus import Gpu, all_gpus
from vramplan.ranges import Evidence

Fact = Callable[[Gpu], float | None]


def known(gpu: Gpu, fact: Fact, name: str) -> Span:
    """*fact* of *gpu*; where it is blank, from the lowest to the highest of the most comparable cards that have it.

    Comparable is: same architecture and family, else same architecture, else any card of its kind (with memory of its own,
    or shared). *name* is what a note calls the missing fact.
    """
    value = fact(gpu)
    if value is not None:
        return Span.of(value, Evidence.CATALOGUE, f"catalogue row {gpu.key}")
    cards, which = comparable(gpu, fact)
    values = [value for card in cards if (value := fact(card)) is not None]
    source = f"{name}: span over {len(values)} {which}"
    return Span.around(values, Evidence.BOUNDED, source, missing=f"{name} of {gpu.name}")


def comparable(gpu: Gpu, fact: Fact) -> tuple[list[Gpu], str]:
    """Cards near *gpu* that have *fact*, and what they are called in a note."""
    cards = [card for card in all_gpus() if fact(card) is not None and card.unified_memory == gpu.unified_memory]
    alike = [card for card in cards if card.architecture == gpu.architecture]
    family = [card for card in alike if card.family == gpu.family]
    if family:
        return family, f"{gpu.architecture} {gpu.family} cards"
    return (alike, f"{gpu.architecture} cards") if alike else (cards, "cards of the catalogue")


def nearest(gpu: Gpu, fact: Fact, cards: Iterable[Gpu]) -> float | None:
    """*fact* of the card nearest in size (multiprocessors); None when the size of *gpu* is not known."""
    if gpu.sm_count is None:
        return None
    size = gpu.sm_count
    sized = [(abs(card.sm_count - size), value) for card in cards if card.sm_count and (value := fact(card)) is not None]
    return min(sized)[1] if sized else None
