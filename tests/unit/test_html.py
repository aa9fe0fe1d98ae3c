"""The web page: one safe file, whose numbers are those of the JSON report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

import vramplan as vp
from tests.cli.cells import cell
from tests.recordings import RECORDING
from vramplan.allocators.caching import DEFAULT_RULES, replay
from vramplan.allocators.driver import driver_bytes
from vramplan.gpus import find_gpu
from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role
from vramplan.report import html
from vramplan.report.content import Report
from vramplan.report.export import estimate_json
from vramplan.report.html.content import estimate_page_content
from vramplan.report.html.layout import Layout, lay_out
from vramplan.report.html.page import BARRED, CHARTED, embedded
from vramplan.report.html.remedy import remedy_content
from vramplan.report.html.timeline import kept_steps, timeline
from vramplan.result import Estimate, LiveBuffer, PeakMoment
from vramplan.sweep import sweep
from vramplan.units import GIB, MIB, format_bytes
from vramplan.verdict import Change, Try, Verdict, judge

FOLDER = Path(html.__file__).parent
HOSTILE = "</script><script>alert(1)</script><!--\u2028\u2029\x1b[31m\u202e'\"&\udc80"


OURS = sorted({*CHARTED, *BARRED} - {"uplot.min.js"})


class Page(HTMLParser):
    """The elements of a page, with the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str, str]] = []
        self.title = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag in {"script", "style"}:
            self.blocks.append(("json" if attributes.get("type") == "application/json" else tag, data))
        if tag == "title":
            self.title += data

    def of(self, kind: str) -> list[str]:
        return [text for tag, text in self.blocks if tag == kind and text.strip()]

    @property
    def content(self) -> dict[str, Any]:
        (text,) = self.of("json")
        return dict(json.loads(text))


def same(cell: Estimate, change: Change) -> Estimate:
    return cell


def report(*cells: Estimate, budget_bytes: int = 4 * GIB) -> Report:
    return Report(cells=cells, verdict=judge(cells, budget_bytes=budget_bytes, resolve=same))


@pytest.fixture(scope="module")
def yolo() -> Report:
    """The page that people see first: YOLOv8s at three batches and precisions on TensorRT."""
    card = find_gpu("3090")
    cells = sweep("yolov8s", batches=[1, 4, 8], precisions=["fp32", "fp16", "int8"], gpu=card)
    return Report(cells=cells.cells, verdict=judge(cells.cells, gpu=card, resolve=cells.resolve))


@pytest.fixture(scope="module")
def eager() -> Report:
    """The same model in eager PyTorch."""
    pytest.importorskip("torch")
    card = find_gpu("3090")
    cells = sweep("yolov8s", batches=[8], precisions=["fp32", "fp16", "bf16"], runtimes=["torch"], gpu=card)
    return Report(cells=cells.cells, verdict=judge(cells.cells, gpu=card, resolve=cells.resolve))


def test_the_embedded_report_is_the_json_report(yolo: Report):
    assert Page(html.estimate_page(yolo)).content["report"] == json.loads(estimate_json(yolo))


def test_the_pages_of_yolov8s_are_small(yolo: Report, eager: Report):
    assert len(html.estimate_page(yolo)) < 1_000_000
    assert len(html.estimate_page(eager)) < 2_000_000


