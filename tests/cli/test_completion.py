"""What Tab offers: the functions, and a real bash that sources the script."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vramplan.cli import completion
from vramplan.gpus import all_gpus, find_gpu

BASH = shutil.which("bash")
PROGRAM = Path(sys.executable).with_name("vramplan")


@pytest.mark.parametrize(
    ("offer", "typed", "offered"),
    [
        (completion.models, "yolov8", ["yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"]),
        (completion.cards, "rtx3090", ["rtx3090", "rtx3090ti"]),
        (completion.cards, "3090", ["3090", "3090ti"]),
        (completion.cards, "t4,au", ["t4,auto"]),
        (completion.precisions, "fp", ["fp32", "fp16", "fp8"]),
        (completion.precisions, "fp32,fp", ["fp32,fp16", "fp32,fp8"]),
        (completion.runtimes, "t", ["tensorrt", "torch"]),
        (completion.runtime_options, "arena", ["arena_extend_strategy="]),
        (completion.words("gpu", "cpu"), "", ["gpu", "cpu"]),
        (completion.cards, "no such card", []),
    ],
)
def test_what_is_offered(offer: completion.Offer, typed: str, offered: list[str]):
    assert [word for word in offer(typed) if not word.endswith(("-pose", "-seg", "-obb", "-cls"))] == offered


def test_every_card_that_is_offered_is_found():
    names = [name for name in completion.cards("") if name != "auto"]
    assert {find_gpu(name).key for name in names} == {gpu.key for gpu in all_gpus()}


def test_files_of_this_folder_are_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("yard.onnx", "yard.txt", "vramplan.lock.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert completion.models("ya") == ["yard.onnx"]
    assert completion.locks_and_models("vram") == ["vramplan.lock.json"]


def complete_in_bash(*words: str) -> list[str]:
    """The words that bash offers when Tab is pressed after the last of *words*."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        source <(_VRAMPLAN_COMPLETE=source_bash {PROGRAM})
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
        _vramplan_completion {PROGRAM}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = [str(BASH), "--norc", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(BASH is None or not PROGRAM.exists(), reason="needs bash, and vramplan as a program")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("vramplan", "str"), ["streams"]),
        (("vramplan", "estimate", "--precisi"), ["--precision"]),
        (("vramplan", "estimate", "resnet50"), ["resnet50"]),
        (("vramplan", "estimate", "resnet50", "--runtime", ""), ["onnxruntime", "tensorrt", "torch", "all"]),
        (("vramplan", "streams", "--gpu", "l40"), ["l40", "l40s"]),
    ],
)
def test_bash_completes(words: tuple[str, ...], offered: list[str]):
    assert complete_in_bash(*words) == offered


@pytest.mark.parametrize(("shell", "registers"), [("zsh", "compdef"), ("fish", "complete --command"), ("pwsh", "Register-")])
def test_other_shells_have_a_script(shell: str, registers: str):
    command = [sys.executable, "-m", "vramplan"]
    found = subprocess.run(command, env={"_VRAMPLAN_COMPLETE": f"source_{shell}"}, capture_output=True, text=True, check=False)
    assert registers in found.stdout
