"""From results to the plain JSON that a page is rendered from: the JSON report as it is, and the pictures of each cell."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from vramplan.allocators.caching import CachingRules
from vramplan.allocators.caching_conf import rules_from_environment
from vramplan.program import Role
from vramplan.replaying import Replay
from vramplan.report.content import Report, Section
from vramplan.report.export import estimate_content, versioned
from vramplan.report.facts import footnotes, headline
from vramplan.report.html.cell import Axis, cell_content
from vramplan.report.html.layout import Layout, lay_out
from vramplan.report.html.overlay import overlay, part_bars
from vramplan.report.html.places import Place
from vramplan.report.html.remedy import Remedy, remedy_content
from vramplan.report.html.timeline import timeline
from vramplan.report.measured_export import verification_json
from vramplan.report.replaying import replay_json
from vramplan.report.verified_text import (
    alignment_line,
    difference_grid,
    peak_lines,
    percent,
    signed,
    verification_lines,
)
from vramplan.report.words import printable
from vramplan.result import Estimate
from vramplan.sources.recording import Recording
from vramplan.verdict import Verdict
from vramplan.verification import Verification

MAX_PLACES = 20_000
"""Rectangles of one address map; the largest are kept."""

MAX_PICTURED_EVENTS = 60_000
"""Steps of all pictured cells together: a page of YOLOv8s with a dozen cells stays below 2 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """How PyTorch's allocator was set for a cell, and how its segments lay where that is known."""

    rules: CachingRules
    ranks: tuple[int, ...] = ()

    @classmethod
    def here(cls) -> _Setting:
        """As estimates take it: from the environment."""
        return cls(rules=rules_from_environment(os.environ))

    @classmethod
    def of(cls, recording: Recording) -> _Setting:
        """As it was for a recorded process."""
        ranks = tuple(segment.address_rank for segment in recording.segments)
        return cls(rules=rules_from_environment(recording.environment), ranks=ranks)


def estimate_page_content(report: Report) -> dict[str, Any]:
    """``report`` is the object that ``--json`` prints; see `_content` for the rest."""
    settings = [_Setting.here()] * len(report.cells)
    content = _content("estimate", versioned(estimate_content(report)), report, settings, titled=report.cells)
    more = "; there is room for more:" if report.verdict.tries else "."
    return {**content, "without": _without("nothing tried", f"No change that was tried saves memory{more}")}


def replay_page_content(found: Replay, report: Report) -> dict[str, Any]:
    """A recorded run, replayed under its own settings with its segments where they lay."""
    printed = json.loads(replay_json(found, report))
    content = _content("replay", printed, report, [_Setting.of(found.recording)], titled=report.cells)
    why = "A recorded run cannot be changed: estimate the model to see what a change would do."
    return {**content, "without": _without("—", why)}


def _without(big: str, why: str) -> dict[str, str]:
    """What stands where the change that helps most would, and *why* there is none."""
    return {"title": "What helps most", "big": big, "sentence": why}


def verification_page_content(found: Verification) -> dict[str, Any]:
    """The estimate and, where it was recorded, the run, as two cells; ``verification`` is what ``--json`` prints."""
    runs = [found.replay] if found.replay else []
    cells = (found.estimate, *(run.estimate for run in runs))
    sentence = " ".join(verification_lines(found))
    verdict = Verdict(fits=None, limit_bytes=None, limit_name="", headroom_bytes=None, sentence=sentence, tries=())
    report = Report(cells=cells, verdict=verdict, sections=tuple(_compared(found)))
    settings = [_Setting.here(), *(_Setting.of(run.recording) for run in runs)]
    strings = _Strings()
    content = _content("verify", versioned(estimate_content(report)), report, settings, titled=cells[:1], strings=strings)
    notes = dict.fromkeys((*content["footnotes"], *(f"note: {printable(note)}" for note in found.measurement.notes)))
    named = [{**cell, "label": name} for cell, name in zip(content["cells"], ("predicted", "measured"), strict=False)]
    return {
        **content,
        "state": "yes" if found.within_tolerance else "no",
        "word": "Within the tolerance" if found.within_tolerance else "Beyond the tolerance",
        "focus": 0,
        "footnotes": list(notes),
        "cells": named,
        "residual": f"{signed(found.total.error_bytes)} ({percent(found.total.error_ratio)})",
        "residual_note": f"Below zero is an under-estimate. {_HOW_RECORDED[bool(runs)]}",
        "bars": part_bars(found),
        "overlay": overlay(found, strings),
        "verification": json.loads(verification_json(found)),
    }


_HOW_RECORDED = {
    True: "Choose “measured” below to see the recorded run in the same pictures.",
    False: "The run was not recorded: known are its counters, and statistics of its nodes where it kept any.",
}


def _compared(found: Verification) -> Iterator[Section]:
    """The ops at the peaks, and the largest differences of single ops."""
    yield Section(title="The ops", grid=None, sentence="; ".join([*peak_lines(found), *map(alignment_line, found.alignments)]))
    if (grid := difference_grid(found)).rows:
        yield Section(title="Ops that ask for other sizes than predicted", grid=grid, sentence="")


_STATES = {
    (True, False): ("yes", "Fits"),
    (True, True): ("doubt", "Fits, but the high end of a range does not"),
    (False, False): ("no", "Does not fit"),
    (False, True): ("no", "Does not fit"),
}
"""By whether all fit, and whether some cell is marked; nothing where there is no limit."""


