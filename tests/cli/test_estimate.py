"""`vramplan estimate`: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = "mobilenet_v2"


def test_the_table_is_all_there_is_on_stdout(vramplan: Callable):
    outcome = vramplan("estimate", MODEL)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith(("fp", "int"))] == ["fp32", "fp16", "int8"]


def test_json_is_one_object_with_the_bytes_of_the_table(vramplan: Callable):
    outcome = vramplan("estimate", MODEL, "-b", "1,8", "--precision", "fp16", "--json")
    content = json.loads(outcome.out)
    assert [row["batch"] for row in content["rows"]] == [1, 8]
    assert all(sum(row["budget"].values()) == row["total_bytes"] for row in content["rows"])
    assert outcome.err == ""


def test_csv_goes_to_stdout_and_the_sentence_to_stderr(vramplan: Callable):
    outcome = vramplan("estimate", MODEL, "--csv", "--precision", "fp32")
    assert len(list(csv.DictReader(io.StringIO(outcome.out)))) == 1
    assert outcome.err.startswith("Takes ")


@pytest.mark.parametrize(("budget", "exit_code", "word"), [("8GiB", 0, "Fits"), ("1MiB", 1, "Does not fit")])
def test_over_budget_is_an_answer_and_exit_1(vramplan: Callable, budget: str, exit_code: int, word: str):
    outcome = vramplan("estimate", MODEL, "--precision", "fp16", "--budget", budget, "--gpu", "h200")
    assert outcome.exit_code == exit_code
    assert any(line.startswith(word) for line in outcome.out.splitlines())
    assert outcome.err == ""


def test_a_card_that_is_too_small_is_exit_1(vramplan: Callable):
    assert vramplan("estimate", MODEL, "--precision", "fp16", "--vram", "100MiB").exit_code == 1


def test_what_is_tried_is_what_the_flags_lead_to(vramplan: Callable):
    words = ["estimate", MODEL, "-b", "8", "--precision", "fp32", "--json"]
    for attempt in json.loads(vramplan(*words).out)["verdict"]["try"]:
        changed = {"--precision": 4, "-b": 2}
        again = [*words[:6], *attempt["flags"].split(), "--json"]
        first = again[6]
        if first in changed:
            del again[changed[first] : changed[first] + 2]
        assert json.loads(vramplan(*again).out)["rows"][0]["total_bytes"] == attempt["total_bytes"]


def test_peak_and_layers_are_sections(vramplan: Callable):
    out = vramplan("estimate", MODEL, "--precision", "fp16", "--peak", "--layers", "--top", "3").out
    assert "\nPeak of fp16 at batch 1: while " in out
    assert "\nLayers of fp16 at batch 1, sizes in MiB\n" in out
    assert "overhead" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["estimate"], "no model is named"),
        (["estimate", MODEL, "-b", "0"], "-b: '0' is not a whole number"),
        (["estimate", MODEL, "-b", "x"], "-b: 'x' is not a whole number"),
        (["estimate", MODEL, "-b", "1,1"], "-b: '1' is there twice"),
        (["estimate", MODEL, "-b", "1,01"], "-b: '1' is there twice"),
        (["estimate", MODEL, "-b", "1,"], "-b: an item of the list is empty"),
        (["estimate", MODEL, "-b", ""], "-b: an item of the list is empty"),
        (["estimate", MODEL, "--precision", "fp16,half"], "--precision: 'fp16' is there twice"),
        (["estimate", MODEL, "--precision", "fp17"], "unknown precision 'fp17'"),
        (["estimate", MODEL, "--runtime", "tensort"], "unknown runtime 'tensort'"),
        (["estimate", MODEL, "--top", "-1"], "--top: -1 is not a whole number from 1"),
        (["estimate", MODEL, "--top", "3"], "--top needs --peak or --layers"),
        (["estimate", MODEL, "--top", "x", "--peak"], "--top"),
        (["estimate", MODEL, "--json", "--markdown"], "--json and --markdown exclude each other"),
        (["estimate", MODEL, "--csv", "--peak", "--layers"], "--csv has one table"),
        (["estimate", MODEL, "--gpu", "3090", "--vram", "1GiB"], "--gpu and --vram exclude each other"),
        (["estimate", MODEL, "--gpu", "voodoo2"], "unknown GPU 'voodoo2'"),
        (["estimate", MODEL, "--budget", "lots"], "--budget: cannot read 'lots'"),
        (["estimate", MODEL, "--budget", "0"], "--budget: '0' is no memory at all"),
        (["estimate", MODEL, "--shape", "1x3x4x4"], "--shape: '1x3x4x4' has no input name"),
        (["estimate", MODEL, "--shape", "a:1x3x-4x4"], "--shape a: '-4' is not a whole number"),
        (["estimate", MODEL, "--dim", "height"], "--dim: 'height' is not NAME=SIZE"),
        (["estimate", MODEL, "--dim", "h=1", "--dim", "h=2"], "--dim: 'h' is there twice"),
        (["estimate", MODEL, "--nope"], "--nope"),
        (["estimate", MODEL, "extra"], "extra"),
        (["nope"], "nope"),
    ],
)
def test_usage_errors_are_one_message_and_exit_2(vramplan: Callable, words: list[str], message: str):
    outcome = vramplan(*words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    first, *rest = outcome.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert all(line.startswith("hint: ") for line in rest)
    assert rest


def test_a_missing_model_is_exit_3(vramplan: Callable):
    outcome = vramplan("estimate", "yolov9z")
    assert (outcome.exit_code, outcome.out) == (3, "")
    assert "hint: " in outcome.err


def test_no_model_suggests_one_that_works(vramplan: Callable):
    assert "vramplan estimate yolov8s" in vramplan("estimate").err


@pytest.mark.parametrize(
    ("name", "start"), [("r.json", "{"), ("r.csv", "model,runtime"), ("r.md", "**mobilenet"), ("r.txt", "mobilenet")]
)
def test_the_ending_of_the_file_chooses_the_format(vramplan: Callable, tmp_path: Path, name: str, start: str):
    outcome = vramplan("estimate", MODEL, "--precision", "fp16", "-o", str(tmp_path / name))
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert outcome.err.splitlines()[0] == f"wrote {tmp_path / name}"
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_a_flag_wins_over_the_ending(vramplan: Callable, tmp_path: Path):
    vramplan("estimate", MODEL, "--json", "-o", str(tmp_path / "r.txt"))
    assert json.loads((tmp_path / "r.txt").read_text())["schema_version"] == 1


def test_a_file_is_refused_before_the_model_is_read(vramplan: Callable, tmp_path: Path):
    (tmp_path / "r.json").write_text("precious")
    outcome = vramplan("estimate", "there-is-no-such-model", "-o", str(tmp_path / "r.json"))
    assert outcome.exit_code == 2
    assert "Add --force to replace it." in outcome.err
    assert (tmp_path / "r.json").read_text() == "precious"
    assert vramplan("estimate", MODEL, "-o", str(tmp_path / "r.json"), "--force").exit_code == 0


def test_a_failed_run_leaves_no_file(vramplan: Callable, tmp_path: Path):
    vramplan("estimate", "there-is-no-such-model", "-o", str(tmp_path / "r.json"))
    assert list(tmp_path.iterdir()) == []


def test_the_width_of_the_terminal_is_respected(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = vramplan("estimate", MODEL, "-b", "1,2,4").out
    assert max(map(len, out.splitlines())) <= 60
