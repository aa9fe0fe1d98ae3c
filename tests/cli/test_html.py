"""`--html`: the file, standard output, standard error and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recordings import RECORDING
from vramplan.sources.recording import write_recording

START = '<script type="application/json" id="content">'


def _content(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    start = text.index(START) + len(START)
    return json.loads(text[start : text.index("</script>", start)])


def test_the_page_comes_beside_the_table_and_has_the_numbers_of_the_json(vramplan: Callable, tmp_path: Path):
    page = tmp_path / "report.html"
    outcome = vramplan("estimate", "yolov8s", "-b", "8", "--gpu", "3090", "--html", str(page))
    assert outcome.exit_code == 0
    assert outcome.out.startswith("yolov8s · ")
    assert outcome.err == f"wrote {page}\n"
    printed = json.loads(vramplan("estimate", "yolov8s", "-b", "8", "--gpu", "3090", "--json").out)
    assert _content(page)["report"] == printed


def test_json_stays_alone_on_stdout(vramplan: Callable, tmp_path: Path):
    outcome = vramplan("estimate", "yolov8s", "--json", "--html", str(tmp_path / "report.html"))
    assert json.loads(outcome.out)["schema_version"] == 1


def test_what_does_not_fit_is_written_too_and_exits_with_1(vramplan: Callable, tmp_path: Path):
    page = tmp_path / "report.html"
    assert vramplan("estimate", "yolov8s", "-b", "8", "--budget", "400MiB", "--html", str(page)).exit_code == 1
    assert _content(page)["report"]["verdict"]["fits"] is False


def test_a_replay_has_the_counters(vramplan: Callable, tmp_path: Path):
    recording, page = tmp_path / "toy.json", tmp_path / "toy.html"
    write_recording(recording, RECORDING)
    outcome = vramplan("replay", str(recording), "--html", str(page))
    assert outcome.exit_code == 0
    content = _content(page)
    assert content["report"] == json.loads(vramplan("replay", str(recording), "--json").out)
    assert content["sections"][0]["sentence"] == "All 10 recorded counters are equal to the byte in the replay."
    assert len(content["pictures"][0]["timeline"]["step"]) == len(RECORDING.program.events)


@pytest.mark.parametrize("command", [("estimate", "yolov8s"), ("replay", "missing.json")])
def test_a_file_that_exists_is_kept_before_any_work(vramplan: Callable, tmp_path: Path, command: tuple[str, str]):
    page = tmp_path / "report.html"
    page.write_text("mine")
    outcome = vramplan(*command, "--html", str(page))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "--html" in outcome.err
    assert "--force" in outcome.err
    assert page.read_text() == "mine"


def test_force_replaces_it(vramplan: Callable, tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text("mine")
    assert vramplan("estimate", "yolov8s", "--html", str(page), "--force").exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_one_file_cannot_be_both(vramplan: Callable, tmp_path: Path):
    path = str(tmp_path / "report.html")
    outcome = vramplan("estimate", "yolov8s", "-o", path, "--html", path, "--force")
    assert outcome.exit_code == 2
    assert "--html and -o name the same file" in outcome.err


def test_a_folder_that_is_not_there(vramplan: Callable, tmp_path: Path):
    outcome = vramplan("estimate", "yolov8s", "--html", str(tmp_path / "no" / "report.html"))
    assert outcome.exit_code == 2
    assert "does not exist" in outcome.err
