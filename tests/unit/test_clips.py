"""Clips that are made on the spot; the ones that need PyAV are left out where it is not installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vramplan.device.clips import ENCODERS, make_clip
from vramplan.errors import MachineError, MeasurementError
from vramplan.video import Codec


def _av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install 'vramplan[video]'")


@pytest.mark.parametrize("codec", list(ENCODERS))
def test_a_clip_is_what_was_asked_for(codec: Codec, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    av = _av()
    if ENCODERS[codec].name not in av.codecs_available:
        pytest.skip(f"this PyAV has no {ENCODERS[codec].name}")
    path = make_clip(tmp_path, codec, width_px=320, height_px=180, encoded_frames=10, most_frames=30)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
    assert stream.codec_context.codec.canonical_name == codec.value
    assert (stream.width, stream.height, stream.pix_fmt) == (320, 180, "yuv420p")
    assert len(frames) == 30
    assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 10, 20]
    times = [frame.pts for frame in frames]
    assert times == sorted(set(times))
    assert "Svt" not in capfd.readouterr().err


def test_frames_come_in_the_order_in_which_they_are_sent(tmp_path: Path):
    av = _av()
    path = make_clip(tmp_path, Codec.H264, width_px=320, height_px=180, encoded_frames=10, most_frames=10)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.pts == packet.dts for packet in packets)  # no B frames


def test_the_rate_follows_the_pixels(tmp_path: Path):
    av = _av()
    path = make_clip(tmp_path, Codec.H264, width_px=640, height_px=360, encoded_frames=60, most_frames=60)
    with av.open(str(path)) as container:
        bits_per_s = sum(packet.size for packet in container.demux(video=0)) * 8 / 2  # 60 frames are 2 s
    assert 0.5 < bits_per_s / (4_000_000 / 9) < 2  # a ninth of 1080p's pixels


def test_odd_sides_are_rounded_up(tmp_path: Path):
    av = _av()
    path = make_clip(tmp_path, Codec.H264, width_px=321, height_px=181, encoded_frames=2, most_frames=2)
    with av.open(str(path)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (322, 182)


def test_a_codec_without_an_encoder_is_named(tmp_path: Path):
    _av()
    with pytest.raises(MachineError, match="no encoder for mjpeg"):
        make_clip(tmp_path, Codec.MJPEG, width_px=320, height_px=180)


def test_a_folder_that_is_gone_is_no_traceback(tmp_path: Path):
    _av()
    with pytest.raises(MeasurementError, match="no h264 clip of 320 x 180 px could be made"):
        make_clip(tmp_path / "gone", Codec.H264, width_px=320, height_px=180)


def test_the_environment_is_left_as_it_was(tmp_path: Path):
    _av()
    before = dict(os.environ)
    make_clip(tmp_path, Codec.H264, width_px=320, height_px=180, encoded_frames=2, most_frames=2)
    assert dict(os.environ) == before


def test_without_pyav_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MachineError) as caught:
        make_clip(tmp_path, Codec.H264, width_px=320, height_px=180)
    assert caught.value.hint == "Type: pip install 'vramplan[video]'"
