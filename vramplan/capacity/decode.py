"""How fast a card decodes video: engines x rate of one engine.

The rate of an engine is NVIDIA's own for 1080p (``nvdec.csv``), scaled by the card's video clock and by the macroblocks of
a frame, with the spread between that note and what others saw (``decoder`` in ``constants.toml``). Jetson modules publish
how many 1080p30 streams the whole module decodes (``vendor_decode.csv`` and the catalogue); that is used instead.

A calibration (`vramplan calibrate`) knows the rate of this very card and driver for its clips: it comes first.

Known limits: the bit rate is not a parameter (vendor rates hold for ordinary ones); engines of one card are taken as equal;
MJPEG goes through other units (NVJPG engines, or CUDA kernels of nvJPEG) whose rates nobody publishes in one place.
"""

from __future__ import annotations

import csv
import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

from vramplan.capacity.constants import constants
from vramplan.capacity.facts import comparable, nearest
from vramplan.capacity.measured import decode_fps
from vramplan.capacity.span import Span
from vramplan.errors import InternalError
from vramplan.gpus import Gpu, all_gpus
from vramplan.ranges import Evidence
from vramplan.video import Codec, Video

MACROBLOCKS_1080P = 8160
STREAM_FPS = 30.0
NOTE = "NVIDIA NVDEC Application Note 13.0, section 3"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRate:
    """One row of NVIDIA's note: frames a second of one engine at 1080p, and the video clock of that test.

    Invariant: both are positive.
    """

    fps_1080p: float
    video_clock_mhz: float

    def __post_init__(self) -> None:
        if min(self.fps_1080p, self.video_clock_mhz) <= 0:
            raise ValueError(f"not a rate: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What a card's decoders do for one kind of video: how many engines, and the frames a second of each.

    ``fps`` is the rate of the whole card. Where a vendor gives only that, the engines count as one.
    Invariant: there is at least one engine.
    """

    engines: Span
    engine_fps: Span

    def __post_init__(self) -> None:
        if self.engines.low < 1:
            raise ValueError(f"a decoder with {self.engines.low:g} engines")

    @property
    def fps(self) -> Span:
        """Frames a second of all engines together."""
        return self.engines.times(self.engine_fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDecoder:
    """Why there is no number: ``supported`` False when the card cannot decode it, None when nobody says how fast it does."""

    supported: bool | None
    reason: str


def decoder_of(
    gpu: Gpu, video: Video, *, engine_count: int | None = None, fps: float | None = None, measured: Span | None = None
) -> Decoder | NoDecoder:
    """The decoders of *gpu* for *video*.

    ``engine_count`` and ``fps`` (of the whole card, for this video) replace what the catalogue says. ``measured`` is what
    was measured for this very video, which comes before a calibration.
    """
    if fps is not None:
        count = engine_count or 1
        rate = Span.of(fps / count, Evidence.ASSUMED, "decode rate given by the user")
        return Decoder(engines=Span.of(count, Evidence.ASSUMED), engine_fps=rate)
    measured = measured or decode_fps(gpu, video)
    if measured is None:
        return _published(gpu, video, engine_count)
    return _calibrated(measured, engine_count, _published(gpu, video, None))


def _calibrated(measured: Span, engine_count: int | None, otherwise: Decoder | NoDecoder) -> Decoder:
    """The rate was measured for all engines together, as many as are published; *engine_count* is how many of them count.

    A rate that was still growing with the sessions is one that the decoders exceed: it reaches up to what is published.
    """
    all_engines = otherwise.engines.nominal if isinstance(otherwise, Decoder) else engine_count or 1
    if measured.missing and isinstance(otherwise, Decoder):
        measured = replace(measured, high=max(measured.high, otherwise.fps.high))
    engines = Span.of(engine_count or all_engines, Evidence.MEASURED)
    return Decoder(engines=engines, engine_fps=measured.scaled(1 / all_engines))


def _published(gpu: Gpu, video: Video, engine_count: int | None) -> Decoder | NoDecoder:
    """What the vendor says, where nobody measured."""
    if video.codec is Codec.MJPEG:
        reason = "nobody publishes MJPEG rates card by card (NVJPG engines, nvJPEG on the cores)"
        return NoDecoder(supported=None, reason=reason)
    if gpu.unified_memory and gpu.nvdec_table_row is None:
        return _by_vendor(gpu, video)
    return _by_note(gpu, video, engine_count)


def _by_note(gpu: Gpu, video: Video, engine_count: int | None) -> Decoder | NoDecoder:
    rows = [gpu.nvdec_table_row] if gpu.nvdec_table_row else sorted({row for row, _, _ in note_rates()})
    rates = {row: rate for row in rows if (rate := _note_rate(row, video))}
    if not rates:
        return NoDecoder(supported=False, reason=f"{gpu.name} has no {_kind(video)} decoder ({NOTE})")
    scale = MACROBLOCKS_1080P / video.macroblock_count
    per_row = [_clock_ratio(gpu, rate).scaled(rate.fps_1080p * scale) for rate in rates.values()]
    engine_fps = per_row[0] if len(per_row) == 1 else _spanned(per_row, f"decoder generation of {gpu.name}")
    return Decoder(engines=_engines(gpu, engine_count), engine_fps=engine_fps.times(constants().decoder))


def _spanned(spans: list[Span], missing: str) -> Span:
    """From the lowest to the highest of *spans*: which of them holds is not known."""
    middle = Span.around((span.nominal for span in spans), Evidence.BOUNDED, *spans[0].sources, missing=missing)
    return replace(middle, low=min(span.low for span in spans), high=max(span.high for span in spans))


@functools.cache
def note_rates() -> dict[tuple[str, Codec, int], NoteRate]:
    """The rows of ``nvdec.csv`` by generation, codec and bit depth."""
    with Path(__file__).with_name("nvdec.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["row"], Codec(row["codec"]), int(row["bit_depth"])): NoteRate(
                fps_1080p=float(row["fps_1080p"]), video_clock_mhz=float(row["video_clock_mhz"])
            )
            for row in csv.DictReader(file)
        }


def _note_rate(row: str, video: Video) -> NoteRate | None:
    """The row for *video*: 12 bits decode like 10, and the note gives AV1 once for 8 and 10 bits."""
    depth = 8 if video.codec is Codec.AV1 else min(video.bit_depth, 10)
    return note_rates().get((row, video.codec, depth))


def _clock_ratio(gpu: Gpu, rate: NoteRate) -> Span:
    """The card's video clock over the clock of the note's test.

    Where the clock is blank: between the note's own clock and the typical ratio of cards of the family, within all of theirs.
    """
    if gpu.video_clock_max_mhz is not None:
        sources = (NOTE, f"video clock {gpu.video_clock_max_mhz:g} MHz, catalogue row {gpu.key}")
        return Span.of(gpu.video_clock_max_mhz / rate.video_clock_mhz, Evidence.CATALOGUE, *sources)
    ratios = sorted(_family_ratios(gpu.family)) or [1.0]
    typical = math.sqrt(ratios[(len(ratios) - 1) // 2])
    return Span(
        low=min(ratios[0], 1.0),
        nominal=typical,
        high=max(ratios[-1], 1.0),
        evidence=Evidence.BOUNDED,
        sources=(NOTE, "video clock: between the note's and that of known cards of the family"),
        missing=(f"video clock of {gpu.name}",),
    )


@functools.cache
def _family_ratios(family: str) -> frozenset[float]:
    """Video clocks of the family's known cards over their note clocks; of all cards where the family has none."""
    known = [gpu for gpu in all_gpus() if gpu.video_clock_max_mhz and gpu.nvdec_table_row]
    cards = [gpu for gpu in known if gpu.family == family] or known
    clocks = {row: rate.video_clock_mhz for (row, _, _), rate in note_rates().items()}
    return frozenset((gpu.video_clock_max_mhz or 0) / clocks[gpu.nvdec_table_row or ""] for gpu in cards)


def _engines(gpu: Gpu, given: int | None) -> Span:
    if given is not None:
        return Span.of(given, Evidence.ASSUMED, "decoder engines given by the user")
    if gpu.nvdec_count is not None:
        return Span.of(gpu.nvdec_count, Evidence.CATALOGUE, f"{gpu.nvdec_count} NVDEC, catalogue row {gpu.key}")
    cards, which = comparable(gpu, _nvdec_count)
    counts = [card.nvdec_count for card in cards if card.nvdec_count is not None]
    span = Span.around(
        counts, Evidence.BOUNDED, f"NVDEC engines: span over {len(counts)} {which}", missing=f"NVDEC engines of {gpu.name}"
    )
    near = nearest(gpu, _nvdec_count, cards)
    return span if near is None else replace(span, nominal=near)


def _nvdec_count(gpu: Gpu) -> float | None:
    return gpu.nvdec_count


def _by_vendor(gpu: Gpu, video: Video) -> Decoder | NoDecoder:
    """From the 1080p30 streams that the maker of a module publishes, in proportion to the macroblocks."""
    streams = _vendor_streams(gpu, video.codec)
    if streams is None:
        reason = f"nobody publishes how much {_kind(video)} {gpu.name} decodes"
        return NoDecoder(supported=None, reason=reason)
    rate = streams.scaled(STREAM_FPS * MACROBLOCKS_1080P / video.macroblock_count)
    spread = replace(constants().decoder, nominal=1.0)
    return Decoder(engines=Span.of(1, Evidence.CATALOGUE, "rate of the whole module"), engine_fps=rate.times(spread))


def _vendor_streams(gpu: Gpu, codec: Codec) -> Span | None:
    """1080p30 streams of *codec*: published for this module, or in proportion to its HEVC streams as on its relatives."""
    if (published := vendor_streams(gpu, codec)) is not None:
        return Span.of(published, Evidence.CATALOGUE, f"{published:g} 1080p30 {codec} streams, published for {gpu.name}")
    hevc = vendor_streams(gpu, Codec.HEVC)
    cards = [card for card in all_gpus() if card.architecture == gpu.architecture and card.unified_memory]
    pairs = [(vendor_streams(card, codec), vendor_streams(card, Codec.HEVC)) for card in cards]
    ratios = [streams / reference for streams, reference in pairs if streams and reference]
    if hevc is None or not ratios:
        return None
    source = f"{hevc:g} 1080p30 hevc streams, published for {gpu.name}, times {codec}'s share on {gpu.architecture} modules"
    return Span.around(ratios, Evidence.BOUNDED, source, missing=f"{codec} decode rate of {gpu.name}").scaled(hevc)


def vendor_streams(gpu: Gpu, codec: Codec) -> float | None:
    """The 1080p30 streams of *codec* that the vendor names for the whole device; None where it names none."""
    catalogue = {Codec.H264: gpu.h264_1080p30_stream_count, Codec.HEVC: gpu.h265_1080p30_stream_count}
    return _vendor_rows().get((gpu.key, codec), catalogue.get(codec))


@functools.cache
def _vendor_rows() -> dict[tuple[str, Codec], float]:
    with Path(__file__).with_name("vendor_decode.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["gpu_key"], Codec(row["codec"])): float(row["streams_1080p30"]) for row in csv.DictReader(file)}
    if min(rows.values()) <= 0:
        raise InternalError("vendor_decode.csv: a count is not positive")
    return rows


def _kind(video: Video) -> str:
    return f"{video.codec} {video.bit_depth}-bit" if video.bit_depth > 8 else str(video.codec)
