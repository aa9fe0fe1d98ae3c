from __future__ import annotations

import pytest

from tests.cli.cells import cell
from vramplan.errors import UsageError
from vramplan.gpus import custom_gpu, find_gpu, usable_bytes
from vramplan.result import Estimate
from vramplan.units import GIB, MIB
from vramplan.verdict import Change, judge

BYTES_PER_VALUE = {"fp32": 4, "fp16": 2, "int8": 1}


def toy(precision: str = "fp32", batch: int = 1, side: int = 640, doubt_bytes: int = 0) -> Estimate:
    """100 MiB of context and 64 values a pixel."""
    size_bytes = 64 * batch * side * side * BYTES_PER_VALUE[precision]
    return cell(precision, batch, activations=size_bytes, context=100 * MIB, doubt_bytes=doubt_bytes)


def toy_again(base: Estimate, change: Change) -> Estimate:
    side = change.dims.get("height", 640)
    return toy(change.precision or base.precision, change.batch or base.batch or 1, side)


def fixed(base: Estimate, change: Change) -> Estimate:
    raise UsageError("everything is fixed")


def test_without_a_limit_nothing_fits_or_not():
    verdict = judge([toy()], resolve=fixed)
    assert (verdict.fits, verdict.limit_bytes, verdict.headroom_bytes, verdict.tries) == (None, None, None, ())
    assert verdict.sentence == (
        "Takes 200.0 MiB; the largest part: activations, 100.0 MiB. --gpu NAME or --budget SIZE says whether it fits."
    )


def test_a_cell_that_fits_leaves_the_rest():
    verdict = judge([toy()], budget_bytes=300 * MIB, resolve=fixed)
    assert (verdict.fits, verdict.headroom_bytes, verdict.limit_name) == (True, 100 * MIB, "budget")
    assert verdict.sentence == (
        "Fits: takes 200.0 MiB and leaves 100.0 MiB of the budget of 300.0 MiB. The largest part: activations, 100.0 MiB."
    )


def test_exactly_the_limit_fits_and_a_byte_more_does_not():
    assert judge([toy()], budget_bytes=200 * MIB, resolve=fixed).fits is True
    assert judge([toy()], budget_bytes=200 * MIB - 1, resolve=fixed).fits is False


def test_a_high_end_over_the_limit_is_said_plainly():
    verdict = judge([toy(doubt_bytes=50 * MIB)], budget_bytes=230 * MIB, resolve=fixed)
    assert verdict.fits is True
    assert verdict.sentence.startswith("May not fit: ")
    assert "but the high end of the range, 250.0 MiB, is 20.0 MiB over" in verdict.sentence


def test_a_low_end_under_the_limit_is_said_too():
    verdict = judge([toy(doubt_bytes=50 * MIB)], budget_bytes=180 * MIB, resolve=fixed)
    assert verdict.fits is False
    assert "20.0 MiB more than the budget of 180.0 MiB; only the low end of the range, 150.0 MiB, would fit" in verdict.sentence


def test_a_card_is_a_limit_and_the_smaller_limit_counts():
    card = find_gpu("3090")
    usable = usable_bytes(card).nominal_bytes
    assert judge([toy()], gpu=card, resolve=fixed).limit_bytes == usable
    assert judge([toy()], gpu=card, budget_bytes=GIB, resolve=fixed).limit_name == "budget"
    assert judge([toy()], gpu=card, budget_bytes=99 * GIB, resolve=fixed).limit_bytes == usable
    assert "of the card's 2.00 GiB" in judge([toy()], gpu=custom_gpu(2 * GIB), resolve=fixed).sentence


def test_several_cells_are_counted_and_the_worst_decides():
    verdict = judge([toy(), toy("fp16"), toy(batch=8)], budget_bytes=300 * MIB, resolve=fixed)
    assert (verdict.fits, verdict.headroom_bytes) == (False, -600 * MIB)
    assert verdict.sentence == (
        "2 of 3 cells fit the budget of 300.0 MiB. The largest, fp32 at batch 8, takes 900.0 MiB and is 600.0 MiB over;"
        " its largest part: activations, 800.0 MiB."
    )


def test_all_or_none_of_several():
    cells = [toy(), toy("fp16")]
    assert judge(cells, budget_bytes=GIB, resolve=fixed).sentence.startswith("All 2 cells fit the budget")
    none = judge(cells, budget_bytes=120 * MIB, resolve=fixed).sentence
    assert none.startswith("None of the 2 cells fits the budget of 120.0 MiB. The smallest, fp16 at batch 1, takes 150.0 MiB")


def test_tries_for_a_cell_that_is_over_are_solved_and_fit():
    verdict = judge([toy(batch=8)], budget_bytes=520 * MIB, resolve=toy_again)
    assert [attempt.text for attempt in verdict.tries] == [
        "--precision fp16: 500.0 MiB (-400.0 MiB, -44 %), fits",
        "-b 4: 500.0 MiB (-400.0 MiB, -44 %), fits",
        "--dim height=320 --dim width=320: 300.0 MiB (-600.0 MiB, -67 %), fits",
    ]


def test_the_first_narrower_precision_that_fits_is_chosen():
    verdict = judge([toy(batch=8)], budget_bytes=320 * MIB, resolve=toy_again)
    assert verdict.tries[0].flags == "--precision int8"
    assert verdict.tries[0].total_bytes == 300 * MIB


def test_tries_that_do_not_get_there_say_so_when_there_is_nothing_better():
    verdict = judge([toy()], budget_bytes=110 * MIB, resolve=toy_again)
    assert verdict.tries[0].text == "--precision int8: 125.0 MiB (-75.0 MiB, -38 %), still 15.0 MiB over"


def test_ample_room_suggests_the_largest_batch_that_fits():
    verdict = judge([toy()], budget_bytes=1000 * MIB, resolve=toy_again)
    assert "-b 8: 900.0 MiB (× 4.5), fits" in [attempt.text for attempt in verdict.tries]


def test_among_several_cells_the_flags_are_complete_and_new():
    cells = [toy(precision, batch) for precision in ("fp32", "fp16", "int8") for batch in (1, 8)]
    verdict = judge(cells, budget_bytes=400 * MIB, resolve=toy_again)
    # the smallest cell that is over: fp16 at batch 8; int8 at batch 8 and fp16 at batch 1 are in the table already
    assert [attempt.flags for attempt in verdict.tries] == [
        "--precision fp16 -b 4",
        "--precision fp16 -b 8 --dim height=480 --dim width=480",
    ]


def test_a_change_that_saves_little_is_not_worth_a_line():
    def barely(base: Estimate, change: Change) -> Estimate:
        return cell(activations=99 * MIB, context=100 * MIB)

    assert judge([toy()], resolve=barely).tries == ()


@pytest.mark.parametrize("dims", [(1, 3, 640, 640), (1, 3, "height", 640), ("batch", "channels", "height", "width")])
def test_only_dynamic_sides_of_an_image_shrink(dims: tuple[int | str, ...]):
    base = cell(activations=100 * MIB, dims=dims, batch=None)
    asked: list[Change] = []

    def ask(base: Estimate, change: Change) -> Estimate:
        asked.append(change)
        return base

    judge([base], resolve=ask)
    assert not any(change.dims or change.shapes for change in asked)


def test_flags_are_what_a_user_types():
    change = Change(precision="int8", batch=4, dims={"height": 480}, shapes={"images": (4, 3, 480, 480)})
    assert change.flags == "--precision int8 -b 4 --dim height=480 --shape images:4x3x480x480"