def test_the_page_names_nothing_outside_itself(yolo: Report):
    page = Page(html.estimate_page(yolo))
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "style"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    ours = [(FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", *OURS, "template.html")]
    for text in (*ours, *page.of("style")):
        assert "://" not in text
        assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(", text)


def test_scripts_write_text_and_no_markup():
    for name in OURS:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(", text)
        assert "</" not in text


def test_the_policy_allows_exactly_the_scripts_and_styles_of_the_page(yolo: Report):
    page = Page(html.estimate_page(yolo))
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["script-src"].split() == [_hash(text) for text in page.of("script")]
    assert directives["style-src"].split() == [_hash(text) for text in page.of("style")]
    assert "unsafe" not in policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_hostile_names_stay_text():
    live = (LiveBuffer(name=HOSTILE, role="activation", size_bytes=MIB, until=HOSTILE),)
    one = replace(cell(name=HOSTILE, live=live, notes=(HOSTILE,)), peak=PeakMoment(op=HOSTILE, index=0, live=live))
    page = html.estimate_page(report(one))
    assert Page(page).content["report"]["model"]["name"] == HOSTILE
    assert page.count("<script") == page.count("</script>") == len(CHARTED) + 1
    assert "alert(1)</script>" not in page
    assert not set("\u2028\u2029\x1b\u202e\udc80") & set(page)
    assert Page(page).title.strip() == HOSTILE_TITLE


HOSTILE_TITLE = "</script><script>alert(1)</script><!--\ufffd\ufffd\ufffd[31m\ufffd'\"&\ufffd: GPU memory, vramplan"


@pytest.mark.parametrize("char", ["<", ">", "&", "\u2028", "\u2029", "é"])
def test_embedded_json_has_no_character_that_html_knows(char: str):
    text = embedded({char: char})
    assert char not in text
    assert json.loads(text) == {char: char}


def test_a_page_without_scripts_still_says_the_numbers(yolo: Report):
    page = html.estimate_page(yolo)
    plain = page[page.index("<noscript>") : page.index("</noscript>")]
    assert yolo.verdict.sentence[:60] in plain
    assert "fp32          8" in plain


def test_the_library_is_the_one_that_the_readme_names():
    named = re.findall(r"^([0-9a-f]{64})  (\S+)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for _, name in named} == {"uplot.min.js", "uplot.min.css"}
    for digest, name in named:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (FOLDER / "LICENSE-uplot.txt").read_text(encoding="utf-8")


def pictures(found: Report) -> Iterator[tuple[Estimate, dict[str, Any]]]:
    for one, picture in zip(found.cells, estimate_page_content(found)["pictures"], strict=True):
        assert picture is not None
        yield one, picture


def test_the_timeline_adds_up_to_the_budget_at_the_peak(yolo: Report, eager: Report):
    for one, picture in (*pictures(yolo), *pictures(eager)):
        line, peak = picture["timeline"], list(accumulate(picture["timeline"]["step"])).index(picture["peak_step"])
        held = {role: list(accumulate(differences))[peak] for role, differences in line["roles"].items()}
        assert held["weight"] == one.budget.weights_bytes
        assert held["input"] == one.budget.inputs_bytes
        assert held["activation"] == one.budget.activations_bytes
        assert list(accumulate(line["op"]))[peak] == one.peak.index
        assert sum(held.values()) == sum(item.size_bytes for item in one.peak.live)


def test_the_allocators_line_ends_at_the_total_without_the_context(eager: Report):
    for one, picture in pictures(eager):
        reserved = list(accumulate(picture["timeline"]["reserved"]))
        assert max(reserved) == one.total_bytes - one.budget.context_bytes == picture["map"]["top_bytes"]


@pytest.fixture(scope="module")
def session() -> Report:
    """And in two sessions of ONNX Runtime."""
    card = find_gpu("3090")
    cells = sweep("yolov8s", batches=[8], precisions=["fp32", "fp16"], runtimes=["onnxruntime"], gpu=card)
    return Report(cells=cells.cells, verdict=judge(cells.cells, gpu=card, resolve=cells.resolve))


def test_an_arenas_line_is_what_its_regions_add_up_to(session: Report):
    for one, picture in pictures(session):
        reserved = list(accumulate(picture["timeline"]["reserved"]))
        assert max(reserved) == one.phases["steady"].reserved_peak_bytes == picture["map"]["top_bytes"]
        assert one.total_bytes - one.budget.context_bytes == driver_bytes(r["size_bytes"] for r in picture["map"]["regions"])


def test_an_arena_is_told_apart_from_what_is_alive_in_it(session: Report):
    for one, content in zip(session.cells, estimate_page_content(session)["cells"], strict=True):
        alive = sum(item.size_bytes for item in one.peak.live)
        taken = one.phases["steady"].reserved_peak_bytes
        assert f"In the arena: {format_bytes(alive)} alive, {format_bytes(taken)} taken" in content["peak_sentence"]


def test_inside_the_memory_pattern_results_lie_apart_and_within(session: Report):
    one = session.cells[0]
    layout = lay_out(one, DEFAULT_RULES)
    assert len(layout.inside) == 3, "runs 2, 3 and 4 have a block"
    for block, inner in layout.inside.items():
        assert block in layout.places
        assert one.program.buffers[block.buffer_index].name == "memory pattern"
        for place in inner:
            assert block.address <= place.address
            assert place.address + place.size_bytes <= block.address + block.size_bytes
            assert block.start <= place.start < place.stop <= block.stop
        for step in range(block.start, block.stop):
            held = sorted((each.address, each.address + each.size_bytes) for each in inner if each.start <= step < each.stop)
            assert all(before[1] <= after[0] for before, after in pairwise(held))


def test_the_pattern_is_opened_on_the_map_where_it_was_planned(session: Report):
    for one, picture in pictures(session):
        opened = [picture["map"]["buffer"][place] for place in picture["map"]["opened"]]
        names = estimate_page_content(session)["strings"]
        assert [names[picture["buffers"]["name"][buffer]] for buffer in opened] == ["memory pattern"] * 3
        assert one.runtime == "onnxruntime"


def test_a_session_without_a_pattern_has_nothing_inside():
    one = vp.estimate("yolov8s", batch=1, runtime="onnxruntime", runtime_options={"enable_mem_pattern": "0"})
    assert lay_out(one, DEFAULT_RULES).inside == {}


def test_the_options_of_a_session_shape_its_map():
    def regions(**options: str) -> list[int]:
        one = vp.estimate("yolov8s", batch=8, runtime="onnxruntime", runtime_options=options)
        return [region.size_bytes for region in lay_out(one, DEFAULT_RULES).regions]

    doubling, exact = regions(), regions(arena_extend_strategy="kSameAsRequested")
    assert len(doubling) < len(exact)
    assert sum(doubling) > sum(exact)
    assert all(size & (size - 1) == 0 for size in doubling)


def test_an_engines_line_is_the_total_without_context_and_persistent_memory(yolo: Report):
    for one, picture in pictures(yolo):
        held = [one.budget.weights_bytes, one.budget.inputs_bytes, one.budget.outputs_bytes]
        assert sum(picture["timeline"]["reserved"]) == sum(held) + one.phases["context"].allocated_peak_bytes


def test_the_peak_of_the_replay_is_the_peak_of_the_picture(eager: Report):
    for one in eager.cells:
        highest = max(replay(one.program).values(), key=lambda peaks: peaks.allocated_peak_bytes)
        assert lay_out(one, DEFAULT_RULES).peak_step == highest.peak_event_index


def test_buffers_on_the_map_never_overlap_and_lie_inside_regions(eager: Report, yolo: Report, session: Report):
    for one in (eager.cells[1], yolo.cells[5], session.cells[0]):
        layout = lay_out(one, DEFAULT_RULES)
        assert len(layout.places) == sum(buffer.size_bytes > 0 for buffer in one.program.buffers)
        for step in range(0, len(one.program.events), 37):
            _check_step(layout, step)


def _check_step(layout: Layout, step: int) -> None:
    held = sorted((each.address, each.address + each.size_bytes) for each in layout.places if each.start <= step < each.stop)
    assert all(before[1] <= after[0] for before, after in pairwise(held))
    assert not held or held[-1][1] <= layout.top


def test_a_recording_is_drawn_with_its_segments():
    one = replace(cell(), runtime="torch", program=RECORDING.program, peak=PeakMoment(op="add", index=3, live=()))
    layout = lay_out(one, DEFAULT_RULES, address_ranks=(1, 0))
    assert [(region.label, region.address, region.size_bytes) for region in layout.regions] == [
        ("segment 1", 0, 20 * MIB),
        ("segment 2", 20 * MIB, 2 * MIB),
    ]
    assert layout.reserved_bytes == (20 * MIB, *[22 * MIB] * 7)
    assert layout.peak_step == 6
    assert [place.address for place in layout.places][:2] == [0, 20 * MIB]


def test_a_runtime_that_is_not_known_has_a_timeline_and_no_map():
    one = replace(cell(), runtime="other", program=RECORDING.program)
    content = estimate_page_content(report(one))
    assert content["pictures"][0]["map"] is None
    assert content["pictures"][0]["timeline"]["reserved"] is None
    html.estimate_page(report(one))


def test_long_programs_are_sampled_and_keep_their_peak():
    held = [index % 1000 for index in range(100_000)]
    held[77_777] = 5000
    kept = kept_steps(held, peak_step=33_333)
    assert len(kept) <= 20_000
    assert {0, 33_333, 77_777, 99_999} <= set(kept)
    assert kept == sorted(set(kept))
    assert kept_steps([1, 2, 1], 1) == [0, 1, 2]


def _alternating(count: int) -> MemoryProgram:
    buffers = tuple(Buffer(name=f"b{index}", role=Role.ACTIVATION, size_bytes=index + 1) for index in range(count))
    events = [Event(action, index, 1) for index in range(count) for action in (Action.HOLD, Action.FREE)]
    return MemoryProgram(buffers=buffers, events=tuple(events), ops=("load", "a"), phases=(Phase("run", 0, 2 * count),))


def test_the_page_of_a_very_long_program_is_bounded():
    program = _alternating(40_000)
    one = replace(cell(), runtime="torch", program=program, peak=PeakMoment(op="a", index=1, live=()))
    (picture,) = estimate_page_content(report(one))["pictures"]
    assert len(picture["timeline"]["step"]) <= 20_000
    assert len(picture["map"]["buffer"]) == 20_000
    assert picture["map"]["left_out"] == 20_000
    assert max(accumulate(picture["timeline"]["roles"]["activation"])) == 40_000
    assert len(html.estimate_page(report(one))) < 3_000_000


def test_of_many_long_cells_only_the_first_have_pictures_and_always_the_one_in_focus():
    program = _alternating(20_000)
    cells = [replace(cell(weights=size), runtime="torch", program=program) for size in (1, 2, 3)]
    found = estimate_page_content(report(*cells))
    assert found["focus"] == 2
    assert [picture is None for picture in found["pictures"]] == [True, True, False]


def test_the_steps_of_a_timeline_are_differences():
    line = timeline(RECORDING.program, None, 0)
    assert list(accumulate(line["step"])) == list(range(8))
    assert list(accumulate(line["roles"]["activation"])) == [0, 1000, 1000, 1000, 1000, 0, 0, 0]
    assert line["event"] == [1, 2, 3, -3, 4, -2, 5, -4]


def remedy(found: Report, focus: int = 0) -> dict[str, str] | None:
    best: dict[str, str] | None = remedy_content(found, focus)["remedy"]
    return best


def test_the_best_remedy_is_the_row_or_the_change_that_leads_to_the_least(yolo: Report):
    content = estimate_page_content(yolo)
    largest = yolo.cells[content["focus"]]
    assert largest.total_bytes == max(one.total_bytes for one in yolo.cells)
    least = min(one.total_bytes for one in yolo.cells if one.batch == largest.batch)
    assert content["remedy"]["flags"] == "--precision int8"
    assert content["remedy"]["text"].startswith(format_bytes(least))


def tried(*totals: tuple[str, int], limit_bytes: int | None = None) -> Report:
    tries = tuple(Try(flags=flags, total_bytes=size, text=f"{flags}: {format_bytes(size)}") for flags, size in totals)
    fits, headroom = (None, None) if limit_bytes is None else (False, limit_bytes - GIB)
    verdict = Verdict(fits=fits, limit_bytes=limit_bytes, limit_name="", headroom_bytes=headroom, sentence="", tries=tries)
    return Report(cells=(cell(weights=GIB),), verdict=verdict)


def test_a_smaller_input_is_the_last_resort():
    assert remedy(tried(("--dim height=320", 300 * MIB), ("--memory-format channels_last", 900 * MIB))) == {
        "flags": "--memory-format channels_last",
        "what": "",
        "text": "900.0 MiB, solved again with it.",
    }
    assert remedy(tried(("--dim height=320", 300 * MIB)))


def test_what_fits_comes_before_what_does_not():
    both = (("--dim height=320", 300 * MIB), ("--memory-format channels_last", 900 * MIB))
    best = remedy(tried(*both, limit_bytes=512 * MIB))
    assert best
    assert best["flags"] == "--dim height=320"


def test_a_larger_batch_is_no_remedy():
    assert remedy_content(tried(("-b 64", 2 * GIB)), 0) == {"remedy": None, "others": [{"flags": "-b 64", "text": "2.00 GiB"}]}


def test_of_equals_the_row_of_the_page_is_the_remedy():
    """A precision that saves no more than one percent beyond a row that is there already is not worth more doubt."""
    wide, narrow = cell(weights=GIB), replace(cell(weights=700 * MIB), precision="fp16")
    attempt = Try(flags="--precision int8 -b 1", total_bytes=699 * MIB, text="--precision int8 -b 1: 699.0 MiB")
    verdict = replace(tried().verdict, tries=(attempt,))
    best = remedy(Report(cells=(wide, narrow), verdict=verdict))
    assert best is not None
    assert best["flags"] == "--precision fp16"


def test_the_printed_parts_of_a_cell_add_up(yolo: Report):
    for one in estimate_page_content(yolo)["cells"]:
        assert round(sum(map(float, one["parts"].values())), 3) == float(one["total"])


def test_an_estimate_without_a_program_has_a_page():
    assert vp.__version__
    content = Page(html.estimate_page(report(cell(weights=MIB)))).content
    assert content["pictures"][0]["steps"] == 0


def _luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_in_both_themes(theme: int):
    """WCAG AA: 4.5 for text, 3 for bars and lines against what they lie on."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root[^{]*\{([^}]*)\}", style)]
    colours = themes[theme]
    for text in ("text", "muted", "accent", "good", "bad", "doubt", "peak"):
        for ground in ("page", "card", "shade"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for bar in ("weight", "input", "activation", "output", "workspace", "context"):
        assert _contrast(colours[bar], colours["card"]) >= 3, bar
        assert _contrast(colours["on-role"], colours[bar]) >= 4.5, bar