def _content(
    kind: str,
    printed: Mapping[str, Any],
    report: Report,
    settings: Sequence[_Setting],
    *,
    titled: Sequence[Estimate],
    strings: _Strings | None = None,
) -> dict[str, Any]:
    """``headline`` and ``footnotes`` are the terminal's lines for the cells *titled*.

    ``cells`` and ``pictures`` have one item for each row, and so has *settings*. ``state`` is yes, no, doubt or none.
    ``focus`` is the row that the advice is about, and that the page opens at.
    A picture is null where there would be too many steps; ``strings`` are the texts that pictures point into.
    """
    focus, strings = _focus(report), strings or _Strings()
    axis = Axis.of(report.cells, report.verdict.limit_bytes)
    cells = [cell_content(cell, report.cells, axis) for cell in report.cells]
    state, word = "none", "Answer"
    if report.verdict.fits is not None:
        state, word = _STATES[report.verdict.fits, any(cell["mark"] for cell in cells)]
    return {
        "kind": kind,
        "state": state,
        "word": word,
        "report": printed,
        "sentence": report.verdict.sentence,
        "tries": [Remedy.of(attempt).content for attempt in report.verdict.tries],
        "limit": axis.limit_content(),
        "headline": list(headline(titled)),
        "footnotes": list(footnotes(titled, report.verdict, report.notes)),
        "focus": focus,
        **remedy_content(report, focus),
        "cells": cells,
        "pictures": _pictures(report.cells, focus, settings, strings),
        "sections": [_section(section) for section in report.sections],
        "strings": strings.texts,
    }


@dataclass(slots=True)
class _Strings:
    """Texts that are written once, however often they are used."""

    texts: list[str] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        index = self._index.setdefault(text, len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
        return index


def _focus(report: Report) -> int:
    """The cell that advice is given for: the smallest that does not fit, else the largest."""
    sizes, limit = [cell.total_bytes for cell in report.cells], report.verdict.limit_bytes
    over = [size for size in sizes if limit is not None and size > limit]
    return sizes.index(min(over) if over else max(sizes))


def _pictures(
    cells: Sequence[Estimate], focus: int, settings: Sequence[_Setting], strings: _Strings
) -> list[dict[str, Any] | None]:
    """The focus first, then in order, as long as the steps are not too many."""
    pictures: list[dict[str, Any] | None] = [None] * len(cells)
    room = MAX_PICTURED_EVENTS
    for index in sorted(range(len(cells)), key=lambda index: index != focus):
        room -= len(cells[index].program.events)
        if index == focus or room >= 0:
            layout = lay_out(cells[index], settings[index].rules, settings[index].ranks)
            pictures[index] = _picture(cells[index], layout, strings)
    return pictures


def _picture(cell: Estimate, layout: Layout, strings: _Strings) -> dict[str, Any]:
    program = cell.program
    line = timeline(program, layout.reserved_bytes, layout.peak_step)
    inside = set(chain.from_iterable(layout.inside.values()))
    places = sorted((*layout.places, *inside), key=lambda place: -place.size_bytes)
    shown = sorted(places[:MAX_PLACES], key=lambda place: (place in inside, place.start))
    used = sorted({abs(number) - 1 for number in line["event"]} | {place.buffer_index for place in shown})
    rank = {index: position for position, index in enumerate(used)}
    line["event"] = [(rank[abs(n) - 1] + 1) * (1 if n > 0 else -1) for n in line["event"]]
    roles = list(Role)
    return {
        "ops": [strings(name) for name in program.ops],
        "phases": [{"name": phase.name, "start": phase.start, "stop": phase.stop} for phase in program.phases],
        "steps": len(program.events),
        "peak_step": layout.peak_step,
        "buffers": {
            "name": [strings(program.buffers[index].name) for index in used],
            "path": [strings(program.buffers[index].path) for index in used],
            "role": [roles.index(program.buffers[index].role) for index in used],
            "size_bytes": [program.buffers[index].size_bytes for index in used],
        },
        "timeline": line,
        "map": _map(layout, shown, rank, len(places) - len(shown)) if layout.regions else None,
        "layers": list(_layers(cell, strings)),
    }


def _map(layout: Layout, places: Sequence[Place], rank: Mapping[int, int], left_out: int) -> dict[str, Any]:
    """Columns with an item for each place; ``opened`` are the places that have others inside."""
    return {
        "top_bytes": layout.top,
        "regions": [region._asdict() for region in layout.regions],
        "buffer": [rank[place.buffer_index] for place in places],
        "address": [place.address for place in places],
        "size_bytes": [place.size_bytes for place in places],
        "start": [place.start for place in places],
        "stop": [place.stop for place in places],
        "opened": [at for at, place in enumerate(places) if layout.inside.get(place)],
        "left_out": left_out,
    }


def _layers(cell: Estimate, strings: _Strings) -> Iterator[list[Any]]:
    """Layers with workspace, largest first: name, kind, workspace, live (bytes), remedy, and the op's index or null."""
    asked = (layer for layer in cell.layers if layer.workspace_bytes)
    for layer in sorted(asked, key=lambda layer: -layer.workspace_bytes):
        texts = strings(layer.name), strings(layer.kind)
        yield [*texts, layer.workspace_bytes, layer.live_bytes, strings(layer.remedy), layer.op_index]


def _section(section: Section) -> dict[str, Any]:
    grid = section.grid
    table = None if grid is None else {"headers": grid.headers, "rows": grid.rows, "words": sorted(grid.words)}
    return {"title": section.title, "table": table, "sentence": section.sentence}
