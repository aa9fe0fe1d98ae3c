"""The web page in a real Chromium: what a person sees, hovers and zooms. Needs the playwright package and a Chromium.

pip install playwright && apt-get install chromium
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vramplan as vp
from tests.cli.cells import cell
from tests.measured import measurement
from tests.recordings import RECORDING
from vramplan.gpus import find_gpu
from vramplan.replaying import replay
from vramplan.report.content import Report
from vramplan.report.html import estimate_page, streams_page, verification_page
from vramplan.result import LiveBuffer, PeakMoment
from vramplan.sweep import sweep
from vramplan.units import GIB, MIB, format_bytes
from vramplan.verdict import judge
from vramplan.verification import compare

pytestmark = pytest.mark.browser

RECORDED_RUN = Path(__file__).parents[1] / "traces" / "data" / "yolov8s_fp16_contiguous_b8.json.gz"
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\x1b\u202e\u2028"


@pytest.fixture(scope="module")
def report() -> Report:
    card = find_gpu("3090")
    cells = sweep("yolov8s", batches=[1, 8], precisions=["fp32", "fp16"], gpu=card)
    return Report(cells=cells.cells, verdict=judge(cells.cells, gpu=card, resolve=cells.resolve))


def _open(chromium: Any, path: Path, text: str, **context: Any) -> tuple[Any, list[str]]:
    """The page, and what goes wrong in it: errors, warnings, requests beyond the file itself."""
    path.write_text(text, encoding="utf-8")
    page = chromium.new_page(**{"viewport": {"width": 1440, "height": 1000}, **context})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("#timeline canvas, #limits tbody tr")
    return page, problems


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_renders_without_a_complaint_and_no_wider_than_the_window(
    chromium: Any, tmp_path: Path, report: Report, width: int, theme: str
):
    viewport = {"width": width, "height": 900}
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report), viewport=viewport, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.locator(".uplot").count() == 2
    assert problems == []


def test_the_first_screen_says_verdict_peak_cause_and_remedy(chromium: Any, tmp_path: Path, report: Report):
    page, _ = _open(chromium, tmp_path / "page.html", estimate_page(report))
    assert page.locator("#sentence").inner_text() == report.verdict.sentence
    largest = max(report.cells, key=lambda each: each.total_bytes)
    assert page.locator("#peak-total").inner_text() == format_bytes(largest.total_bytes)
    assert largest.peak.op in page.locator(".is-peak").inner_text()
    assert page.locator(".is-remedy .big").inner_text() == "--precision int8 -b 8"
    assert page.locator(".cards").bounding_box()["y"] < 400


def test_the_numbers_of_the_page_are_those_of_the_report(chromium: Any, tmp_path: Path, report: Report):
    page, _ = _open(chromium, tmp_path / "page.html", estimate_page(report))
    shown = page.locator("#budget details tbody tr td:last-child").all_text_contents()
    assert [int(text.replace(",", "")) for text in shown] == [each.total_bytes for each in report.cells]


def test_a_click_on_a_cell_shows_its_pictures(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report))
    page.get_by_role("button", name="fp16 at batch 1").click()
    assert page.locator("#h-timeline").inner_text() == "Memory over time · fp16 at batch 1"
    small = next(each for each in report.cells if (each.precision, each.batch) == ("fp16", 1))
    assert page.locator("#peak-total").inner_text() == format_bytes(small.total_bytes)
    assert page.locator(".uplot").count() == 2
    assert problems == []


def test_hovering_names_the_op_and_its_bytes(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report))
    for place in range(2):
        over = page.locator(".u-over").nth(place)
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.97 * box["height"])
        page.wait_for_selector(".tip", state="visible")
        assert "MiB" in page.locator(".tip").inner_text()
    assert problems == []


def test_drag_wheel_and_keys_zoom_both_charts(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report))
    over, readout = page.locator(".u-over").first, page.locator("#readout")
    over.scroll_into_view_if_needed()
    page.locator("#timeline .chart").first.focus()
    page.keyboard.press("p")
    assert "the peak" in readout.inner_text()
    before = readout.inner_text()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text() != before
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text() == before
    page.get_by_role("button", name="Show the whole run").click()
    box = over.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 45, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    zoomed = readout.inner_text()
    assert 120 < int(zoomed.split()[1]) < 260
    assert problems == []


def test_what_lies_inside_a_planned_block_is_read_on_the_map(chromium: Any, tmp_path: Path):
    cells = sweep("yolov8s", batches=[8], precisions=["fp32"], runtimes=["onnxruntime"], gpu=find_gpu("3090"))
    found = Report(cells=cells.cells, verdict=judge(cells.cells, gpu=find_gpu("3090"), resolve=cells.resolve))
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(found))
    page.locator("#timeline .chart").nth(1).focus()
    page.keyboard.press("p")
    seen = []
    for _ in range(300):
        page.keyboard.press("ArrowUp")
        seen.append(page.locator("#readout").inner_text().splitlines()[0])
    assert "memory pattern" in seen
    inside = {item.name for item in found.cells[0].peak.live if item.role == "activation"}
    assert inside & set(seen)
    assert problems == []


def test_the_map_is_read_with_the_keyboard(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report))
    frame, readout, mark = page.locator("#timeline .chart").nth(1), page.locator("#readout"), page.locator(".mark")
    frame.focus()
    page.keyboard.press("p")
    seen = set()
    for _ in range(200):
        page.keyboard.press("ArrowUp")
        seen.add(readout.inner_text().splitlines()[0])
    largest = max(report.cells, key=lambda each: each.total_bytes)
    assert {item.name for item in largest.peak.live if item.role != "weight"} <= seen
    assert "asked for" in readout.inner_text()
    assert mark.is_visible()
    box, bounds = mark.bounding_box(), frame.bounding_box()
    assert bounds["x"] <= box["x"]
    assert box["x"] + box["width"] <= bounds["x"] + bounds["width"] + 2
    assert problems == []


def test_the_theme_toggles_and_the_tables_sort(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report), color_scheme="light")
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    first = page.locator("#alive tbody tr").first
    largest = first.inner_text()
    page.locator("#alive th button", has_text="size").click()
    assert page.locator("#alive th[aria-sort='ascending']").inner_text().startswith("size")
    assert first.inner_text() != largest
    assert problems == []


def test_a_runtime_without_a_map_has_the_timeline_alone(chromium: Any, tmp_path: Path):
    one = replace(cell(), runtime="other", program=RECORDING.program)
    verdict = judge((one,), budget_bytes=GIB, resolve=lambda base, change: base)
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(Report(cells=(one,), verdict=verdict)))
    assert page.locator(".uplot").count() == 1
    assert "null" not in page.locator("#timeline").inner_text()
    assert problems == []


def test_it_prints_in_light_colours(chromium: Any, tmp_path: Path, report: Report):
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report), color_scheme="dark")
    page.pdf(path=str(tmp_path / "page.pdf"), print_background=True)
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
    assert problems == []


def test_hostile_names_are_shown_and_do_nothing(chromium: Any, tmp_path: Path):
    live = (LiveBuffer(name=HOSTILE, role="activation", size_bytes=MIB, until=HOSTILE),)
    one = replace(cell(name=HOSTILE, notes=(HOSTILE,), weights=MIB), peak=PeakMoment(op=HOSTILE, index=0, live=live))
    verdict = judge((one,), budget_bytes=GIB, resolve=lambda base, change: base)
    text = estimate_page(Report(cells=(one,), verdict=verdict))
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    page = chromium.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#alive td")
    assert page.evaluate("window.hacked") is None
    shown = page.locator("#alive td").first.inner_text()
    assert shown.startswith("</script><script>")
    assert not {"\x1b", "\u202e"} & set(shown)
    assert page.locator("img").count() == 0


@pytest.fixture(scope="module")
def plan() -> vp.StreamsPlan:
    return vp.streams("yolov8s", gpu=["t4", "3090"], mix=["12x1080p30/h264", "4x4k25/hevc"])


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_of_streams_has_the_numbers_of_the_plan(
    chromium: Any, tmp_path: Path, plan: vp.StreamsPlan, width: int, theme: str
):
    viewport = {"width": width, "height": 900}
    page, problems = _open(chromium, tmp_path / "page.html", streams_page(plan), viewport=viewport, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "RTX 3090 carries" in page.locator("#sentence").inner_text()
    shown = page.locator("#limits tbody tr td:nth-child(3)").all_inner_texts()
    assert shown == [f"{limit.nominal:,}" for limit in plan.cards[1].ranked]
    assert page.locator("#limits .bar-track").count() == 4
    assert page.locator("#mix tbody tr").count() == 2
    assert problems == []


def test_bars_are_as_long_as_their_numbers(chromium: Any, tmp_path: Path, plan: vp.StreamsPlan):
    page, _ = _open(chromium, tmp_path / "page.html", streams_page(plan))
    bars = page.locator("#cards tbody .bar-box > span")
    first, second = (bars.nth(place).bounding_box()["width"] for place in range(2))
    assert first / second == pytest.approx(plan.cards[0].streams / plan.cards[1].streams, rel=0.01)


def test_a_card_is_chosen_with_the_keyboard(chromium: Any, tmp_path: Path, plan: vp.StreamsPlan):
    page, problems = _open(chromium, tmp_path / "page.html", streams_page(plan))
    assert page.locator("#streams").inner_text() == str(plan.cards[1].streams)
    page.get_by_role("button", name="Tesla T4").focus()
    page.keyboard.press("Enter")
    assert page.locator("#streams").inner_text() == str(plan.cards[0].streams)
    assert page.locator("#h-limits").inner_text() == "Four limits · Tesla T4"
    assert page.locator("#limits tr.binds th").inner_text().startswith("compute")
    assert problems == []


def test_a_page_can_be_drawn_again_with_other_numbers(chromium: Any, tmp_path: Path, report: Report):
    """What a live page does: the same scripts, another answer."""
    page, problems = _open(chromium, tmp_path / "page.html", estimate_page(report))
    page.evaluate("""() => {
        const content = JSON.parse(document.getElementById("content").textContent);
        page.render({ ...content, sentence: "Other numbers.", focus: 0 });
    }""")
    assert page.locator("#sentence").inner_text() == "Other numbers."
    assert page.locator(".uplot").count() == 2
    assert page.locator("#h-timeline").inner_text() == "Memory over time · fp32 at batch 1"
    assert problems == []


@pytest.fixture(scope="module")
def verification() -> Any:
    pytest.importorskip("torch")
    expected = vp.estimate("yolov8s", batch=8, precision="fp16", runtime="torch", gpu="h200")
    return compare(expected, measurement(model="yolov8s", batch=8), replay(RECORDED_RUN), tolerance=0.05)


@pytest.mark.parametrize("width", [1440, 390])
def test_a_verification_lays_the_measured_over_the_predicted(chromium: Any, tmp_path: Path, verification: Any, width: int):
    viewport = {"width": width, "height": 900}
    page, problems = _open(chromium, tmp_path / "page.html", verification_page(verification), viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".uplot").count() == 4
    shown = page.locator("#parts tbody tr:not(.group) td:nth-child(4)").all_inner_texts()
    total, *parts = [*verification.rows[-1:], *verification.rows[:-1]]
    assert shown[:8] == [format_bytes(row.measured_bytes) for row in (total, *parts)]
    assert page.locator(".pair .predicted").count() == page.locator(".pair .measured").count() == 12
    assert problems == []


def test_the_overlay_is_read_zoomed_and_stepped(chromium: Any, tmp_path: Path, verification: Any):
    page, problems = _open(chromium, tmp_path / "page.html", verification_page(verification))
    readout, over = page.locator("#overlay-readout"), page.locator("#overlay .u-over").first
    assert "the largest residual" in readout.inner_text()
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 40)
    assert readout.inner_text().startswith("steady")
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 45, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    assert readout.inner_text().startswith("steady")
    page.locator("#overlay .chart").focus()
    page.keyboard.press("0")
    page.keyboard.press("p")
    assert "the largest residual" in readout.inner_text()
    page.keyboard.press("ArrowRight")
    assert "the largest residual" not in readout.inner_text()
    assert problems == []
