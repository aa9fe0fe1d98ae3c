"""Decoder sessions: the rule against memory read on an H200."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from vramplan.capacity.sessions import PROCESS_BYTES, reference_frames, session_bytes
from vramplan.video import parse_video

READINGS = Path(__file__).parents[2] / "benchmarks" / "data" / "nvdec_h200.csv"


def readings():
    """(codec, resolution) → [(sessions, bytes beyond the context)]."""
    groups = {}
    with READINGS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            used = int(row["gpu_used_while_decoding_bytes"]) - int(row["gpu_used_after_context_bytes"])
            groups.setdefault((row["codec"], row["resolution"]), []).append((int(row["sessions"]), used))
    return groups


@pytest.mark.parametrize(("codec", "resolution"), list(readings()))
def test_each_further_session_takes_what_the_rule_says(codec, resolution):
    rule = session_bytes(parse_video(resolution, codec=codec))
    for (before, used_before), (after, used_after) in pairwise(readings()[codec, resolution]):
        each = (used_after - used_before) / (after - before)
        assert rule.low_bytes <= each <= rule.high_bytes
        assert rule.nominal_bytes == pytest.approx(each, rel=0.05)


@pytest.mark.parametrize(("codec", "resolution"), list(readings()))
def test_the_whole_process_is_within_six_percent(codec, resolution):
    rule = session_bytes(parse_video(resolution, codec=codec))
    for sessions, used in readings()[codec, resolution]:
        assert PROCESS_BYTES + sessions * rule.nominal_bytes == pytest.approx(used, rel=0.06)


def test_references_follow_the_levels():
    assert reference_frames(parse_video("1080p", codec="h264"))[1] == 32768 // 8160
    assert reference_frames(parse_video("720p", codec="h264"))[1] == 18000 // 3600
    assert reference_frames(parse_video("1080p", codec="hevc"))[1] == 16
    assert reference_frames(parse_video("8k", codec="hevc"))[1] == 6
    assert reference_frames(parse_video("1080p", codec="vp9")) == (8, 8, 8)
    assert reference_frames(parse_video("1080p", codec="mjpeg")) == (0, 0, 0)


def test_known_frame_counts_leave_no_range():
    size = session_bytes(parse_video("1080p"), reference_count=4, in_flight_count=10)
    assert size.low_bytes == size.nominal_bytes == size.high_bytes
    assert size.nominal_bytes == session_bytes(parse_video("1080p")).nominal_bytes
    with pytest.raises(ValueError, match="cannot hold"):
        session_bytes(parse_video("1080p"), reference_count=-9, in_flight_count=1)


def test_ten_bits_take_more():
    eight, ten = (session_bytes(parse_video("4k", codec="hevc", bit_depth=depth)).nominal_bytes for depth in (8, 10))
    assert 1.7 < ten / eight < 2.1
