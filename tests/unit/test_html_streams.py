"""The web page of a streams plan: every limit as a bar, on an axis that ends at a round number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import vramplan as vp
from vramplan.fleet import StreamsPlan
from vramplan.report.html import streams_page
from vramplan.report.html.streams import axis_end, streams_page_content, ticks
from vramplan.report.streams_export import streams_json

MIX = ["12x1080p30/h264", "4x4k25/hevc"]
HOSTILE = "</script><script>alert(1)</script>\x1b[31m\u202e"


@pytest.fixture(scope="module")
def one() -> StreamsPlan:
    return vp.streams("yolov8s", gpu="3090")


@pytest.fixture(scope="module")
def several() -> StreamsPlan:
    return vp.streams("yolov8s", gpu=["t4", "3090"], mix=MIX)


def test_it_has_the_json_of_the_command(one: StreamsPlan, several: StreamsPlan):
    for plan in (one, several):
        assert streams_page_content(plan)["report"] == json.loads(streams_json(plan))


def test_four_bars_the_binding_one_first(one: StreamsPlan):
    (card,) = streams_page_content(one)["cards"]
    assert [limit["name"] for limit in card["limits"]] == [limit.name for limit in one.card.ranked]
    assert [limit["is_binding"] for limit in card["limits"]] == [True, False, False, False]
    for limit in card["limits"]:
        assert 0 <= limit["bar"]["low"] <= limit["bar"]["nominal"] <= limit["bar"]["high"] <= 1
        assert limit["streams"] == f"{one.limits[limit['name']].nominal:,}"


def test_the_answer_lies_where_its_limit_ends(one: StreamsPlan):
    (card,) = streams_page_content(one)["cards"]
    assert card["answer"] == card["limits"][0]["bar"]["nominal"]
    end = int(card["ticks"][-1]["text"].replace(",", ""))
    assert card["answer"] == pytest.approx(one.streams / end, abs=1e-6)
    assert [limit["bar"]["is_cut"] for limit in card["limits"]] == [(limit.nominal or 0) > end for limit in one.card.ranked]


def test_the_sentence_is_about_the_card_in_focus(several: StreamsPlan):
    content = streams_page_content(several)
    assert content["cards"][content["focus"]]["name"] == "RTX 3090"
    assert content["sentence"].count("RTX 3090") == 1
    assert [card["streams"] for card in content["cards"]] == [str(card.streams) for card in several.cards]
    assert content["without"]["big"] == "RTX 3090"


def test_the_mix_in_shares_and_frames(several: StreamsPlan):
    first, second = streams_page_content(several)["mix"]
    assert (first["share"], second["share"]) == (12 / 16, 4 / 16)
    assert (first["decoded"], second["decoded"]) == (f"{12 * 30} fps", f"{4 * 25} fps")


def test_the_best_change_leads_to_most_streams(one: StreamsPlan):
    content = streams_page_content(one)
    best = max(one.tries, key=lambda attempt: attempt.streams_nominal)
    text = best.text.removeprefix(f"{best.flags}: ")
    assert content["remedy"] == {"flags": best.flags, "what": "", "text": f"{text}, solved again with it."}
    assert all(not attempt["text"].startswith("--") for attempt in content["tries"])


def test_what_is_required_is_the_state(one: StreamsPlan):
    for required, state in ((1, "yes"), (one.streams, "doubt"), (one.streams + 1, "no"), (None, "none")):
        assert streams_page_content(replace(one, required=required))["state"] == state


@pytest.mark.parametrize(
    ("end", "texts"),
    [
        (1, ["0", "1"]),
        (6, ["0", "1", "2", "3", "4", "5", "6"]),
        (7, ["0", "2", "4", "6", "8"]),
        (60, ["0", "10", "20", "30", "40", "50", "60"]),
        (1_200_000, [f"{count:,}" for count in range(0, 1_200_001, 200_000)]),
    ],
)
def test_an_axis_ends_at_a_round_number(end: int, texts: list[str]):
    assert axis_end([end], answer=end) == int(texts[-1].replace(",", ""))
    assert [tick["text"] for tick in ticks(axis_end([end], answer=end))] == texts


def test_a_limit_far_away_does_not_squeeze_the_others():
    assert axis_end([30, 600], answer=30) == 4 * 30
    assert axis_end([], answer=0) == 1


def test_a_limit_that_is_not_known_has_its_reason_and_no_bar():
    plan = vp.streams("yolov8s", vram="24GiB")
    blank = [limit for limit in streams_page_content(plan)["cards"][0]["limits"] if limit["bar"] is None]
    assert {limit["name"] for limit in blank} == {name for name, limit in plan.limits.items() if limit.nominal is None}
    assert all(limit["reason"] and limit["streams"] == "not known" for limit in blank)
    streams_page(plan)


def test_hostile_names_stay_text(one: StreamsPlan):
    engine = replace(one.card.load.engines[0], name=HOSTILE)
    card = replace(one.card, load=replace(one.card.load, engines=(engine,)))
    page = streams_page(replace(one, cards=(card,), models=(replace(one.models[0], name=HOSTILE),)))
    assert "alert(1)</script>" not in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_it_is_small(several: StreamsPlan):
    assert len(streams_page(several)) < 100_000
    assert len(streams_page(vp.streams("yolov8s", gpu="all"))) < 2_000_000
