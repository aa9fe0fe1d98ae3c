import pytest

from vramplan.report.words import columns, count_text, listed, padded, printable, shape_text, shorten


def test_names_are_cut_in_the_middle():
    assert shorten("/backbone/stem/conv/Conv_output_0", 16) == "/back…v_output_0"
    assert len(shorten("x" * 99, 16)) == 16


def test_short_names_stay():
    assert shorten("images", 6) == "images"


def test_a_name_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\nc") == "a�[2Jb�c"


@pytest.mark.parametrize(
    ("count", "text"), [(11_156_639, "11.16 M"), (999, "999"), (1_500, "1.5 k"), (7_000_000_000, "7.00 G")]
)
def test_counts(count: int, text: str):
    assert count_text(count) == text


@pytest.mark.parametrize(("shape", "text"), [((1, 3, "h", "w"), "1×3×h×w"), ((), "scalar"), (None, "?")])
def test_shapes(shape: tuple[int | str, ...] | None, text: str):
    assert shape_text(shape) == text


def test_long_lists_say_how_much_is_left_out():
    assert listed("abcde", 3) == "a, b, c and 2 more"


def test_east_asian_characters_take_two_columns():
    assert columns("模型a") == 2 + 2 + 1
    assert columns(shorten("模型层" * 20, 15)) <= 15
    assert padded("模", 4, left=True) == "模  "
