"""The line under the table: how much memory is alive over the run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import vramplan as vp
from tests.cli.cells import cell
from vramplan.program import MemoryProgram
from vramplan.report.content import Report
from vramplan.report.sparkline import live_line, sparkline
from vramplan.report.streams_terminal import streams_text
from vramplan.report.terminal import estimate_text
from vramplan.units import format_bytes
from vramplan.verdict import judge


def test_each_character_is_the_highest_of_its_stretch():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 8, 1, 1], 2) == "█▂"
    assert sparkline([3], 40) == "█"
    assert sparkline([0, 0], 2) == sparkline([], 2) == ""


@pytest.fixture(scope="module")
def one() -> vp.Estimate:
    return vp.estimate("yolov8s", batch=8, precision="fp16", gpu="3090")


def text_of(*cells: vp.Estimate, width: int = 100, colour: bool = False) -> str:
    verdict = judge(cells, budget_bytes=1 << 33, resolve=lambda base, change: base)
    return estimate_text(Report(cells=cells, verdict=verdict), width=width, colour=colour)


@pytest.mark.parametrize("width", [100, 72, 60])
def test_it_is_one_line_of_the_width_with_the_peak_of_the_run(one: vp.Estimate, width: int):
    (line,) = [line for line in text_of(one, width=width).splitlines() if line.startswith("alive")]
    assert len(line) <= width
    assert line.count("█") >= 1
    run = list(one.program.live_bytes())[one.program.phases[0].stop :]
    assert f"peak {format_bytes(max(run))} in op" in line


def test_several_rows_and_narrow_terminals_have_none(one: vp.Estimate):
    assert "alive  " not in text_of(one, replace(one, batch=9))
    assert live_line(one, 40) is None


def test_what_has_no_program_has_none():
    empty = cell()
    assert empty.program == MemoryProgram(buffers=(), events=(), ops=empty.program.ops, phases=empty.program.phases)
    assert live_line(empty, 100) is None


def test_colour_is_for_terminals_alone(one: vp.Estimate):
    assert "\x1b" not in text_of(one)
    coloured = text_of(one, colour=True)
    assert "\x1b[33m" in coloured
    assert plain(coloured) == plain(text_of(one))


def test_the_bar_of_what_ends_first_is_red():
    plan = vp.streams("yolov8s", gpu="3090")
    coloured = streams_text(plan, colour=True)
    assert plain(coloured) == plain(streams_text(plan))
    first, *others = [line for line in coloured.splitlines() if "%" in line and "\x1b" in line][: len(plan.limits)]
    assert plain(first).startswith(plan.binding)
    assert re.search(r"\x1b\[31m *[█▏▎▍▌▋▊▉]", first)
    assert all(re.search(r"\x1b\[3[23]m *[█▏▎▍▌▋▊▉]", line) for line in others)


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines())
