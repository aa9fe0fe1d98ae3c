"""Test clips made on the spot: moving texture through a software encoder of PyAV, so that no video has to be shipped.

A few seconds are encoded once and repeated without encoding again: every turn begins with a key frame, as a camera's groups of
pictures do, and like cameras the encoders use no B frames.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.errors import MachineError, MeasurementError
from vramplan.video import Codec

BIT_RATE_1080P30 = 4_000_000
"""Bits a second of a 1080p30 clip, as cameras send; other sizes take it by their pixels."""

FPS = 30
ENCODED_FRAMES = 60
MOST_FRAMES, MOST_BYTES = 1_800, 32 << 20
"""Turns are added until the clip is a minute long or this large: a decoder then meets its end rarely."""

_TILE_PX = 8
_STEP_ROWS, _STEP_COLUMNS = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """An encoder of FFmpeg's libraries, with options that favour speed and leave B frames out where it has them."""

    name: str
    options: Mapping[str, str]


ENCODERS = {
    Codec.H264: Encoder(name="libx264", options={"preset": "veryfast", "bf": "0"}),
    Codec.HEVC: Encoder(name="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"}),
    Codec.AV1: Encoder(name="libsvtav1", options={"preset": "10"}),
    Codec.VP9: Encoder(
        name="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}
    ),
}


def make_clip(
    folder: Path,
    codec: Codec,
    *,
    width_px: int,
    height_px: int,
    encoded_frames: int = ENCODED_FRAMES,
    most_frames: int = MOST_FRAMES,
) -> Path:
    """Write ``CODEC_WIDTHxHEIGHT.mp4`` into *folder*: *encoded_frames* frames, repeated up to *most_frames*, 8 bits, 4:2:0.

    Odd sides are rounded up, for colours come in pairs of pixels. Raises `MachineError` when PyAV or its encoder is missing,
    `MeasurementError` when the encoder refuses the size or the folder has no room.
    """
    av = _import_av()
    encoder = ENCODERS.get(codec)
    if encoder is None or encoder.name not in av.codecs_available:
        raise MachineError(
            f"PyAV {av.__version__} has no encoder for {codec} clips",
            hint=f"Measure another codec: {', '.join(known for known in ENCODERS)}.",
        )
    width_px, height_px = width_px + width_px % 2, height_px + height_px % 2
    path = folder / f"{codec}_{width_px}x{height_px}.mp4"
    try:
        with _quiet_encoders(), av.open(str(path), "w") as container:
            stream = _add_stream(container, encoder, width_px, height_px)
            packets = _encode(av, stream, width_px, height_px, encoded_frames)
            for packet in _repeated(av, packets, encoded_frames, most_frames):
                packet.stream = stream
                container.mux(packet)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MeasurementError(
            f"no {codec} clip of {width_px} x {height_px} px could be made: {str(error)[:200]}",
            hint="Measure another size or codec, or give the rate you know: --decode-fps.",
        ) from None
    return path


def _import_av() -> Any:
    try:
        import av  # noqa: PLC0415  an optional extra
    except ImportError:
        raise MachineError(
            "the package av (PyAV), which makes test clips, is not installed", hint="Type: pip install 'vramplan[video]'"
        ) from None
    return av


def _add_stream(container: Any, encoder: Encoder, width_px: int, height_px: int) -> Any:
    stream = container.add_stream(encoder.name, rate=FPS)
    stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
    stream.bit_rate = max(round(BIT_RATE_1080P30 * width_px * height_px / (1920 * 1080)), 50_000)
    stream.options = dict(encoder.options)
    return stream


def _encode(av: Any, stream: Any, width_px: int, height_px: int, count: int) -> list[Any]:
    """The packets of *count* frames."""
    packets: list[Any] = []
    for picture in _pictures(width_px, height_px, count):
        packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    packets += stream.encode()
    return packets


def _pictures(width_px: int, height_px: int, count: int) -> Iterator[Any]:
    """A window that moves over a large picture of coloured tiles: edges everywhere, and motion that an encoder finds."""
    import numpy as np  # noqa: PLC0415  only who makes a clip pays for it

    rows, columns = ((side + count * step) // _TILE_PX + 1 for side, step in
                     ((height_px, _STEP_ROWS), (width_px, _STEP_COLUMNS)))  # fmt: skip
    tiles = np.random.default_rng(0).integers(0, 255, (rows, columns, 3), dtype=np.uint8)
    large = tiles.repeat(_TILE_PX, axis=0).repeat(_TILE_PX, axis=1)
    for index in range(count):
        top, left = index * _STEP_ROWS, index * _STEP_COLUMNS
        yield np.ascontiguousarray(large[top : top + height_px, left : left + width_px])


def _repeated(av: Any, packets: list[Any], period: int, most_frames: int) -> Iterator[Any]:
    """*packets* again and again, each turn *period* frames later."""
    turn_bytes = max(sum(packet.size for packet in packets), 1)
    turns = max(1, min(most_frames // period, MOST_BYTES // turn_bytes))
    for turn in range(turns):
        for packet in packets:
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts = packet.pts + turn * period, packet.dts + turn * period
            copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
            yield copy


@contextlib.contextmanager
def _quiet_encoders() -> Iterator[None]:
    """SVT-AV1 writes a banner to standard error unless this variable asks for errors only."""
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SVT_LOG"]
