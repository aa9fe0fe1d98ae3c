"""From a streams plan to the JSON that its page is rendered from: each limit as a bar with its range, on one axis a card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from typing import Any

from vramplan.capacity import LIMITS, CardPlan, Limit
from vramplan.capacity.assumptions import assumptions, describe
from vramplan.capacity.load import Load
from vramplan.fleet import StreamsPlan
from vramplan.report.streams_export import streams_json
from vramplan.report.streams_words import ENDS, amount, between, headline, load_ratio, memory_line, notes, sentence, short_name
from vramplan.report.words import printable
from vramplan.units import format_bytes

MOST_TICKS = 6

FAR_RATIO = 4
"""A limit this many times beyond the answer's high end does not matter: its bar is cut, and its number says the rest."""


def streams_page_content(plan: StreamsPlan) -> dict[str, Any]:
    """``report`` is the object that ``--json`` prints; ``cards`` has an item for each of its cards.

    ``focus`` is the card that the sentence is about. Shares are parts of the axis, 0 to 1.
    """
    focus = max(range(len(plan.cards)), key=lambda index: plan.cards[index].streams)
    ends = axis_end([card.streams_high for card in plan.cards], max(card.streams for card in plan.cards))
    state, word = _state(plan, plan.cards[focus])
    tries = [{"flags": each.flags, "text": each.text.removeprefix(f"{each.flags}: ")} for each in plan.tries]
    best = max(range(len(tries)), key=lambda index: plan.tries[index].streams_nominal, default=None)
    return {
        "kind": "streams",
        "state": state,
        "word": word,
        "sentence": sentence(plan),
        "tries": tries,
        "remedy": None if best is None else _remedy(tries[best]),
        "others": [each for index, each in enumerate(tries) if index != best],
        "report": json.loads(streams_json(plan)),
        "headline": list(headline(plan)),
        "focus": focus,
        "ticks": ticks(ends),
        "cards": [{**_card(card), "bar": _bar(card.streams_low, card.streams, card.streams_high, ends)} for card in plan.cards],
        "mix": list(_mix(plan.card.load)),
        "without": _without(plan),
        "footnotes": list(_unknown(plan)),
        "strings": [],
    }


def _state(plan: StreamsPlan, card: CardPlan) -> tuple[str, str]:
    if plan.fits is None or plan.required is None:
        return "none", "Answer"
    if not plan.fits:
        return "no", "Does not fit"
    return ("yes", "Fits") if card.streams_low >= plan.required else ("doubt", "Fits nominally, not surely")


def _remedy(best: dict[str, str]) -> dict[str, str]:
    """Flags with where they lead; more cards have no flags."""
    if best["flags"]:
        return {"flags": best["flags"], "what": "", "text": f"{best['text']}, solved again with it."}
    what, _, text = best["text"].partition(": ")
    return {"flags": "", "what": what, "text": f"{text}."}


def _without(plan: StreamsPlan) -> dict[str, str]:
    """What stands where a change would: of several cards, which carries most."""
    if len(plan.cards) == 1:
        return {"title": "What lifts it", "big": "nothing found", "sentence": "No change that was tried carries more streams."}
    first, second, *_ = sorted(plan.cards, key=lambda card: -card.streams)
    next_best = f"next: {short_name(second)} with {second.streams:,}"
    count = f"{first.streams:,} ({between(first.streams_low, first.streams_high)})"
    text = f"{count}, {next_best}. Asked about alone, a card gets advice."
    return {"title": "Which carries most", "big": short_name(first), "sentence": text}


def axis_end(highs: Sequence[int], answer: int) -> int:
    """Where an axis ends: at the largest of *highs*, but no further than `FAR_RATIO` times *answer*; a round number."""
    end = max(1, min(max(highs, default=1), FAR_RATIO * max(answer, 1)))
    step = _step(end)
    return ceil(end / step) * step


def ticks(end: int) -> list[dict[str, Any]]:
    """At most `MOST_TICKS` and the zero: round counts, and how far along the axis they lie."""
    step = _step(end)
    return [{"share": round(count / end, 6), "text": f"{count:,}"} for count in range(0, end + 1, step)]


