"""The what-if board in a real Chromium: sliders move, numbers follow, and they are those of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from onnx import TensorProto, helper

import vramplan as vp
from tests.serve.conftest import Asking, serving
from tests.serve.models import tiny_onnx
from vramplan.serve.app import Board, Settings

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    with serving(Board(Settings(folder=tmp_path_factory.mktemp("board")))) as asking:
        yield asking


def opened(chromium: Any, ask: Asking, query: str = "", **context: Any) -> tuple[Any, list[str]]:
    """The page once both answers and their advice are there, and what goes wrong in it."""
    page = chromium.new_page(**{"viewport": {"width": 1440, "height": 1000}, **context})
    problems: list[str] = []
    own = f"http://127.0.0.1:{ask.port}/"
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((own, "data:")) else problems.append(request.url))
    page.goto(own + query)
    settle(page)
    return page, problems


def until(page: Any, condition: str) -> None:
    """Wait until *condition* holds. The page's policy lets nothing be evaluated in it, so playwright's own waiting cannot."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never: {condition}")


def settle(page: Any) -> None:
    """Wait until nothing is on its way any more: two answers, two pieces of advice."""
    until(page, "document.querySelectorAll('.is-remedy').length === 2")
    until(page, "[...document.querySelectorAll('.is-remedy .big')].every((each) => each.textContent !== '…')")


