from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.report.rounding import MEBIBYTES, add_up, scale_for
from vramplan.units import GIB, KIB, MIB, parse_bytes

SIZES = st.lists(st.integers(0, 3 * GIB) | st.integers(0, 3 * MIB), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0.0 MiB"),
        (831 * MIB + 400 * KIB, "831.4 MiB"),
        (GIB - MIB // 10, "1023.9 MiB"),
        (GIB - 1, "1.000 GiB"),
        (GIB, "1.000 GiB"),
        (5 * GIB // 4, "1.250 GiB"),
        (25 * GIB // 2, "12.50 GiB"),
        (141 * GIB, "141.0 GiB"),
    ],
)
def test_a_total_chooses_its_unit_and_decimals(size_bytes: int, text: str):
    assert scale_for(size_bytes).text(size_bytes) == text


def test_the_part_whose_rounding_was_the_closest_call_moves():
    # 0.04 + 0.04 + 0.03 = 0.11 MiB: each rounds to 0.0, the total to 0.1
    sizes = [4 * MIB // 100, 4 * MIB // 100 + 1, 3 * MIB // 100]
    assert add_up(sizes, MEBIBYTES) == ("0.0", "0.1", "0.0")


def test_steady_parts_move_last():
    sizes = [4 * MIB // 100, 4 * MIB // 100 + 1, 3 * MIB // 100]
    assert add_up(sizes, MEBIBYTES, steady={0, 1}) == ("0.0", "0.0", "0.1")


def test_nothing_reads_0_and_almost_nothing_reads_0_0():
    assert add_up([0, 1, MIB], MEBIBYTES) == ("0", "0.0", "1.0")


@given(SIZES, st.sets(st.integers(0, 8)))
def test_parts_add_up_and_none_is_off_by_a_last_digit(sizes: list[int], steady: set[int]):
    scale = scale_for(sum(sizes))
    numbers = [Decimal(number) for number in add_up(sizes, scale, steady=steady)]
    assert f"{sum(numbers):.{scale.decimals}f} {scale.unit}" == scale.text(sum(sizes))
    for number, size_bytes in zip(numbers, sizes, strict=True):
        assert abs(number * scale.unit_bytes - size_bytes) < Decimal(scale.unit_bytes) / 10**scale.decimals


@given(st.integers(0, 500 * GIB))
def test_text_parses_back_to_within_half_a_last_digit(size_bytes: int):
    scale = scale_for(size_bytes)
    assert abs(parse_bytes(scale.text(size_bytes)) - size_bytes) <= scale.unit_bytes / 10**scale.decimals / 2 + 1