def _step(end: int) -> int:
    """1, 2 or 5 times a power of ten, so that no more than `MOST_TICKS` reach *end*."""
    power: int = 10 ** max(0, floor(log10(max(end, 1))) - 1)
    return next(step for factor in (1, 2, 5, 10, 20) if end <= MOST_TICKS * (step := factor * power))


def _bar(low: int, nominal: int, high: int, end: int) -> dict[str, Any]:
    """Shares of the axis; ``is_cut`` where the nominal count lies beyond it."""
    share = [round(min(count / end, 1.0), 6) for count in (low, nominal, high)]
    return {"low": share[0], "nominal": share[1], "high": share[2], "is_cut": nominal > end}


def _card(card: CardPlan) -> dict[str, Any]:
    known = list(card.ranked)
    end = axis_end([limit.high or 0 for limit in known], card.streams_high)
    order = [*known, *(limit for limit in card.limits.values() if limit not in known)]
    following, binding = card.next_binding, known[0]
    return {
        "name": short_name(card),
        "usable": format_bytes(card.usable.nominal_bytes),
        "streams": f"{card.streams:,}",
        "range": between(card.streams_low, card.streams_high),
        "is_open": bool(card.unknown),
        "ends": ENDS[binding.name],
        "binding": binding.name,
        "why": _why(binding, card),
        "next": "" if following is None else f"{ENDS[following.name]} would be next, at {following.nominal or 0:,}.",
        "batch": str(card.batch),
        "ticks": ticks(end),
        "answer": round(min(card.streams / end, 1.0), 6),
        "limits": [_limit(limit, card, end, is_binding=limit is binding) for limit in order],
        "memory": printable(memory_line(card)),
        "notes": [printable(note) for note in notes(card)],
        "assumptions": [
            [printable(text) for text in (each.name.replace("_", " "), each.value, each.flag, each.evidence.value, each.source)]
            for each in assumptions(card)
        ],
    }


def _why(limit: Limit, card: CardPlan) -> str:
    """What the card has of it, and what a stream takes."""
    if limit.capacity is None or limit.demand is None:
        return f"{limit.reason}."
    share = load_ratio(card, limit)
    has, takes = amount(limit.capacity.nominal, limit.unit), amount(limit.demand.nominal, limit.unit)
    return f"It has {has}, a stream takes {takes}: {card.streams:,} use {share:.0%}."


def _limit(limit: Limit, card: CardPlan, end: int, *, is_binding: bool) -> dict[str, Any]:
    """``bar`` is null where the limit has no number: ``reason`` says why."""
    is_known = limit.nominal is not None
    return {
        "name": limit.name,
        "title": ENDS[limit.name],
        "is_binding": is_binding,
        "streams": f"{limit.nominal:,}" if is_known else "not known" if limit.applies else "does not limit",
        "range": between(limit.low or 0, limit.high or 0) if is_known else "",
        "bar": _bar(limit.low or 0, limit.nominal or 0, limit.high or 0, end) if is_known else None,
        "load": f"{load_ratio(card, limit):.0%}" if is_known else "",
        "has": "" if limit.capacity is None else amount(limit.capacity.nominal, limit.unit),
        "takes": "" if limit.demand is None else amount(limit.demand.nominal, limit.unit),
        "evidence": "" if limit.evidence is None else limit.evidence.value,
        "sources": [printable(source) for source in limit.sources],
        "reason": printable(limit.reason),
    }


def _mix(load: Load) -> Iterator[dict[str, Any]]:
    """Each kind of camera: its share of the cameras, and the frames a second that all of them send and the model sees."""
    for stream in load.streams:
        yield {
            "name": printable(describe(stream)),
            "count": f"{stream.count:,}",
            "share": round(stream.count / load.count, 6),
            "percent": f"{stream.count / load.count:.0%}",
            "decoded": f"{stream.count * stream.video.fps:,.4g} fps",
            "seen": f"{stream.count * stream.infer_fps:,.4g} fps",
        }


def _unknown(plan: StreamsPlan) -> Iterator[str]:
    if len(plan.cards) > 1 and any(card.unknown for card in plan.cards):
        yield "?: a limit is not known; choose the card to see which."
    yield f"The limits are {', '.join(f'{name} ({ENDS[name]})' for name in LIMITS)}: the smallest nominal count is the answer."
    yield "A bar reaches to the nominal count; the thin line runs from the pessimistic to the optimistic end."
