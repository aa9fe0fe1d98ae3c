"""`vramplan streams`, as a person and as a program sees it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest


def test_the_main_command(vramplan: Callable):
    outcome = vramplan("streams", "--gpu", "3090")
    assert (outcome.exit_code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "yolov8s · fp16 · TensorRT · 1080p30 h264 · RTX 3090"
    assert lines[4].startswith("decode")
    assert "decoding ends first" in outcome.out
    assert sum(line.startswith("  try ") for line in lines) == 3


def test_every_default_is_printed_with_its_flag(vramplan: Callable):
    out = vramplan("streams", "--gpu", "3090").out
    for flag in ("--precision", "--video", "--codec", "--margin", "--batch", "--processes", "--contexts",
                 "--per-stream-extra", "--decode"):  # fmt: skip
        assert flag in out


def test_json(vramplan: Callable):
    plan = json.loads(vramplan("streams", "--gpu", "3090", "--require", "16", "--json").out)
    assert plan["schema_version"] == 1
    assert plan["model"]["name"] == "yolov8s"
    assert plan["video"]["codec"] == "h264"
    card = plan["cards"][0]
    assert card["gpu"] == "rtx3090"
    assert card["fits"] is True
    assert set(card["limits"]) == {"vram", "decode", "compute", "pcie"}
    for limit in card["limits"].values():
        assert limit["streams_low"] <= limit["streams_nominal"] <= limit["streams_high"]
        assert limit["sources"]
    assert card["streams"]["nominal"] == card["limits"][card["binding"]]["streams_nominal"]
    for key in ("usable_bytes", "marginal_bytes_per_stream", "batch", "contexts", "processes", "next_binding", "try"):
        assert card[key]
    assert all(set(each) == {"value", "evidence", "source", "flag"} for each in card["assumptions"].values())


def test_csv_has_a_line_for_each_card_and_limit(vramplan: Callable):
    outcome = vramplan("streams", "--gpu", "3090,t4", "--csv")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [row["limit"] for row in rows] == 2 * ["vram", "decode", "compute", "pcie"]
    assert {row["gpu"] for row in rows[:4]} == {"rtx3090"}
    assert len(rows) == 8
    assert "carries" in outcome.err


def test_markdown(vramplan: Callable):
    out = vramplan("streams", "--gpu", "3090", "--markdown").out
    assert "| decode " in out
    assert "**RTX 3090 carries" in out


def test_cards_are_compared_in_one_table(vramplan: Callable):
    out = vramplan("streams", "--gpu", "3090,t4", "--gpu", "l4").out
    assert max(map(len, out.splitlines())) <= 100
    for name in ("RTX 3090", "Tesla T4", "L4"):
        assert name in out


def test_all_cards_are_ranked(vramplan: Callable):
    plan = json.loads(vramplan("streams", "--gpu", "all", "--json").out)
    counts = [card["streams"]["nominal"] for card in plan["cards"]]
    assert counts == sorted(counts, reverse=True)


def test_exit_codes(vramplan: Callable):
    assert vramplan("streams", "--gpu", "3090", "--require", "5").exit_code == 0
    outcome = vramplan("streams", "--gpu", "3090", "--require", "500")
    assert outcome.exit_code == 1
    assert "500 streams do not fit" in outcome.out
    assert vramplan("streams", "--gpu", "t4", "--codec", "av1", "--require", "1").exit_code == 1


def test_a_codec_the_card_cannot_decode_is_said(vramplan: Callable):
    outcome = vramplan("streams", "--gpu", "a100-sxm-80gb", "--codec", "av1")
    assert outcome.exit_code == 0
    assert "carries 0 streams" in outcome.out
    assert "no av1 decoder" in outcome.out
    assert "--decode cpu" in outcome.out


def test_a_mix(vramplan: Callable, tmp_path):
    path = tmp_path / "cameras.toml"
    path.write_text('[[camera]]\ncount = 12\nvideo = "1080p30"\n[[camera]]\ncount = 4\nvideo = "4k25"\ncodec = "hevc"\n')
    typed = vramplan("streams", "yolo11n", "--gpu", "t4", "--stream", "12x1080p30/h264", "--stream", "4x4k25/hevc")
    assert typed.exit_code == 0
    assert "16 streams fit" in typed.out
    assert vramplan("streams", "yolo11n", "--gpu", "t4", "--mix", str(path)).out == typed.out


def test_unknown_facts_are_named(vramplan: Callable):
    out = vramplan("streams", "--gpu", "l20").out
    assert "NVDEC engines of NVIDIA L20" in out
    out = vramplan("streams", "--gpu", "3090", "--codec", "mjpeg").out
    assert "decode limit not known" in out


def test_shared_memory_is_said(vramplan: Callable):
    out = vramplan("streams", "--gpu", "agx orin 64").out
    assert "operating system" in out
    assert "nothing crosses a bus" in out


@pytest.mark.parametrize(
    "words",
    [
        ("--gpu", "4100"),
        ("--gpu", "3090", "--codec", "h266"),
        ("--gpu", "3090", "--video", "banana"),
        ("--gpu", "3090", "--video", "1080p0"),
        ("--gpu", "3090", "--margin", "120%"),
        ("--gpu", "3090", "--batch", "64", "--require", "4"),
        ("--gpu", "3090", "--mix", "none.toml"),
        ("--gpu", "3090", "--mix", "a.toml", "--stream", "1080p"),
        ("--gpu", "3090", "--stream", "0x1080p"),
        ("--gpu", "3090", "--infer-every", "0"),
        ("--gpu", "3090", "--decode", "tpu"),
        ("--gpu", "3090", "--contexts", "0"),
        (),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_error_with_exit_2(vramplan: Callable, words):
    outcome = vramplan("streams", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    lines = outcome.err.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
