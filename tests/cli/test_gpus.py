"""`vramplan gpus`: the catalogue and one card."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import fields

from vramplan.gpus import Gpu, all_gpus, find_gpu, usable_bytes


def test_every_card_is_a_line_of_at_most_100_columns(vramplan: Callable):
    outcome = vramplan("gpus")
    assert (outcome.exit_code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2 : 2 + len(all_gpus())]] == [gpu.key for gpu in all_gpus()]


def test_json_has_every_column_with_evidence_and_source(vramplan: Callable):
    cards = json.loads(vramplan("gpus", "--json").out)["gpus"]
    assert len(cards) == len(all_gpus())
    assert {field.name for field in fields(Gpu)} | {"usable", "context", "evidence", "sources"} == set(cards[0])
    for card in cards:
        assert card["sources"]
        assert card["usable"]["evidence"]
        assert card["usable"]["low_bytes"] <= card["usable"]["nominal_bytes"] <= card["usable"]["high_bytes"]
        assert all(name in card["evidence"] for name, value in card.items() if isinstance(value, int | float))


def test_csv_has_the_usable_bytes(vramplan: Callable):
    rows = list(csv.DictReader(io.StringIO(vramplan("gpus", "3090", "--csv").out)))
    assert [row["usable_nominal_bytes"] for row in rows] == [str(usable_bytes(find_gpu("3090")).nominal_bytes)]


def test_one_card_shows_its_facts_and_sources(vramplan: Callable):
    out = vramplan("gpus", "t4").out
    assert out.startswith("NVIDIA Tesla T4 (t4)\n")
    assert "\nusable: " in out
    assert "\nsource, " in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_ambiguous_name_lists_the_cards(vramplan: Callable):
    outcome = vramplan("gpus", "orin")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "jetson-orin-nano-8gb, jetson-orin-nano-super" in outcome.err
