from __future__ import annotations

import re

import pytest

from tests.cli.cells import cell, layer
from vramplan.dtypes import DType
from vramplan.gpus import find_gpu
from vramplan.precision import Kept
from vramplan.report.content import Report
from vramplan.report.grid import Grid, stack
from vramplan.report.terminal import estimate_text
from vramplan.result import Estimate, LiveBuffer, Profile
from vramplan.units import GIB, MIB
from vramplan.verdict import Change, judge


def unchangeable(cell: Estimate, change: Change) -> Estimate:
    return cell


def text_of(
    *cells: Estimate, width: int = 100, budget_bytes: int | None = None, colour: bool = False, **sections: bool | int
) -> str:
    verdict = judge(cells, budget_bytes=budget_bytes, gpu=cells[0].gpu, resolve=unchangeable)
    return estimate_text(Report(cells=cells, verdict=verdict, **sections), width=width, colour=colour)  # type: ignore[arg-type]


def test_the_headline_names_model_inputs_and_card():
    headline = text_of(cell(gpu=find_gpu("3090"), weights=MIB)).splitlines()[0]
    assert headline == "toy · 11.16 M parameters · images 1×3×640×640 · tensorrt · RTX 3090, 23.56 GiB usable"


def test_axes_that_differ_among_cells_have_their_names():
    assert "images batch×3×640×640" in text_of(cell(batch=1), cell(batch=8))


def test_the_range_is_printed_only_where_there_is_one():
    assert "low–high" not in text_of(cell(weights=MIB))
    assert " 6.0 MiB  5.0–7.0" in text_of(cell(activations=5 * MIB, weights=MIB, doubt_bytes=MIB))


def test_rows_of_different_units_are_explained():
    text = text_of(cell(weights=MIB), cell(batch=8, weights=2 * GIB))
    assert "Totals of 1 GiB and more are in GiB, their parts too; the other rows are in MiB." in text


def test_marks_show_what_does_not_fit_and_what_might_not():
    text = text_of(
        cell(activations=100 * MIB, doubt_bytes=MIB),
        cell(batch=2, activations=200 * MIB, doubt_bytes=MIB),
        cell(batch=3, activations=300 * MIB, doubt_bytes=MIB),
        budget_bytes=200 * MIB,
    )
    endings = [line.rsplit(maxsplit=1)[-1] for line in text.splitlines() if line.startswith("fp32")]
    assert endings == ["99.0–101.0", "~", "✗"]
    assert "✗ does not fit · ~ fits, but the high end of its range does not" in text


def test_evidence_names_every_part():
    line = next(line for line in text_of(cell(activations=MIB, doubt_bytes=1)).splitlines() if line.startswith("exact"))
    assert line == "exact: weights, inputs, outputs, workspace, slack, context · bounded: activations"


def test_what_stays_wide_is_counted():
    kept = (Kept(op="Softmax", dtype=DType.FLOAT16, reason="no 8-bit kernel", tensor_count=3, size_bytes=5 * MIB),)
    assert "kept wider in int8 at batch 1: 3 tensors, 5.0 MiB: 3 of Softmax (no 8-bit kernel)" in text_of(
        cell("int8", kept=kept)
    )


def test_a_profile_says_what_idles():
    profile = Profile(max_shapes={"images": (8, 3, 640, 640)}, context_bytes=400 * MIB, needed_bytes=100 * MIB)
    text = " ".join(text_of(cell(profile=profile)).split())
    assert "the engine holds 400.0 MiB for images 8×3×640×640; these shapes need 100.0 MiB, 75 % idles" in text


def test_notes_and_unmodelled_ops_are_said_once():
    text = text_of(
        cell(notes=("If: the larger branch",), unmodelled=("Foo × 2",)), cell(batch=8, notes=("If: the larger branch",))
    )
    assert text.count("note: If: the larger branch") == 1
    assert "note: Foo × 2 of 9 ops are not modelled" in text


def test_the_peak_adds_up_with_its_weights_and_the_rest():
    live = tuple(LiveBuffer(name=f"t{index}", role="activation", size_bytes=MIB, until="Add_3") for index in range(5))
    weights = tuple(LiveBuffer(name=f"w{index}", role="weight", size_bytes=2 * MIB, until="") for index in range(3))
    lines = text_of(cell(live=(*weights, *live)), shows_peak=True, top=2).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Peak"))
    assert lines[start] == "Peak of fp32 at batch 1: while Conv_1 runs, step 1 of 1"
    assert [line.split() for line in lines[start + 3 : start + 8]] == [
        ["t0", "activation", "1.0", "Add_3"],
        ["t1", "activation", "1.0", "Add_3"],
        ["…", "3", "more", "3.0"],
        ["3", "weights", "weight", "6.0", "the", "end"],
        ["sum", "11.0", "MiB"],
    ]
    sentence = " ".join(" ".join(lines).split())
    assert "lower bound 100.0 MiB, achieved 130.0 MiB, overhead 30.0 %; all results without reuse: 400.0 MiB" in sentence


def test_layers_come_in_execution_order_and_largest_first_with_top():
    cells = cell(layers=(layer("small", MIB), layer("large", 3 * MIB), layer("middle", 2 * MIB)))
    names = re.compile(r"^(small|large|middle|… 1 more)", re.MULTILINE)
    assert names.findall(text_of(cells, shows_layers=True)) == ["small", "large", "middle"]
    assert names.findall(text_of(cells, shows_layers=True, top=2)) == ["large", "middle", "… 1 more"]


def test_layers_list_everything_that_stays_wide():
    kept = tuple(
        Kept(op=f"Op{index}", dtype=DType.FLOAT16, reason="no 8-bit kernel", tensor_count=1, size_bytes=MIB)
        for index in range(9)
    )
    text = text_of(cell("int8", kept=kept), shows_layers=True)
    assert all(f"\nOp{index} " in text for index in range(9))


@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 200])
def test_nothing_is_wider_than_the_terminal_and_no_number_is_cut(width: int):
    cells = [
        cell(batch=batch, activations=123_456_789 * batch, context=600 * MIB, doubt_bytes=99 * MIB) for batch in (1, 8, 64)
    ]
    text = text_of(*cells, width=width, budget_bytes=GIB, shows_layers=True, shows_peak=True)
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "7.945 GiB" in text


def test_no_escapes_without_colour_even_from_names():
    assert "\x1b" not in text_of(cell(name="evil\x1b[2J", notes=("a\x1b[31m",)), shows_peak=True)


def test_colour_changes_nothing_but_escapes():
    cells = (cell(weights=MIB), cell(batch=8, weights=GIB))
    coloured = text_of(*cells, budget_bytes=MIB, colour=True)
    stripped = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert "\x1b[" in coloured
    assert [line.rstrip() for line in stripped.splitlines()] == text_of(*cells, budget_bytes=MIB).splitlines()


def test_markup_in_a_name_is_text():
    assert text_of(cell(name="[bold]m[/bold]")).startswith("[bold]m[/bold] ·")


def test_a_grid_on_its_side_keeps_every_cell():
    grid = Grid(headers=("a", "b"), rows=(("1", "2"), ("3", "4"), ("5", "6")))
    first, second = stack(grid, width=8, gap=2)
    assert (first.headers, first.rows) == (("a", "1", "3"), (("b", "2", "4"),))
    assert (second.headers, second.rows) == (("a", "5"), (("b", "6"),))
