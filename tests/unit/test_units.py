import pytest

from vramplan.errors import UsageError
from vramplan.units import GIB, MIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * 2**30),
        ("8 GB", 8 * 10**9),
        ("1.5g", 3 * 2**29),
        ("500MB", 500 * 10**6),
        ("20MiB", 20 * 2**20),
        ("1,024 KiB", 2**20),
        (4096, 4096),
        ("0", 0),
    ],
)
def test_sizes_are_read_in_binary_and_decimal_units(text, size_bytes):
    assert parse_bytes(text) == size_bytes


def test_large_whole_numbers_are_exact():
    assert parse_bytes("1152921504606846975") == 2**60 - 1


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8 Gigs", "1e9", "nan", "9" * 30, "2EiB"])
def test_nonsense_is_one_clear_error(text):
    with pytest.raises(UsageError, match="--budget"):
        parse_bytes(text, what="--budget")


def test_text_switches_to_gib_at_one_gib():
    assert format_bytes(GIB - MIB) == "1023.0 MiB"
    assert format_bytes(GIB) == "1.00 GiB"
    assert format_bytes(0) == "0.0 MiB"
    assert format_bytes(512) == "512 B"
    assert format_bytes(1536) == "1.5 KiB"