def asked(page: Any) -> dict[str, str]:
    """What the address says."""
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).query).items()}


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_drawn_without_a_complaint_and_no_wider_than_the_window(chromium: Any, ask: Asking, width: int, theme: str):
    page, problems = opened(chromium, ask, viewport={"width": width, "height": 900}, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.locator(".uplot").count() == 2
    assert page.locator("#glance").is_visible() == (width == 390)
    assert problems == []


def test_a_slider_moves_and_the_numbers_are_those_of_the_api(chromium: Any, ask: Asking):
    page, problems = opened(chromium, ask, "?model=yolov8n&precision=fp16&batch=8&gpu=rtx3090")
    before = page.locator("#peak-total").inner_text()
    page.locator("#c-batch").focus()
    page.keyboard.press("ArrowRight")
    until(page, f"document.getElementById('peak-total').textContent !== {before!r}")
    assert asked(page)["batch"] == "12"
    (row,) = ask.get("/api/estimate", model="yolov8n", precision="fp16", batch=12, gpu="rtx3090").json["report"]["rows"]
    expected = vp.estimate("yolov8n", precision="fp16", runtime="tensorrt", batch=12, gpu="3090")
    shown = page.locator("#budget details tbody tr td:last-child").all_text_contents()
    assert [int(text.replace(",", "")) for text in shown] == [row["total_bytes"]] == [expected.total_bytes]
    assert "12×3×640×640" in page.locator("#top").inner_text()
    assert problems == []


def test_the_streams_follow_their_sliders(chromium: Any, ask: Asking):
    page, problems = opened(chromium, ask, "?model=yolov8n&precision=fp16&gpu=t4&video=1080p30&codec=h264")
    page.locator("#c-fps").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#c-codec").select_option("hevc")
    until(page, "document.getElementById('streams-sentence').textContent.includes('1080p25 hevc')")
    expected = vp.streams("yolov8n", precision="fp16", gpu="t4", video="1080p25", codec="hevc")
    assert page.locator("#streams").inner_text() == f"{expected.streams:,}"
    assert (
        page.locator("#limits tbody tr.binds td.number").first.inner_text() == f"{expected.limits[expected.binding].nominal:,}"
    )
    assert problems == []


def test_an_address_brings_every_choice_back(chromium: Any, ask: Asking):
    query = (
        "?model=yolov8n&runtime=onnxruntime&precision=fp32&batch=5&gpu=l4&dim=height%3D320&dim=width%3D320"
        "&video=4k15&codec=av1&require=7&infer_every=2&margin=10%25&frames=same"
    )
    page, problems = opened(chromium, ask, query)
    chosen = ("yolov8n", "onnxruntime", "fp32", "l4", "4k", "av1", "same")
    controls = ("model", "runtime", "precision", "gpu", "size", "codec", "frames")
    assert tuple(page.locator(f"#c-{key}").input_value() for key in controls) == chosen
    assert page.locator("#n-batch").input_value() == "5"
    assert "5×3×320×320" in page.locator("#top").inner_text()
    assert "7 streams" in page.locator("#streams-sentence").inner_text()
    again, _ = opened(chromium, ask, "?" + urlsplit(page.url).query)
    assert again.locator("#sentence").inner_text() == page.locator("#sentence").inner_text()
    assert problems == []


def test_a_card_that_is_not_listed_is_its_memory(chromium: Any, ask: Asking):
    page, problems = opened(chromium, ask, "?model=yolov8n&precision=fp32&batch=8")
    page.locator("#c-gpu").select_option("other")
    until(page, "document.getElementById('sentence').textContent.includes('24.00 GiB')")
    page.get_by_label("GiB that CUDA can allocate").fill("0.25")
    until(page, "document.getElementById('sentence').textContent.startsWith('Does not fit')")
    assert asked(page)["vram"] == "0.25GiB"
    again, _ = opened(chromium, ask, "?" + urlsplit(page.url).query)
    assert again.locator("#sentence").inner_text() == page.locator("#sentence").inner_text()
    page.locator("#c-gpu").select_option("t4")
    until(page, "document.getElementById('top').textContent.includes('T4')")
    assert "vram" not in asked(page)
    assert problems == []


def test_a_try_is_applied_by_a_click(chromium: Any, ask: Asking):
    page, problems = opened(chromium, ask, "?model=yolov8n&precision=fp32&batch=8&gpu=rtx3090")
    page.get_by_role("button", name="Apply --precision fp16").first.click()
    until(page, "document.querySelector('.budget').textContent.includes('fp16 at batch 8')")
    assert page.locator("#c-precision").input_value() == "fp16"
    assert problems == []


def test_the_view_stays_where_it_is_while_a_slider_moves(chromium: Any, ask: Asking):
    page, _ = opened(chromium, ask, "?model=yolov8n&batch=8")
    page.evaluate("window.scrollTo(0, 1500)")
    page.locator("#c-batch").focus()
    page.evaluate("window.scrollTo(0, 1500)")
    for _ in range(3):
        before = page.locator("#peak-total").inner_text()
        page.keyboard.press("ArrowRight")
        until(page, f"document.getElementById('peak-total').textContent !== {before!r}")
    settle(page)
    assert abs(page.evaluate("window.scrollY") - 1500) <= 60
    assert page.evaluate("document.activeElement.id") == "c-batch"


@pytest.mark.parametrize("width", [1440, 390])
def test_no_control_lies_on_another_and_every_part_is_on_its_own(chromium: Any, ask: Asking, width: int):
    page, _ = opened(chromium, ask, viewport={"width": width, "height": 900})
    boxes = page.evaluate("""
        [...document.querySelectorAll("#controls input:not([type=file]), #controls select, #controls .name, #controls label")]
          .map((each) => [each.id || each.textContent, each.getBoundingClientRect()])
          .map(([name, box]) => [name, box.left, box.top, box.right, box.bottom])
    """)
    labels = [box for box in boxes if not str(box[0]).startswith(("c-", "n-"))]
    fields = [box for box in boxes if str(box[0]).startswith("c-")]
    for name, left, top, right, bottom in fields:
        over = [
            each[0]
            for each in labels
            if each[1] < right - 1 and left + 1 < each[3] and each[2] < bottom - 1 and top + 1 < each[4]
        ]
        assert not over, (name, over)
    parts = page.evaluate("[...document.querySelectorAll('#main > *')].map((each) => each.id || each.className.split(' ')[0])")
    assert parts == [
        *("verdict", "verdict", "budget", "limits", "cards", "cards", "timeline", "alive", "workspace", "premises", "notes"),
    ]  # fmt: skip


def test_an_address_of_a_model_that_is_not_here_says_so_and_works_on(chromium: Any, ask: Asking):
    page, _ = opened(chromium, ask, "?model=gone.onnx&batch=4")
    assert "gone.onnx" in page.locator(".problem").inner_text()
    assert page.locator("#c-model").input_value() == "yolov8s"
    page.locator("#c-model").select_option("yolov8n")
    until(page, "!document.querySelector('.problem')")


def test_open_axes_without_a_name_are_asked_for(chromium: Any, ask: Asking):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None, None])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [given], [helper.make_tensor_value_info("y", 1, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (ask.board.shelf.folder / "unnamed.onnx").write_bytes(model.SerializeToString())
    page, problems = opened(chromium, ask, "?model=unnamed.onnx&batch=4")
    assert "4×3×640×640" in page.locator("#top").inner_text()
    page.get_by_label("shape of x").fill("1x3x320x320")
    page.get_by_label("shape of x").press("Enter")
    until(page, "document.getElementById('top').textContent.includes('4×3×320×320')")
    page.wait_for_load_state("networkidle")
    assert problems == []


def test_a_file_is_added_and_estimated(chromium: Any, ask: Asking, tmp_path: Path):
    (tmp_path / "mine.onnx").write_bytes(tiny_onnx())
    page, problems = opened(chromium, ask, "?model=yolov8n")
    page.locator(".file input").set_input_files(tmp_path / "mine.onnx")
    until(page, "document.querySelector('h1').textContent === 'mine'")
    assert page.locator("#c-model option:checked").inner_text() == "mine.onnx"
    assert "640×640" in page.locator("#top").inner_text()
    settle(page)
    assert problems == []


def test_a_file_that_is_no_model_is_refused_in_words(chromium: Any, ask: Asking, tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"\x80\x02 no model <script>window.hacked = 1</script>")
    page, _ = opened(chromium, ask, "?model=yolov8n")
    page.locator(".file input").set_input_files(tmp_path / "bad.onnx")
    page.wait_for_selector(".problem")
    assert "pickle" in page.locator(".problem").inner_text()
    page.locator("#c-batch").focus()
    page.keyboard.press("ArrowRight")
    until(page, "!document.querySelector('.problem')")
    assert page.evaluate("window.hacked") is None


def test_a_choice_that_makes_no_sense_is_said_and_the_old_answer_stands_back(chromium: Any, ask: Asking):
    page, _ = opened(chromium, ask, "?model=yolov8n&gpu=rtx3090&batch=16&frames=same")
    page.locator("#c-require").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".problem")
    assert "batch 16 is larger than the 1 streams" in page.locator(".problem").inner_text()
    assert page.locator(".verdict.of-streams").evaluate("(each) => each.classList.contains('is-stale')")


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(chromium: Any, ask: Asking):
    page, _ = opened(chromium, ask)
    unnamed = page.evaluate("""
        [...document.querySelectorAll("#controls input, #controls select, button")]
          .filter((each) => !(each.labels?.length || each.getAttribute("aria-label") || each.textContent.trim()))
          .map((each) => each.outerHTML)
    """)
    assert unnamed == []
    page.locator("#c-model").focus()
    seen = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"c-runtime", "c-precision", "c-batch", "n-batch", "c-gpu", "c-fps", "c-require", "c-margin", "c-frames"} <= seen
