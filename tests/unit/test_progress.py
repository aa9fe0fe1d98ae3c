"""Progress is told to who listens, and shown on a terminal alone, when the work takes longer than a second."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time

import pytest

from vramplan.progress import Step, listening, tell, tell_detail
from vramplan.report import progress_bar as bar_module
from vramplan.report.progress_bar import progress_bar
from vramplan.sweep import sweep


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, *, patience_s: float = 0.0, term: str = "xterm") -> Terminal:
    """Standard error as a terminal, from now on: pytest puts its own back between a fixture and its test."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(bar_module, "PATIENCE_S", patience_s)
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def work_until(terminal: Terminal, text: str) -> None:
    """Work until *text* is shown, ten seconds at most: other programs may keep the machine busy."""
    for _ in range(200):
        if text in terminal.getvalue():
            return
        time.sleep(0.05)


def test_a_sweep_tells_its_cells():
    heard: list[Step] = []
    with listening(heard.append):
        sweep("yolov8s", batches=[1, 2], precisions=["fp32", "fp16"])
    counted = [(step.what, step.done, step.total) for step in heard if step.total]
    assert counted == [
        ("tensorrt, fp32, batch 1", 0, 4),
        ("tensorrt, fp32, batch 2", 1, 4),
        ("tensorrt, fp16, batch 1", 2, 4),
        ("tensorrt, fp16, batch 2", 3, 4),
    ]


def test_a_detail_is_of_the_part_that_was_told_last():
    heard: list[Step] = []
    with listening(heard.append):
        tell("one", done=0, total=2)
        tell_detail("half of it")
    assert heard[-1] == Step(what="one", done=0, total=2, detail="half of it")


def test_without_a_listener_nothing_happens():
    tell("one")
    tell_detail("half of it")


def test_work_that_takes_long_is_shown_and_wiped(monkeypatch: pytest.MonkeyPatch):
    terminal = on_terminal(monkeypatch)
    with progress_bar():
        tell("tensorrt, fp16\x1b[2J", done=3, total=12)
        work_until(terminal, "3 of 12")
    shown = terminal.getvalue()
    assert "tensorrt, fp16\ufffd[2J" in shown
    assert "3 of 12" in shown
    assert shown.endswith("\x1b[2K")
    assert "\x1b[2J" not in shown


def test_quick_work_shows_nothing(monkeypatch: pytest.MonkeyPatch):
    terminal = on_terminal(monkeypatch, patience_s=bar_module.PATIENCE_S)
    with progress_bar():
        tell("quick", done=0, total=1)
    assert terminal.getvalue() == ""


def test_a_dumb_terminal_and_a_file_show_nothing(monkeypatch: pytest.MonkeyPatch):
    terminal = on_terminal(monkeypatch, term="dumb")
    with progress_bar():
        tell("work")
        time.sleep(0.1)
    assert terminal.getvalue() == ""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar():
        tell("work")
        time.sleep(0.1)
    assert file.getvalue() == ""


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    with progress_bar():
        tell("work", done=1, total=2)
        work_until(terminal, "work")
    assert "work" in terminal.getvalue()
    assert not re.search(r"\x1b\[(3|4|9)\d", terminal.getvalue())


def test_an_error_wipes_it_too(monkeypatch: pytest.MonkeyPatch):
    terminal = on_terminal(monkeypatch)
    with contextlib.suppress(ZeroDivisionError), progress_bar():
        tell("work")
        work_until(terminal, "work")
        raise ZeroDivisionError
    assert terminal.getvalue().endswith("\x1b[2K")
