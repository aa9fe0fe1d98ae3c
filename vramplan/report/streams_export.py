"""A streams plan for programs: JSON (schema 1), CSV and Markdown."""

from __future__ import annotations

from typing import Any

from vramplan.capacity import CardPlan, Limit
from vramplan.capacity.assumptions import assumptions
from vramplan.capacity.span import Span
from vramplan.fleet import StreamsPlan
from vramplan.report.export import to_csv, to_json, to_markdown
from vramplan.report.streams_terminal import verdict_lines
from vramplan.report.streams_words import assumption_lines, cards_grid, headline, limits_grid, notes, streams_rows
from vramplan.result import ModelFacts
from vramplan.video import Stream


def streams_json(plan: StreamsPlan) -> str:
    """One object: ``schema_version``, ``model``, ``video`` or ``mix``, ``cards``; counts are whole streams, sizes bytes."""
    models = [_model(facts) for facts in plan.models]
    cameras = [_camera(stream) for stream in plan.card.load.streams]
    plain = len(cameras) == 1 and cameras[0]["count"] == 1
    return to_json(
        {
            "model": models[0],
            **({"models": models} if len(models) > 1 else {}),
            **({"video": cameras[0]} if plain else {"mix": cameras}),
            "required": plan.required,
            "cards": [_card(card, plan) for card in plan.cards],
        }
    )


def streams_csv(plan: StreamsPlan) -> str:
    """One line a card and limit."""
    return to_csv(streams_rows(plan))


def streams_markdown(plan: StreamsPlan) -> str:
    """The table of the terminal in Markdown, with its headline, notes, assumptions and sentence."""
    name, *facts = headline(plan)
    grid = limits_grid(plan.card) if len(plan.cards) == 1 else cards_grid(plan)
    lines = [f"**{name}** · {' · '.join(facts)}", "", *to_markdown(grid), ""]
    remarks = [*notes(plan.card), *assumption_lines(plan.card)] if len(plan.cards) == 1 else [*assumption_lines(plan.card)]
    for remark in remarks:
        lines += [remark, ""]
    answer, *tries = verdict_lines(plan)
    lines += [f"**{answer}**", "", *(f"- {line.strip()}" for line in tries)]
    return "\n".join(lines).rstrip() + "\n"


def _model(facts: ModelFacts) -> dict[str, Any]:
    return {"name": facts.name, "format": facts.format, "sha256": facts.sha256, "parameters": facts.parameters}


def _camera(stream: Stream) -> dict[str, Any]:
    video = stream.video
    return {
        "count": stream.count,
        "width_px": video.width_px,
        "height_px": video.height_px,
        "fps": video.fps,
        "codec": video.codec.value,
        "bit_depth": video.bit_depth,
        "infer_every": stream.infer_every,
    }


def _card(card: CardPlan, plan: StreamsPlan) -> dict[str, Any]:
    topology = card.load.topology
    following = card.next_binding
    return {
        "gpu": card.gpu.key,
        "name": card.gpu.name,
        "usable_bytes": card.usable.nominal_bytes,
        "fits": None if plan.required is None else card.fits(plan.required),
        "streams": {"low": card.streams_low, "nominal": card.streams, "high": card.streams_high},
        "binding": card.binding,
        "limits": {name: _limit(limit, card.streams) for name, limit in card.limits.items()},
        "marginal_bytes_per_stream": card.marginal_bytes_per_stream,
        "batch": card.batch,
        "contexts": topology.contexts,
        "processes": "per-stream" if topology.processes is None else topology.processes,
        "assumptions": {
            each.name: {"value": each.value, "evidence": each.evidence.value, "source": each.source, "flag": each.flag}
            for each in assumptions(card)
        },
        "next_binding": None if following is None else {"limit": following.name, "streams_nominal": following.nominal},
        "missing": list(card.missing),
        "notes": list(notes(card)),
        "try": [{"flags": each.flags, "streams_nominal": each.streams_nominal, "text": each.text} for each in plan.tries],
    }


def _limit(limit: Limit, streams: int) -> dict[str, Any]:
    headroom = limit.headroom(streams)
    return {
        "streams_low": limit.low,
        "streams_nominal": limit.nominal,
        "streams_high": limit.high,
        "capacity": _nominal(limit.capacity),
        "capacity_low": None if limit.capacity is None else _plain(limit.capacity.low),
        "capacity_high": None if limit.capacity is None else _plain(limit.capacity.high),
        "demand_per_stream": _nominal(limit.demand),
        "headroom": None if headroom is None else _plain(headroom),
        "unit": limit.unit,
        "evidence": None if limit.evidence is None else limit.evidence.value,
        "sources": list(limit.sources),
        "applies": limit.applies,
        "reason": limit.reason,
    }


def _nominal(span: Span | None) -> float | int | None:
    return None if span is None else _plain(span.nominal)


def _plain(value: float) -> float | int:
    """Bytes stay whole; rates keep six decimals."""
    return int(value) if float(value).is_integer() else round(value, 6)
