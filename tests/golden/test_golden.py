"""Blessed output is what the commands print, adds up, and says the same as the JSON."""

import json
import re
from decimal import Decimal

import pytest

from tests.golden.bless import COMMANDS, FOLDER, differences, output_of
from vramplan.budget import PARTS
from vramplan.units import GIB, MIB

TABLES = [name for name in COMMANDS if name.startswith("estimate") and name not in {"estimate_narrow.txt", "estimate.csv"}]
UNITS = {"MiB": MIB, "GiB": GIB}
ROW = re.compile(r"\|? *(?P<precision>fp32|fp16|int8)[ |]+\d+[ |](?P<parts>[\d. |]+?)[ |]+(?P<total>[\d.]+) (?P<unit>[MG]iB)")


def rows_of(name: str) -> list[tuple[list[Decimal], Decimal, str]]:
    """(parts, total, unit) of each row of the budget table in a golden file."""
    matches = map(ROW.match, (FOLDER / name).read_text(encoding="utf-8").splitlines())
    return [
        ([Decimal(word) for word in match["parts"].replace("|", " ").split()], Decimal(match["total"]), match["unit"])
        for match in matches
        if match
    ]


def test_golden_files_are_what_the_commands_print():
    assert differences() == [], "`python -m tests.golden.bless` accepts the change"


@pytest.mark.parametrize("name", TABLES)
def test_rows_add_up_with_a_pencil(name: str):
    rows = rows_of(name)
    assert rows
    for parts, total, _ in rows:
        assert len(parts) == len(PARTS)
        assert sum(parts) == total


@pytest.mark.parametrize("name", TABLES)
def test_cells_parse_back_to_the_bytes_of_the_json(name: str):
    command = COMMANDS[name].replace("--markdown", "") + " --json"
    cells = json.loads(output_of(command))["rows"]
    for (parts, total, unit), cell in zip(rows_of(name), cells, strict=True):
        last_digit_bytes = UNITS[unit] * Decimal(1).scaleb(int(total.as_tuple().exponent))
        assert abs(total * UNITS[unit] - cell["total_bytes"]) <= last_digit_bytes / 2
        for part, size_bytes in zip(parts, cell["budget"].values(), strict=True):
            assert abs(part * UNITS[unit] - size_bytes) < last_digit_bytes


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith(".txt")])
def test_no_line_is_wider_than_asked_or_holds_an_escape(name: str):
    width = 60 if name == "estimate_narrow.txt" else 100
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
