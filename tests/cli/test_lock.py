"""`vramplan lock` and `vramplan check`: standard output, standard error, exit code, files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = "mobilenet_v2"
LOCK = "vramplan.lock.json"
ONNX = Path(__file__).parents[2] / "models" / "onnx" / "mobilenet_v2.onnx"

FACTORY = """
from torch import nn, empty

def make():
    return nn.Linear(64, 64), (empty(4, 64),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shrink_lock(part: str, size_bytes: int, path: str = LOCK) -> None:
    """Make every locked budget smaller, so that the present one has grown."""
    content = json.loads(Path(path).read_text())
    for model in content["models"]:
        for cell in model["cells"]:
            for name in ("low_bytes", "nominal_bytes", "high_bytes"):
                cell["budget"][part][name] -= size_bytes
                cell["total"][name] -= size_bytes
    Path(path).write_text(json.dumps(content))


def one_line(text: str) -> str:
    """Without the breaks of long lines."""
    return " ".join(text.split())


def test_lock_writes_a_file_that_check_finds_to_hold(vramplan: Callable):
    locked = vramplan("lock", MODEL, "-b", "1,8", "--precision", "fp16", "--gpu", "3090")
    assert (locked.exit_code, locked.err) == (0, f"wrote {LOCK}\n")
    assert "Locked 2 budgets of 1 model." in locked.out
    checked = vramplan("check")
    assert (checked.exit_code, checked.err) == (0, "")
    assert checked.out.endswith("All 2 budgets hold.\n")


def test_the_lock_has_the_bytes_of_the_estimate(vramplan: Callable):
    words = [MODEL, "-b", "8", "--precision", "fp16", "--gpu", "t4"]
    vramplan("lock", *words)
    (row,) = json.loads(vramplan("estimate", *words, "--json").out)["rows"]
    (cell,) = json.loads(Path(LOCK).read_text())["models"][0]["cells"]
    assert {f"{name}_bytes": part["nominal_bytes"] for name, part in cell["budget"].items()} == row["budget"]
    assert cell["total"]["high_bytes"] == row["total_high_bytes"]


def test_locking_again_changes_nothing(vramplan: Callable):
    vramplan("lock", MODEL, "-b", "2")
    first = Path(LOCK).read_bytes()
    vramplan("lock")
    vramplan("lock", MODEL)
    assert Path(LOCK).read_bytes() == first


def test_a_named_model_is_replaced_and_others_stay(vramplan: Callable):
    vramplan("lock", MODEL, "resnet50")
    vramplan("lock", MODEL, "-b", "4")
    models = {model["model"]: model for model in json.loads(Path(LOCK).read_text())["models"]}
    assert set(models) == {MODEL, "resnet50"}
    assert [cell["batch"] for cell in models[MODEL]["cells"]] == [4]


def test_growth_is_exit_1_and_names_the_part(vramplan: Callable):
    vramplan("lock", MODEL, "-b", "8", "--precision", "fp16")
    shrink_lock("weights", 1 << 20)
    assert vramplan("check").exit_code == 0
    vramplan("lock", MODEL, "-b", "8", "--precision", "fp16", "--tolerance", "0%")
    shrink_lock("weights", 1 << 20)
    outcome = vramplan("check")
    assert outcome.exit_code == 1
    assert "1.0 MiB (+" in outcome.out
    assert "more than locked; 0 % are allowed." in one_line(outcome.out)
    assert any(line.startswith("weights") and "+1.0 MiB" in line for line in outcome.out.splitlines())


def test_the_cause_of_growth_is_the_tensor_that_grew(vramplan: Callable):
    vramplan("lock", MODEL, "-b", "8", "--tolerance", "0%")
    content = json.loads(Path(LOCK).read_text())
    cell = content["models"][0]["cells"][0]
    tensor = next(row for row in cell["tensors"] if row["role"] == "activation")
    tensor["size_bytes"] -= 1 << 20
    Path(LOCK).write_text(json.dumps(content))
    shrink_lock("activations", 1 << 20)
    (found,) = json.loads(vramplan("check", "--json").out)["findings"]
    assert found["outcome"] == "grew"
    assert found["comparison"]["change_bytes"] == 1 << 20
    assert [(each["name"], each["change_bytes"]) for each in found["comparison"]["parts"]] == [("activations", 1 << 20)]
    assert [(each["name"], each["change_bytes"]) for each in found["comparison"]["tensors"]] == [(tensor["name"], 1 << 20)]


def test_shrinking_is_a_note(vramplan: Callable):
    vramplan("lock", MODEL)
    shrink_lock("weights", -(1 << 20))
    outcome = vramplan("check")
    assert outcome.exit_code == 0
    assert "note: 1 budget shrank, by up to 1.0 MiB: `vramplan lock` keeps that" in outcome.out


def test_over_the_budget_is_locked_and_exit_1(vramplan: Callable):
    outcome = vramplan("lock", MODEL, "--budget", "1MiB")
    assert (outcome.exit_code, outcome.err) == (1, f"wrote {LOCK}\n")
    assert "Does not fit: " in outcome.out
    assert vramplan("check").exit_code == 1


def test_a_model_that_is_gone_is_exit_3_after_the_others(vramplan: Callable, folder: Path):
    shutil.copy(ONNX, folder / "a.onnx")
    vramplan("lock", "a.onnx", "--dim", "height=224", "--dim", "width=224")
    vramplan("lock", MODEL)
    (folder / "a.onnx").unlink()
    outcome = vramplan("check")
    assert (outcome.exit_code, outcome.err) == (3, "")
    assert "no file and no zoo model is called 'a.onnx'" in outcome.out
    assert any(line.startswith(MODEL) and line.endswith("holds") for line in outcome.out.splitlines())


def test_github_has_one_command_a_line_and_nothing_else(vramplan: Callable):
    vramplan("lock", MODEL, "resnet50", "--tolerance", "0")
    shrink_lock("weights", 1 << 20)
    outcome = vramplan("check", "--github")
    lines = outcome.out.splitlines()
    assert (outcome.exit_code, outcome.err, len(lines)) == (1, "", 2)
    assert all(line.startswith(f"::error file={LOCK},title=") for line in lines)
    assert "%0Aparts: weights +1.0 MiB" in lines[0]


def test_github_says_that_all_holds(vramplan: Callable):
    vramplan("lock", MODEL)
    assert vramplan("check", "--github").out == f"::notice file={LOCK},title=vramplan::The budget holds.\n"


def test_json_is_one_object(vramplan: Callable):
    vramplan("lock", MODEL)
    outcome = vramplan("check", "--json")
    content = json.loads(outcome.out)
    assert (content["schema_version"], content["holds"], outcome.err) == (1, True, "")


def test_a_file_that_is_no_lock_is_not_replaced_without_force(vramplan: Callable):
    Path("notes.json").write_text("{}")
    refused = vramplan("lock", MODEL, "-o", "notes.json")
    assert (refused.exit_code, refused.out, Path("notes.json").read_text()) == (2, "", "{}")
    assert "add --force" in refused.err
    assert vramplan("lock", MODEL, "-o", "notes.json", "--force").exit_code == 0
    assert vramplan("check", "--lock", "notes.json").exit_code == 0


def test_nothing_is_written_when_a_model_cannot_be_read(vramplan: Callable):
    assert vramplan("lock", MODEL, "no_such.onnx").exit_code == 3
    assert not Path(LOCK).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lock"], "no model is named"),
        (["lock", "--batch", "1"], "flags need a MODEL"),
        (["lock", MODEL, MODEL], "MODEL: 'mobilenet_v2' is there twice"),
        (["lock", MODEL, "--tolerance", "5"], "--tolerance: '5' is no share"),
        (["lock", MODEL, "--precision", "fp17"], "unknown precision"),
        (["lock", MODEL, "--gpu", "voodoo"], "unknown GPU"),
        (["lock", MODEL, "--memory-format", "channels_last"], "memory formats are PyTorch's"),
        (["lock", MODEL, "-o", "none/lock.json"], "does not exist"),
        (["lock", "detector.engine"], "built engine"),
        (["check"], "there is no lock file 'vramplan.lock.json'"),
        (["check", "--github", "--json"], "--github and --json exclude each other"),
    ],
)
def test_a_wrong_command_is_exit_2_and_says_why(vramplan: Callable, words: list[str], message: str):
    outcome = vramplan(*words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert message in outcome.err
    assert "hint: " in outcome.err


def test_a_damaged_lock_file_is_exit_3(vramplan: Callable):
    Path(LOCK).write_text('{"lock": "vramplan"}')
    outcome = vramplan("check")
    assert (outcome.exit_code, outcome.out) == (3, "")
    assert "has no key 'schema_version'" in outcome.err


# PyTorch


def test_python_code_is_run_only_when_somebody_names_it(vramplan: Callable, folder: Path):
    pytest.importorskip("torch")
    (folder / "m.py").write_text(FACTORY)
    assert vramplan("lock", "m.py:make", "--precision", "fp16").exit_code == 0
    unnamed = vramplan("check")
    assert unnamed.exit_code == 2
    assert "a lock file alone may not ask for that" in one_line(unnamed.out)
    assert vramplan("check", "m.py:make").exit_code == 0
    assert vramplan("lock").exit_code == 2
    Path("vramplan.toml").write_text('[[model]]\nmodel = "m.py:make"\nprecision = "fp16"\n')
    assert vramplan("check").exit_code == 0


def test_a_layer_that_grew_is_named(vramplan: Callable, folder: Path):
    pytest.importorskip("torch")
    (folder / "m.py").write_text(FACTORY)
    vramplan("lock", "m.py:make", "--tolerance", "0")
    (folder / "n.py").write_text(FACTORY.replace("64, 64)", "64, 4096)"))
    text = Path(LOCK).read_text().replace('"m.py:make"', '"n.py:make"')
    Path(LOCK).write_text(text)
    outcome = vramplan("check", "n.py:make")
    assert outcome.exit_code == 1
    assert any(line.startswith("weight ") and "weight" in line for line in outcome.out.splitlines())
    assert "note: n.py:make: the model's file is another one" in outcome.out


# vramplan.toml


def test_the_site_says_what_is_locked(vramplan: Callable):
    Path("vramplan.toml").write_text(
        f'[site]\ngpu = "3090"\n[[model]]\nmodel = "{MODEL}"\nbatch = [1, 4]\nprecision = "fp16"\ntolerance = "1%"\n'
    )
    assert vramplan("lock").exit_code == 0
    (model,) = json.loads(Path(LOCK).read_text())["models"]
    assert model["tolerance"] == "1%"
    assert [(cell["batch"], cell["gpu"]) for cell in model["cells"]] == [(1, "rtx3090"), (4, "rtx3090")]
    assert vramplan("check").exit_code == 0


def test_a_model_of_the_site_that_is_not_locked_is_exit_1(vramplan: Callable):
    vramplan("lock", MODEL)
    Path("vramplan.toml").write_text(f'[[model]]\nmodel = "{MODEL}"\nbatch = 4\n')
    outcome = vramplan("check")
    assert outcome.exit_code == 1
    assert "tensorrt as-is at batch 4 is not locked." in outcome.out
    assert "no longer in vramplan.toml: not checked" in one_line(outcome.out)


def test_what_the_site_dropped_leaves_the_lock(vramplan: Callable):
    vramplan("lock", MODEL, "resnet50")
    Path("vramplan.toml").write_text(f'[[model]]\nmodel = "{MODEL}"\n')
    vramplan("lock")
    assert [model["model"] for model in json.loads(Path(LOCK).read_text())["models"]] == [MODEL]
