"""Two programs op by op. A program is written as ``name: size size* …``: a star marks bytes that the op frees itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.alignment import OpRequests, Request, align, op_requests
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role
from vramplan.sources.recording import read_recording

RECORDED = Path(__file__).parents[1] / "traces" / "data" / "resnet50_fp16_contiguous_b8.json.gz"


def program(text: str, *, roles: dict[int, Role] | None = None) -> MemoryProgram:
    """One phase ``first_run`` after an empty ``load``; *roles* by size, activations otherwise."""
    builder = ProgramBuilder()
    builder.phase("load")
    for line in text.split(";"):
        name, _, sizes = line.strip().partition(":")
        builder.op(name)
        held = []
        for word in sizes.split():
            size = int(word.rstrip("*"))
            role = (roles or {}).get(size, Role.ACTIVATION)
            index = builder.hold(Buffer(name=name, role=role, size_bytes=size))
            held += [index] if word.endswith("*") else []
        builder.free(*held)
    builder.phase("first_run")
    return builder.build()


def compared(ours: str, theirs: str, *, top: int = 10):
    return align(program(ours), program(theirs), "first_run", top=top)


def counts(found) -> tuple[int, int, int, int]:
    return found.equal_count, found.different_count, found.only_predicted_count, found.only_measured_count


def test_equal_programs_are_equal():
    found = compared("a conv2d: 100 20*; b relu: 100", "a conv2d: 100 20*; b relu: 100")
    assert (counts(found), found.first, found.largest, found.is_equal) == ((2, 0, 0, 0), None, (), True)


def test_another_size_is_a_difference_with_its_role():
    roles = {8: Role.WORKSPACE, 20: Role.WORKSPACE}
    ours, theirs = program("x: 1; a conv2d: 100 20*", roles=roles), program("x: 1; a conv2d: 100 8*", roles=roles)
    found = align(ours, theirs, "first_run")
    assert counts(found) == (1, 1, 0, 0)
    first = found.first
    assert (first.name, first.role, first.predicted_index, first.measured_index) == ("a conv2d", "workspace", 2, 2)
    assert (first.predicted_bytes, first.measured_bytes, first.error_bytes) == (120, 108, 12)


@pytest.mark.parametrize(("ours", "theirs"), [("a: 5*", "a: 5"), ("a: 5 7", "a: 7 5"), ("a: 5 5", "a: 5")])
def test_lifetime_order_and_number_count(ours: str, theirs: str):
    assert counts(compared(ours, theirs)) == (0, 1, 0, 0)


def test_ops_of_one_side_only():
    found = compared("a: 1; b: 2; c: 3", "a: 1; x: 9; c: 3")
    assert counts(found) == (2, 0, 1, 1)
    assert [(item.name, item.predicted_index, item.measured_index) for item in found.largest] == [
        ("x", None, 2),
        ("b", 2, None),
    ]
    assert (found.first.name, found.first.predicted_bytes, found.first.measured_bytes) == ("b", 2, 0)


def test_an_op_that_asks_for_nothing_on_one_side_is_different_and_not_missing():
    found = compared("a: 1; b:; c: 3", "a: 1; b: 2; c: 3")
    assert counts(found) == (2, 1, 0, 0)
    assert (found.first.predicted_bytes, found.first.measured_bytes) == (0, 2)


def test_ops_that_ask_for_nothing_do_not_count():
    assert counts(compared("a: 1; view:; c: 3", "a: 1; c: 3")) == (2, 0, 0, 0)


def test_no_bytes_are_no_request():
    assert counts(compared("a: 1; b: 0* 2", "a: 1; b: 2")) == (2, 0, 0, 0)


def test_the_largest_come_first_and_are_as_many_as_asked_for():
    found = compared("a: 10; b: 10; c: 10; d: 10", "a: 11; b: 30; c: 10; d: 13", top=2)
    assert [item.name for item in found.largest] == ["b", "d"]
    assert (found.first.name, found.different_count) == ("a", 3)


def test_an_op_more_in_the_middle_of_equal_names_shifts_nothing_around_it():
    found = compared("add: 1; mul: 2; add: 3; mul: 4; add: 5", "mul: 2; add: 3; mul: 4; add: 5")
    assert counts(found) == (4, 0, 1, 0)


def test_a_loop_is_aligned_turn_by_turn():
    builder = ProgramBuilder()
    for phase, turns in (("first_run", 1), ("steady", 3)):
        for _ in range(turns):
            for name, size in (("a", 1), ("b", 2)):
                builder.op(name)
                builder.hold(Buffer(name=name, role=Role.ACTIVATION, size_bytes=size))
        builder.phase(phase)
    found = align(builder.build(), builder.build(), "steady")
    assert counts(found) == (6, 0, 0, 0)


def test_requests_of_an_op():
    runs = op_requests(program("a: 5 7*; b:; c: 1"), "first_run")
    assert [run.name for run in runs] == ["a", "b", "c"]
    assert runs[0] == OpRequests(
        name="a",
        index=1,
        requests=(Request(5, False), Request(7, True)),
        roles=("activation", "activation"),
        names=("a", "a"),
        start=0,
        stop=3,
    )
    assert runs[0].size_bytes == 12


def test_a_phase_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError):
        align(program("a: 1"), program("a: 1"), "steady")


def test_a_recording_equals_itself():
    recorded = read_recording(RECORDED).program
    assert all(align(recorded, recorded, phase.name).is_equal for phase in recorded.phases)


ops = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=25)


@given(ours=ops, theirs=ops)
def test_every_op_that_asks_for_something_is_counted_once(ours: list[tuple[str, int]], theirs: list[tuple[str, int]]):
    left, right = (program("; ".join(f"{name}: {size}" for name, size in side)) for side in (ours, theirs))
    found, back = align(left, right, "first_run", top=99), align(right, left, "first_run", top=99)
    mine, real = sum(size > 0 for _, size in ours), sum(size > 0 for _, size in theirs)
    certain = found.equal_count + found.only_predicted_count
    assert certain <= mine <= certain + found.different_count
    certain = found.equal_count + found.only_measured_count
    assert certain <= real <= certain + found.different_count
    assert len(found.largest) == found.different_count + found.only_predicted_count + found.only_measured_count
    assert sum(item.error_bytes for item in found.largest) == sum(s for _, s in ours) - sum(s for _, s in theirs)
    assert found.is_equal == (not found.largest)
    assert sum(item.error_bytes for item in back.largest) == -sum(item.error_bytes for item in found.largest)
    assert align(left, left, "first_run").is_equal


def _long(names: list[str]) -> MemoryProgram:
    builder = ProgramBuilder()
    for name in names:
        builder.op(name)
        builder.hold(Buffer(name=name, role=Role.ACTIVATION, size_bytes=1))
    builder.phase("first_run")
    return builder.build()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["add"] * 100_000, ["add"] * 99_000 + ["mul"] * 2_000),
        (["add", "mul"] * 50_000, ["mul", "sub"] * 50_000),
        ([f"layer.{index} add" for index in range(100_000)], [f"layer.{index} add" for index in range(100_000, 0, -1)]),
        ([f"a{index % 199}" for index in range(100_000)], [f"a{index % 211}" for index in range(100_000)]),
        ([f"a{index}" for index in range(50_000)], [f"b{index}" for index in range(50_000)]),
    ],
)
def test_long_programs_take_seconds_whatever_they_hold(ours: list[str], theirs: list[str]):
    left, right = _long(ours), _long(theirs)
    start = time.monotonic()
    found = align(left, right, "first_run")
    assert time.monotonic() - start < 30
    assert found.equal_count + found.only_predicted_count == len(ours)
    assert found.equal_count + found.only_measured_count == len(theirs)
