"""A streams plan in words and cells: what the terminal, Markdown and CSV all say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vramplan.capacity import CardPlan, Limit
from vramplan.capacity.assumptions import assumptions, describe
from vramplan.capacity.load import names_of
from vramplan.capacity.span import Span
from vramplan.capacity.vram import fits_topology
from vramplan.fleet import StreamsPlan
from vramplan.report.grid import Grid
from vramplan.report.rows import Row
from vramplan.report.words import printable, shorten
from vramplan.units import format_bytes

BAR_WIDTH = 18
LOAD_HEADER = "load at"
MOST_SHOWN = 10_000
FULL, PARTS = "█", " ▏▎▍▌▋▊▉"
ENDS = {"vram": "memory", "decode": "decoding", "compute": "compute", "pcie": "PCIe"}
"""What ends, in a sentence."""


def headline(plan: StreamsPlan) -> tuple[str, ...]:
    """Model, precision, runtime, cameras and card."""
    load = plan.card.load
    card = (short_name(plan.card),) if len(plan.cards) == 1 else (f"{len(plan.cards)} cards",)
    cameras = " + ".join(map(describe, load.streams))
    return (
        shorten(names_of(load.engines), 60),
        load.engines[0].precision,
        load.engines[0].runtime,
        shorten(cameras, 60),
        *card,
    )


def short_name(card: CardPlan) -> str:
    """The card without its maker."""
    return card.gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def limits_grid(card: CardPlan) -> Grid:
    """One row a limit, the binding one first: counts, load at the answer, capacity and demand."""
    known = list(card.ranked)
    rows = [_limit_cells(card, limit) for limit in known]
    rows += [_blank_cells(limit) for limit in card.limits.values() if limit not in known]
    headers = ("limit", "streams", "low–high", f"{LOAD_HEADER} {card.streams:,}", "", "has", "a stream takes", "evidence")
    return Grid(headers=headers, rows=tuple(rows), words=frozenset({"limit", headers[3], "evidence"}))


def _limit_cells(card: CardPlan, limit: Limit) -> tuple[str, ...]:
    share = load_ratio(card, limit)
    return (
        limit.name,
        f"{limit.nominal:,}",
        between(limit.low or 0, limit.high or 0),
        bar(share),
        f"{share:.0%}",
        "nothing" if limit.capacity is None else amount(limit.capacity.nominal, limit.unit),
        "?" if limit.demand is None else amount(limit.demand.nominal, limit.unit),
        "" if limit.evidence is None else limit.evidence.value,
    )


def _blank_cells(limit: Limit) -> tuple[str, ...]:
    return (limit.name, "?" if limit.applies else "–", "", "not known" if limit.applies else "does not limit", "", "", "", "")


def load_ratio(card: CardPlan, limit: Limit) -> float:
    """The share of the limit that is used by the streams that fit; all of it where nothing fits because of it."""
    if limit.capacity is None or limit.demand is None or limit.capacity.nominal <= 0:
        return 1.0
    return card.streams * limit.demand.nominal / limit.capacity.nominal


def bar(share: float) -> str:
    """A bar of at most `BAR_WIDTH` characters in eighths."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR_WIDTH * 8)
    return (FULL * (eighths // 8) + PARTS[eighths % 8]).strip()


def amount(value: float, unit: str) -> str:
    """A number with its unit, in as many digits as it is worth."""
    if unit == "bytes":
        return format_bytes(round(value))
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}" if value >= 0.005 else f"{value:.1g} {unit}"


def cards_grid(plan: StreamsPlan) -> Grid:
    """One row a card, for a comparison."""
    headers = ("card", "usable", "streams", "low–high", "binds", "vram", "decode", "compute", "pcie", "batch")
    return Grid(headers=headers, rows=tuple(map(_card_cells, plan.cards)), words=frozenset({"card", "binds"}))


def _card_cells(card: CardPlan) -> tuple[str, ...]:
    counts = (_count(card.limits[name]) for name in ("vram", "decode", "compute", "pcie"))
    return (
        shorten(short_name(card), 26),
        format_bytes(card.usable.nominal_bytes),
        f"{card.streams:,}" + ("?" if card.unknown else ""),
        between(card.streams_low, card.streams_high),
        card.binding,
        *counts,
        str(card.batch),
    )


def _count(limit: Limit) -> str:
    return f"{limit.nominal:,}" if limit.nominal is not None else "?" if limit.applies else "–"


def sentence(plan: StreamsPlan) -> str:
    """The answer in one sentence."""
    card = max(plan.cards, key=lambda each: each.streams)
    most = "" if len(plan.cards) == 1 else ", the most of these cards"
    answer = f"{short_name(card)} carries {_counted(card)}{most}: {_why(card)}"
    if plan.required is None:
        return answer + "."
    return f"{_required(card, plan.required)} {answer}."


def _counted(card: CardPlan) -> str:
    is_mix = len(card.load.streams) > 1
    noun = "camera" if is_mix else "stream"
    kind = "this mix" if is_mix else describe(replace(card.load.streams[0], count=1))
    many = noun if card.streams == 1 else f"{noun}s"
    return f"{card.streams:,} {many} of {kind} ({between(card.streams_low, card.streams_high)})"


def between(low: int, high: int) -> str:
    """Two counts; beyond ten thousand nobody plans by the upper one."""
    return f"{low:,}–{high:,}" if high <= MOST_SHOWN else f"{low:,}–…"


def _why(card: CardPlan) -> str:
    limit = card.ranked[0]
    if card.streams == 0 and limit.reason:
        return limit.reason
    following = card.next_binding
    after = f", {ENDS[following.name]} would be next at {following.nominal:,}" if following else ""
    return f"{ENDS[limit.name]} ends first{after}"


def _required(card: CardPlan, required: int) -> str:
    if card.streams < required:
        return f"{required:,} streams do not fit, {required - card.streams:,} too many."
    if card.streams_low < required:
        return f"{required:,} streams fit nominally, not surely."
    return f"{required:,} streams fit."


def notes(card: CardPlan) -> Iterator[str]:
    """Doubts that change how the answer is read."""
    for limit in card.unknown:
        yield f"note: {limit.name} limit not known: {limit.reason}; the answer leaves it out"
    for limit in card.limits.values():
        if limit.forced_streams is not None or (not limit.applies and limit.reason):
            yield f"note: {limit.name}: {limit.reason}"
    for note in card.load.given.readings.notes:
        yield f"note: {note}"
    if card.missing:
        yield f"note: not in the catalogue, so a range stands in: {'; '.join(card.missing)}"
    if uncounted := [op for engine in card.load.engines for op in engine.work.unknown]:
        yield f"note: operations not counted, compute is optimistic: {', '.join(map(printable, dict.fromkeys(uncounted)))}"
    if card.load.topology.batch is not None and card.batch > max(card.streams, 1):
        yield f"note: batch {card.batch} is larger than the {card.streams} streams: it waits for several frames of each"


def source_lines(card: CardPlan) -> Iterator[str]:
    """Where each limit's numbers are from."""
    for limit in card.ranked:
        if limit.sources:
            yield f"{limit.name}: {'; '.join(limit.sources)}"


def assumption_lines(card: CardPlan) -> Iterator[str]:
    """The premises, in one line for what is asked and one for what is modelled."""
    found = assumptions(card)
    asked = [f"{each.name.replace('_', ' ')} {each.value} ({each.flag})" for each in found if each.flag]
    fixed = [f"{each.name.replace('_', ' ')} {each.value}" for each in found if not each.flag]
    yield printable(f"assumed: {' · '.join([*asked, *fixed])}")


def memory_line(card: CardPlan) -> str:
    """The arrangement and what one more stream costs in memory."""
    low, high = format_bytes(card.per_stream.low_bytes), format_bytes(card.per_stream.high_bytes)
    marginal = f"{format_bytes(card.marginal_bytes_per_stream)} a stream ({low} to {high})"
    have = format_bytes(card.usable.nominal_bytes)
    return f"{fits_topology(card.load.topology)}, batch {card.batch}: {marginal} of {have} usable"


def streams_rows(plan: StreamsPlan) -> list[Row]:
    """One flat row a card and limit, for CSV."""
    return [_row(card, limit) for card in plan.cards for limit in card.limits.values()]


def _row(card: CardPlan, limit: Limit) -> Row:
    return {
        "gpu": card.gpu.key,
        "streams_low": card.streams_low,
        "streams_nominal": card.streams,
        "streams_high": card.streams_high,
        "binding": card.binding,
        "batch": card.batch,
        "limit": limit.name,
        "limit_streams_low": limit.low,
        "limit_streams_nominal": limit.nominal,
        "limit_streams_high": limit.high,
        "capacity": _nominal(limit.capacity),
        "demand_per_stream": _nominal(limit.demand),
        "unit": limit.unit,
        "evidence": None if limit.evidence is None else limit.evidence.value,
        "reason": limit.reason,
    }


def _nominal(span: Span | None) -> int | float | None:
    """Bytes as whole numbers, rates in six digits."""
    if span is None:
        return None
    return int(span.nominal) if float(span.nominal).is_integer() else float(f"{span.nominal:.6g}")
