"""What only a real process shows: start-up, pipes, terminals, signals, and errors nobody expected."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from vramplan.sweep import sweep

COMMAND = [sys.executable, "-m", "vramplan"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=plain | environment, check=False)


def test_help_is_on_stdout():
    outcome = run("--help")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "estimate" in outcome.stdout
    assert "gpus" in outcome.stdout


def test_version():
    assert run("--version").stdout.startswith("vramplan 0.")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["estimate", "--help"], ["estimate"], ["gpus", "orin"]])
def test_help_version_and_errors_import_nothing_heavy(words: list[str]):
    code = (
        "import sys; from vramplan.__main__ import main; main(sys.argv[1:])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'numpy', 'rich'}\n"
        "print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    outcome = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert outcome.stderr.splitlines()[-1] == ""


def test_a_table_in_a_pipe_needs_no_pandas_torch_or_rich():
    code = (
        "import sys; from vramplan.__main__ import main; main(['estimate', 'mobilenet_v2'])\n"
        "print(*sorted({'torch', 'pandas', 'onnxruntime', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stderr.strip() == ""


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    outcome = subprocess.run([*COMMAND, "gpus"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (outcome.returncode, outcome.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_disk_behind_stdout_is_an_error():
    with open("/dev/full", "w") as full:
        outcome = subprocess.run([*COMMAND, "gpus"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert outcome.returncode == 4
    assert outcome.stderr.startswith("error: cannot write to standard output")


def test_a_terminal_that_knows_only_ascii_gets_question_marks():
    outcome = run("estimate", "mobilenet_v2", PYTHONIOENCODING="ascii")
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.parametrize(("settings", "is_coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)])
def test_colours_only_on_a_terminal_that_wants_them(settings: dict[str, str], is_coloured: bool):
    parent, child = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    outcome = subprocess.Popen([*COMMAND, "gpus", "t4"], stdout=child, env=plain | settings)
    os.close(child)
    text = b""
    while chunk := _read(parent):
        text += chunk
    assert outcome.wait() == 0
    os.close(parent)
    assert (b"\x1b[" in text) is is_coloured


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_ctrl_c_is_quiet(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[sweep.__module__], "sweep", interrupted)
    outcome = vramplan("estimate", "mobilenet_v2")
    assert (outcome.exit_code, outcome.out, outcome.err) == (130, "", "")


@pytest.mark.parametrize("with_traceback", [False, True])
def test_a_bug_is_one_message_and_exit_70(vramplan: Callable, monkeypatch: pytest.MonkeyPatch, with_traceback: bool):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of cheese\x1b[2J")

    monkeypatch.setattr(sys.modules[sweep.__module__], "sweep", broken)
    if with_traceback:
        monkeypatch.setenv("VRAMPLAN_TRACEBACK", "1")
    outcome = vramplan("estimate", "mobilenet_v2")
    assert (outcome.exit_code, outcome.out) == (70, "")
    assert "error: internal error: RuntimeError: out of cheese�[2J (please report it)" in outcome.err
    assert ("Traceback" in outcome.err) is with_traceback


def test_a_terminal_that_takes_only_ascii_gets_the_nearest_characters():
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [*COMMAND, "estimate", "yolov8s", "-b", "8", "--precision", "fp16"]
    out = subprocess.run(words, capture_output=True, env=plain, check=True)
    text = out.stdout.decode("ascii")
    assert "images 8x3x640x640" in text
    assert "-------" in text
    assert "alive  #" in text
    assert "?" not in text
