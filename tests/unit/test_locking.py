"""Lock files as data: what is kept, what is compared, what a check says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.cells import cell, layer
from vramplan.budget import PARTS, Budget
from vramplan.comparing import Change, Checked, Finding, Listing, Outcome, Side, changes, compare, short_name
from vramplan.errors import ModelError, UsageError
from vramplan.lock_reading import read_lock
from vramplan.lockfile import CellKey, Lock, LockedCell, LockedModel, LockedRow, Wanted, lock_text
from vramplan.locking import check, diff_locks, lock_model, merged, plain, solve, versions, want
from vramplan.ranges import Range
from vramplan.report.lock_text import check_github, check_text
from vramplan.result import LiveBuffer
from vramplan.runtimes.plan import PhasePeak
from vramplan.units import MIB, parse_share
from vramplan.verdict import Limit

KEY = CellKey(runtime="tensorrt", precision="fp16", batch=8, memory_format=None, gpu="rtx3090")


def budget(**sizes_bytes: int) -> Budget:
    return Budget(**{part: Range.exact(sizes_bytes.get(part, 0)) for part in PARTS})


def locked_cell(key: CellKey = KEY, **sizes_bytes: int) -> LockedCell:
    return LockedCell(
        key=key,
        budget=budget(**(sizes_bytes or {"weights": 100 * MIB})),
        phases={
            "context": PhasePeak.of(MIB),
            "engine": PhasePeak(allocated_peak_bytes=1, reserved_peak_bytes=2, process_bytes=3),
        },
        peak_op="conv",
        tensor_count=3,
        tensors=(LockedRow(name="a", role="weight", size_bytes=9), LockedRow(name="b", role="activation", size_bytes=4)),
        layer_count=1,
        layers=(LockedRow(name="conv", role="convolution", size_bytes=13),),
    )


def locked_model(name: str = "yolov8s", *cells: LockedCell, tolerance_ratio: float = 0.05) -> LockedModel:
    cells = cells or (locked_cell(),)
    wanted = Wanted(
        model=name,
        keys=tuple(each.key for each in cells),
        shapes={"images": (8, 3, 640, 640)},
        dims={"height": 640},
        budget_bytes=2 << 30,
        tolerance_ratio=tolerance_ratio,
    )
    return LockedModel(wanted=wanted, format="onnx", sha256="0" * 64, parameters=7, versions={"vramplan": "0.1.0"}, cells=cells)


def test_what_is_written_is_read_again(tmp_path: Path):
    lock = Lock(models=(locked_model(),))
    (tmp_path / "l.json").write_text(lock_text(lock))
    assert read_lock(tmp_path / "l.json") == lock


def test_models_and_cells_have_an_order_of_their_own():
    eight, one = locked_cell(), locked_cell(replace(KEY, batch=1))
    first = Lock(models=(locked_model("b", eight, one), locked_model("a")))
    second = Lock(models=(locked_model("a"), locked_model("b", one, eight)))
    assert lock_text(first) == lock_text(second)


def test_one_fact_is_one_line_so_that_a_change_is_a_small_diff():
    before = lock_text(Lock(models=(locked_model(),))).splitlines()
    grown = locked_cell(weights=101 * MIB)
    after = lock_text(Lock(models=(locked_model("yolov8s", grown),))).splitlines()
    changed = [line for old, line in zip(before, after, strict=True) if old != line]
    assert [line.split(":")[0].strip() for line in changed] == ['"total"', '"weights"']


def test_the_file_is_ascii_and_json():
    name = "détecteur.onnx"
    text = lock_text(Lock(models=(locked_model(name),)))
    assert text.isascii()
    assert json.loads(text)["models"][0]["model"] == name


def test_no_model_is_there_twice():
    with pytest.raises(ValueError, match="there twice"):
        Lock(models=(locked_model(), locked_model()))


def test_no_cell_is_there_twice():
    with pytest.raises(ValueError, match="there twice"):
        Lock(models=(locked_model("a", locked_cell(), locked_cell()),))


def test_a_merge_replaces_named_models_and_keeps_the_others():
    old = Lock(models=(locked_model("a"), locked_model("b")))
    fresh = locked_model("b", locked_cell(weights=1))
    assert {model.wanted.model: model for model in merged(old, [fresh]).models} == {"a": old.models[0], "b": fresh}


@pytest.mark.parametrize(("text", "ratio"), [("5%", 0.05), ("0.05", 0.05), (" 0 % ", 0.0), ("0", 0.0)])
def test_a_tolerance_is_a_share(text: str, ratio: float):
    assert parse_share(text, what="tolerance") == ratio


@pytest.mark.parametrize("text", ["100%", "-1%", "nan", "inf", "5 MiB", ""])
def test_a_tolerance_is_nothing_else(text: str):
    with pytest.raises(UsageError, match="no share"):
        parse_share(text, what="tolerance")


# Comparing


def rows(**sizes_bytes: int) -> dict[tuple[str, str], int]:
    return {(name, "activation"): size for name, size in sizes_bytes.items()}


def test_the_largest_change_comes_first_whatever_its_sign():
    found = changes(Listing(sizes=rows(a=10, b=10, c=1)), Listing(sizes=rows(a=11, b=5, c=1)))
    assert [(change.name, change.change_bytes) for change in found] == [("b", -5), ("a", 1)]


def test_a_row_of_a_whole_list_that_is_gone_had_all_its_bytes():
    found = changes(Listing(sizes=rows(a=10)), Listing(sizes=rows(b=3)))
    assert [(each.name, each.before_bytes, each.after_bytes) for each in found] == [("a", 10, 0), ("b", 0, 3)]


def test_a_row_that_a_short_list_left_out_grew_by_no_less_than_what_lies_beyond_the_cut():
    (found,) = changes(Listing(sizes=rows(a=10), cut_bytes=10), Listing(sizes=rows(a=10, b=25)))
    assert (found.name, found.before_bytes, found.change_bytes, found.is_least) == ("b", None, 25 - 10, True)


def test_a_row_below_the_cut_is_no_change_that_anybody_knows_of():
    assert changes(Listing(sizes=rows(a=10), cut_bytes=10), Listing(sizes=rows(a=10, b=9))) == ()


def test_a_change_of_nothing_is_none():
    with pytest.raises(ValueError, match="no change"):
        Change(name="a", role="b", before_bytes=1, after_bytes=1, change_bytes=0)


def test_rows_of_one_name_and_role_are_one():
    assert Listing.of([("a", "weight", 1), ("a", "weight", 2), ("a", "activation", 4)]).sizes == {
        ("a", "weight"): 3,
        ("a", "activation"): 4,
    }


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "x" * 5000])
def test_names_are_printable_and_short(name: str):
    assert short_name(name).isprintable()
    assert len(short_name(name)) <= 200


def test_a_comparison_names_parts_tensors_and_layers():
    def estimate(size: int) -> Side:
        live = (LiveBuffer(name="t", role="activation", size_bytes=size, until=""),)
        return Side.of_estimate(cell("fp16", 8, live=live, layers=(layer("conv", size),), activations=size), "x")

    pair = compare(estimate(2 * MIB), estimate(5 * MIB))
    assert [(each.name, each.change_bytes) for each in (*pair.parts, *pair.tensors, *pair.layers)] == [
        ("activations", 3 * MIB),
        ("t", 3 * MIB),
        ("conv", 3 * MIB),
    ]
    assert (pair.change_bytes, pair.change_ratio) == (3 * MIB, 1.5)


# Findings


def finding(before: int, after: int, *, tolerance: float = 0.05, limit: int | None = None) -> Finding:
    sides = [replace(Side.of_locked(locked_cell(weights=size), "x")) for size in (before, after)]
    bound = None if limit is None else Limit(name="budget", size_bytes=limit, phrase=f"the budget of {limit} bytes")
    return Finding.of(compare(*sides), model="m", cell="fp16", tolerance_ratio=tolerance, limit=bound)


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (1000, 1000, Outcome.WITHIN),
        (1000, 1050, Outcome.WITHIN),
        (1000, 1051, Outcome.GREW),
        (1000, 999, Outcome.SHRANK),
        (0, 1, Outcome.GREW),
    ],
)
def test_growth_is_measured_against_the_tolerance(before: int, after: int, outcome: Outcome):
    assert finding(before, after).outcome is outcome


def test_what_does_not_fit_fails_even_when_it_did_not_grow():
    found = finding(1000, 1000, limit=999)
    assert (found.outcome, found.over_bytes, found.failed) == (Outcome.OVER, 1, True)


def test_a_total_that_is_its_limit_fits():
    assert finding(1000, 1000, limit=1000).outcome is Outcome.WITHIN


def test_a_model_that_cannot_be_read_decides_the_exit_code():
    unreadable = Finding(model="m", cell="", outcome=Outcome.UNREADABLE, error="gone", exit_code=3)
    assert Checked(path="l", findings=(finding(1, 2), unreadable)).exit_code == 3
    assert Checked(path="l", findings=(finding(1, 2),)).exit_code == 1
    assert Checked(path="l", findings=(finding(1, 1),)).exit_code == 0


def test_workflow_commands_escape_what_would_end_them():
    bad = Finding(model="a,b::c%\n::stop", cell="", outcome=Outcome.UNREADABLE, error="50 % gone\r\n::error::x", exit_code=3)
    (line,) = check_github(Checked(path="dir/l,1:2.json", findings=(bad,))).splitlines()
    assert line.startswith("::error file=dir/l%2C1%3A2.json,title=a%2Cb%3A%3Ac%25")
    assert "%25 gone" in line
    assert line.count("::error") == 1 + line.split("::", 3)[3].count("::error")


def test_a_report_has_no_control_characters_of_a_file():
    bad = Finding(model="\x1b[2Jm", cell="", outcome=Outcome.UNREADABLE, error="\x1b]0;x\x07", hint="\x1b[31m", exit_code=3)
    text = check_text(Checked(path="l", findings=(bad,), notes=("\x1b[0m",)))
    assert all(char.isprintable() or char == "\n" for char in text)


# Estimates


def test_a_model_is_locked_as_it_is_estimated():
    wanted = want(replace(plain("mobilenet_v2"), precisions=("fp16",), batches=(1, 8), gpu="3090"))
    model = lock_model(wanted)
    assert [each.key for each in model.cells] == [replace(KEY, batch=1), replace(KEY, batch=8)]
    estimates = dict(solve(wanted))
    for each in model.cells:
        assert each.budget == estimates[each.key].budget
        assert each.phases == estimates[each.key].phases
        assert len(each.tensors) + len(each.layers) <= 20
    assert "onnx" in model.versions
    assert "torch" not in model.versions


def test_any_choice_of_cells_is_solved_and_matched_with_its_key():
    base = want(replace(plain("mobilenet_v2"), precisions=("fp16",), batches=(4,)))
    (fp16,) = base.keys
    keys = (fp16, replace(fp16, precision="fp32", batch=1), replace(fp16, precision="fp32"), replace(fp16, gpu="t4"))
    for key, found in solve(replace(base, keys=keys)):
        assert (found.precision, found.batch) == (key.precision, key.batch)
        assert (found.gpu.key if found.gpu else None) == key.gpu
    assert {key for key, _ in solve(replace(base, keys=keys))} == set(keys)


def test_a_fresh_lock_holds_and_a_diff_of_it_with_itself_is_empty(tmp_path: Path):
    lock = Lock(models=(lock_model(want(plain("mobilenet_v2"))),))
    (tmp_path / "l.json").write_text(lock_text(lock))
    again = read_lock(tmp_path / "l.json")
    assert check(again).exit_code == 0
    (pair,) = diff_locks(lock, again).pairs
    assert (pair.parts, pair.tensors, pair.layers) == ((), (), ())


def test_a_lock_alone_does_not_open_what_pytorch_opens(tmp_path: Path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\ndef make(): ...\n")
    key = replace(KEY, runtime="torch", memory_format="contiguous", gpu=None)
    lock = Lock(models=(locked_model(f"{trap}:make", locked_cell(key)),))
    (found,) = check(lock).findings
    assert (found.outcome, found.exit_code) == (Outcome.UNREADABLE, 2)
    assert not (tmp_path / "sprung").exists()


def test_others_are_checked_when_one_model_is_gone():
    gone = replace(
        locked_model("no_such_model_here.onnx"), wanted=replace(locked_model().wanted, model="gone.onnx", shapes={}, dims={})
    )
    lock = Lock(models=(gone, lock_model(want(plain("mobilenet_v2")))))
    checked = check(lock)
    assert [each.outcome for each in checked.findings] == [Outcome.UNREADABLE, Outcome.WITHIN]
    assert checked.exit_code == 3


def test_what_the_site_wants_and_nobody_locked_is_told():
    wanted = want(replace(plain("mobilenet_v2"), batches=(1, 2)))
    lock = Lock(models=(lock_model(replace(wanted, keys=wanted.keys[:1])),))
    checked = check(lock, wanted=[wanted])
    assert [each.outcome for each in checked.findings] == [Outcome.WITHIN, Outcome.UNLOCKED]
    assert checked.exit_code == 1


def test_what_the_site_no_longer_wants_is_a_note():
    wanted = want(replace(plain("mobilenet_v2"), batches=(1, 2)))
    checked = check(Lock(models=(lock_model(wanted),)), wanted=[replace(wanted, keys=wanted.keys[:1])])
    assert (checked.exit_code, len(checked.findings), len(checked.notes)) == (0, 1, 1)


def test_the_budget_of_the_site_holds_not_that_of_the_lock():
    wanted = want(plain("mobilenet_v2"))
    lock = Lock(models=(lock_model(wanted),))
    assert check(lock, wanted=[replace(wanted, budget_bytes=1)]).findings[0].outcome is Outcome.OVER


def test_another_version_is_told_beside_a_change():
    model = lock_model(want(plain("mobilenet_v2")))
    (only,) = model.cells
    parts = {**only.budget.parts, "weights": Range.exact(1)}
    old = replace(model, versions={"vramplan": "0.0.1"}, cells=(replace(only, budget=Budget(**parts)),))
    notes = check(Lock(models=(old,))).findings[0].notes
    assert "vramplan: locked with 0.0.1, checked with 0.1.0" in notes
    assert any(note.startswith("onnx: locked without it") for note in notes)


def test_a_named_model_has_to_be_locked():
    with pytest.raises(UsageError, match="is not locked"):
        check(Lock(models=(locked_model(),)), named=["yolov8m"])


def test_a_built_engine_is_not_locked():
    with pytest.raises(UsageError, match="built engine"):
        want(plain("detector.engine"))


def test_versions_name_what_an_estimate_rests_on():
    torch_only = replace(KEY, runtime="torch")
    wanted = replace(locked_model().wanted, keys=(torch_only,))
    assert "onnx" not in versions(wanted)


def test_a_missing_lock_file_is_a_wrong_command(tmp_path: Path):
    with pytest.raises(UsageError, match="no lock file"):
        read_lock(tmp_path / "none.json")


def test_a_file_that_is_no_lock_is_named(tmp_path: Path):
    (tmp_path / "l.json").write_text('{"a": 1}')
    with pytest.raises(ModelError, match="is no lock file of vramplan"):
        read_lock(tmp_path / "l.json")
