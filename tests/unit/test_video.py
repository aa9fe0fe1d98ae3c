"""What people type for a video, and what a frame of it is."""

from __future__ import annotations

import pytest

from vramplan.errors import UsageError
from vramplan.video import Codec, Stream, Video, parse_codec, parse_stream, parse_video


@pytest.mark.parametrize(
    ("text", "width", "height", "fps"),
    [
        ("1080p30", 1920, 1080, 30),
        ("4k25", 3840, 2160, 25),
        ("1280x720@15", 1280, 720, 15),
        ("720p", 1280, 720, 30),
        ("1440p", 2560, 1440, 30),
        ("2160p60", 3840, 2160, 60),
        ("8k", 7680, 4320, 30),
        ("4K@12.5", 3840, 2160, 12.5),
        (" 1080P25fps ", 1920, 1080, 25),
        ("2688×1520@20", 2688, 1520, 20),
        ("uhd30", 3840, 2160, 30),
    ],
)
def test_videos(text, width, height, fps):
    assert parse_video(text) == Video(width_px=width, height_px=height, fps=fps)


@pytest.mark.parametrize(
    "text", ["", "foo", "0x0", "1080p0", "-5", "1080q30", "999p", "1920x1080@-3", "1080p1e9", "1x1", "99999x99999", "p30"]
)
def test_nonsense_is_one_clear_error(text):
    with pytest.raises(UsageError) as error:
        parse_video(text)
    assert error.value.hint


def test_streams():
    assert parse_stream("12x1080p30/h264") == Stream(video=Video(width_px=1920, height_px=1080), count=12)
    ten_bits = Video(width_px=3840, height_px=2160, fps=25, codec=Codec.HEVC, bit_depth=10)
    assert parse_stream("4k25/hevc10") == Stream(video=ten_bits)
    assert parse_stream("1280x720@15").video == Video(width_px=1280, height_px=720, fps=15)
    assert parse_stream("3x1280x720@15", codec="av1").count == 3


@pytest.mark.parametrize("text", ["", "12x", "1080p30/h266", "0x1080p30", "a/b/c", "1080p30/h26410"])
def test_bad_streams(text):
    with pytest.raises(UsageError):
        parse_stream(text)


def test_codec_names():
    assert parse_codec("H.265") is Codec.HEVC
    with pytest.raises(UsageError, match="unknown codec") as error:
        parse_codec("h266")
    assert "h264, hevc, av1, vp9, mjpeg" in error.value.hint


def test_h264_has_no_ten_bits():
    with pytest.raises(UsageError, match="no 10-bit"):
        parse_video("1080p", codec="h264", bit_depth=10)


def test_frames_are_coded_in_whole_macroblocks():
    video = parse_video("1080p")
    assert video.macroblock_count == 120 * 68
    assert video.frame_bytes == 1920 * 1080 * 3 // 2
    assert video.coded_frame_bytes == 1920 * 1088 * 3 // 2
    assert parse_video("1080p", codec="hevc", bit_depth=10).frame_bytes == 2 * video.frame_bytes


def test_counts_are_positive():
    for wrong in ({"count": 0}, {"infer_every": 0}):
        with pytest.raises(UsageError):
            Stream(video=parse_video("1080p"), **wrong)
    assert Stream(video=parse_video("1080p30"), infer_every=3).infer_fps == 10
