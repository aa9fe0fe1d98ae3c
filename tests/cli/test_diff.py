"""`vramplan diff`: standard output, standard error and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = "mobilenet_v2"


def total(vramplan: Callable, *words: str) -> int:
    return json.loads(vramplan("estimate", *words, "--json").out)["rows"][0]["total_bytes"]


def test_two_precisions_of_a_model(vramplan: Callable):
    outcome = vramplan("diff", MODEL, "--precision", "fp32,fp16")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{MODEL}: tensorrt fp32 → {MODEL}: tensorrt fp16\n")
    assert outcome.out.rstrip().endswith(".")


def test_the_change_is_the_difference_of_two_estimates(vramplan: Callable):
    sizes = [total(vramplan, MODEL, "-b", size, "--precision", "fp16") for size in ("2", "8")]
    (pair,) = json.loads(vramplan("diff", MODEL, "-b", "2,8", "--precision", "fp16", "--json").out)["pairs"]
    assert pair["change_bytes"] == sizes[1] - sizes[0]
    assert sum(part["change_bytes"] for part in pair["parts"]) == pair["change_bytes"]


def test_the_largest_change_comes_first(vramplan: Callable):
    (pair,) = json.loads(vramplan("diff", "yolov8n", "yolov8s", "--json").out)["pairs"]
    for name in ("parts", "tensors", "layers"):
        sizes = [abs(each["change_bytes"]) for each in pair[name]]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes


def test_two_runtimes_of_a_model(vramplan: Callable):
    pytest.importorskip("torch")
    outcome = vramplan("diff", MODEL, "--runtime", "tensorrt,torch", "--precision", "fp16")
    assert outcome.exit_code == 0
    assert " → mobilenet_v2: torch fp16" in outcome.out


def test_a_model_and_itself_have_no_difference(vramplan: Callable):
    assert vramplan("diff", MODEL, MODEL).out == "No difference.\n"


def test_markdown_is_tables_and_a_sentence(vramplan: Callable):
    out = vramplan("diff", MODEL, "--precision", "fp32,fp16", "--markdown").out
    assert "\n| part" in out
    assert "\n| total" in out


def test_top_limits_the_rows(vramplan: Callable):
    out = vramplan("diff", "yolov8n", "yolov8s", "--top", "2").out
    assert sum(line.startswith("… ") for line in out.splitlines()) == 2


def test_a_file_is_written_by_its_ending(vramplan: Callable, tmp_path: Path):
    target = tmp_path / "d.json"
    outcome = vramplan("diff", MODEL, "--precision", "fp32,fp16", "-o", str(target))
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert len(json.loads(target.read_text())["pairs"]) == 1


def test_two_lock_files(vramplan: Callable, tmp_path: Path):
    old, new = str(tmp_path / "old.lock.json"), str(tmp_path / "new.lock.json")
    vramplan("lock", MODEL, "-b", "1,2", "-o", old)
    vramplan("lock", MODEL, "-b", "2,4", "-o", new)
    outcome = vramplan("diff", old, new)
    assert outcome.exit_code == 0
    assert f"only in the first: {MODEL}: tensorrt as-is at batch 1" in outcome.out
    assert f"only in the second: {MODEL}: tensorrt as-is at batch 4" in outcome.out
    assert "No difference." in outcome.out
    content = json.loads(Path(new).read_text())
    for cell in content["models"][0]["cells"]:
        cell["budget"]["context"]["high_bytes"] += 1 << 20
        cell["budget"]["weights"] = dict.fromkeys(("low_bytes", "nominal_bytes", "high_bytes"), 1 << 29) | {"evidence": "exact"}
        for name in ("low_bytes", "nominal_bytes", "high_bytes"):
            cell["total"][name] = sum(part[name] for part in cell["budget"].values())
    Path(new).write_text(json.dumps(content))
    assert any(line.startswith("weights") and "512.0 MiB" in line for line in vramplan("diff", old, new).out.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one model or two"),
        (["a", "b", "c"], "name one model or two"),
        ([MODEL], "two budgets are compared"),
        ([MODEL, "--precision", "fp32,fp16,int8"], "two budgets are compared"),
        ([MODEL, "resnet50", "--precision", "fp32,fp16"], "two budgets are compared"),
        (["a.lock.json", MODEL], "compared with another one"),
        (["a.lock.json", "b.lock.json", "-b", "1"], "flags do not hold for lock files"),
        (["a.lock.json", "b.lock.json"], "there is no lock file"),
        ([MODEL, "resnet50", "--top", "0"], "--top: 0"),
        ([MODEL, "resnet50", "-o", "x.csv"], "no CSV"),
        ([MODEL, "resnet50", "--json", "--markdown"], "exclude each other"),
    ],
)
def test_a_wrong_command_is_exit_2_and_says_why(vramplan: Callable, words: list[str], message: str):
    outcome = vramplan("diff", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_model_that_cannot_be_read_is_exit_3(vramplan: Callable):
    assert vramplan("diff", MODEL, "no_such_model.onnx").exit_code == 3
