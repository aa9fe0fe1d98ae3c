"""``vramplan serve`` as a process: its address, its warning, its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import tests.serve.conftest  # noqa: F401  skips where the extra is missing
from vramplan.__main__ import main
from vramplan.serve.server import listen


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vramplan", "serve", "--port", "0", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_it_prints_its_address_answers_and_ends_cleanly_on_ctrl_c(tmp_path: Path):
    process = start("--folder", str(tmp_path))
    assert process.stdout is not None
    url = process.stdout.readline().split()[2]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url + "api/model?model=yolov8n", timeout=60) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def test_ctrl_c_at_once_is_quiet_too(tmp_path: Path):
    process = start("--folder", str(tmp_path))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode in {0, 130}


def test_a_terminated_board_leaves_no_files_and_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("--folder", str(tmp_path))
    assert process.stdout is not None
    process.stdout.readline()
    assert list(tmp_path.glob("vramplan-serve-*"))
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("vramplan-serve-*"))


def test_another_host_is_warned_about(tmp_path: Path):
    process = start("--host", "0.0.0.0", "--folder", str(tmp_path))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors.startswith("warning: 0.0.0.0 can be reached from other machines")


def test_a_port_that_is_taken_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with listen("127.0.0.1", 0) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1]), "--folder", str(tmp_path)]) == 2
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--port", "99999"], ["--folder", "/nowhere/at/all"]])
def test_wrong_flags_are_usage_errors(flags: list[str]):
    assert main(["serve", *flags]) == 2


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("vramplan.cli.serve._NEEDED", ("starlette_that_is_not_there",))
    assert main(["serve"]) == 4
    assert "pip install 'vramplan[serve]'" in capsys.readouterr().err
