"""What calibrations know of a card's speed, with a band around each number: a measurement is of one clip, one size, one day.

Rates that were measured while other programs used the card are left out: they are too low, and nobody knows by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

from vramplan.capacity.constants import constants
from vramplan.capacity.span import Span
from vramplan.gpus import CalibratedDecode, Calibration, Gpu, calibrations_of
from vramplan.ranges import Evidence
from vramplan.video import Video

T = TypeVar("T")

MACROBLOCK_PX = 16

CLIP_RATIO = math.sqrt(1.22 / 0.94)
"""How far another clip may lie from the measured one. Clips of three sizes and two codecs on one H200 decode at 0.94 to 1.22 of
NVIDIA's note (benchmarks/data/nvdec_h200.csv): half that span, 1.14, to either side."""

SIZE_RATIO = 1.26
"""What another picture size adds: macroblocks a second of the 2160p clip over those of the 720p clip on that H200
(752 x 32,400 / (5,380 x 3,600))."""

SATURATED_RATIO = 1.1
"""Decoders are busy when the largest number of sessions is faster than the next smaller one by no more than this."""

BUSY_RATIO = 0.9
"""Decoders that were busy for less of the time waited for the program that fed them."""

PRODUCT_SHARE = (0.6, 0.85, 1.0)
"""What share of the dense peak a large matrix product reaches, low – nominal – high: from 0.6 on cards that their power limits
to all of it on cards whose catalogue rate is at a modest clock. An assumption; it turns what was achieved into a peak."""

COPY_SHARE = (0.8, 0.9, 1.0)
"""The same for a large copy on the device and the bandwidth of the memory. An assumption: refresh and turns of the bus take
their part."""


def first_known(gpu: Gpu, part: Callable[[Calibration], T | None]) -> tuple[T, Calibration] | None:
    """*part* of the first undisturbed calibration of *gpu* that has it."""
    for calibration in calibrations_of(gpu.key):
        value = None if calibration.disturbed else part(calibration)
        if value:
            return value, calibration
    return None


def decode_fps(gpu: Gpu, video: Video) -> Span | None:
    """Frames a second of the whole card for *video*, from the measured clip of its codec nearest in size; None without one.

    Calibrations are of 8-bit video. Where the decoders were not busy yet with the most sessions that ran, the number is what
    they do at least: the high end is then the caller's to raise, and ``missing`` says so.
    """
    found = first_known(gpu, lambda calibration: tuple(_clips(calibration, video))) if video.bit_depth == 8 else None
    if found is None:
        return None
    clips, calibration = found
    nearest = min(clips, key=lambda clip: _distance(clip, video))
    runs = sorted((clip for clip in clips if _size(clip) == _size(nearest)), key=lambda clip: clip.sessions)
    best = max(runs, key=lambda run: run.fps)
    ratio = CLIP_RATIO if _macroblocks(nearest) == video.macroblock_count else CLIP_RATIO * SIZE_RATIO
    nominal = best.fps * _macroblocks(best) / video.macroblock_count
    clip = f"{best.codec} {best.width} x {best.height}, {best.sessions} sessions"
    return Span(
        low=nominal / ratio,
        nominal=nominal,
        high=nominal * ratio,
        evidence=Evidence.MEASURED,
        sources=(f"{best.fps:,.0f} fps of {clip}, {calibration.source}",),
        missing=() if _is_saturated(runs) else (f"decode rate of {gpu.name} with more sessions",),
    )


def session_bytes(gpu: Gpu, video: Video) -> tuple[CalibratedDecode, Calibration] | None:
    """The clip with the most sessions whose memory was read, of the codec of *video* and nearest to it in size.

    Memory of other programs is subtracted, so that disturbed calibrations serve too.
    """
    if video.bit_depth != 8:
        return None
    for calibration in calibrations_of(gpu.key):
        clips = [clip for clip in _clips(calibration, video) if clip.session_bytes]
        if clips:
            return min(clips, key=lambda clip: (_distance(clip, video), -clip.sessions)), calibration
    return None


def peak_tflops(gpu: Gpu, arithmetic: str, catalogued: Span) -> Span:
    """The dense peak for *arithmetic*, corrected by what a large matrix product of that type achieved here."""
    names = {"fp32": ("tf32", "fp32"), "bf16": ("bf16", "fp16")}.get(arithmetic, (arithmetic,))
    found = first_known(gpu, lambda calibration: max((calibration.compute.get(name, 0.0) for name in names), default=0.0))
    return catalogued if found is None else _corrected(catalogued, *found, PRODUCT_SHARE, "10^12 op/s")


def bandwidth_gb_s(gpu: Gpu, catalogued: Span) -> Span:
    """The memory bandwidth, corrected by what a large copy achieved here."""
    found = first_known(gpu, lambda calibration: calibration.memory_bandwidth_gb_s)
    return catalogued if found is None else _corrected(catalogued, *found, COPY_SHARE, "GB/s")


def pcie_gb_s(gpu: Gpu) -> Span | None:
    """What copies reach over PCIe: nominal the slower direction from pinned memory, low from pageable memory.

    Where only one of them was measured the others are as far from it as on other cards.
    """
    found = first_known(gpu, lambda calibration: calibration.pcie.to_gpu_pinned_gb_s)
    if found is None:
        return None
    to_gpu, calibration = found
    usual, rates = constants().pcie, calibration.pcie
    nominal = min(to_gpu, rates.from_gpu_pinned_gb_s or to_gpu)
    return Span(
        low=min(nominal, rates.to_gpu_pageable_gb_s or nominal * usual.low / usual.nominal),
        nominal=nominal,
        high=max(to_gpu, rates.from_gpu_pinned_gb_s or 0.0, nominal * usual.high / usual.nominal),
        evidence=Evidence.MEASURED,
        sources=(f"copies of pinned memory at {nominal:.1f} GB/s, {calibration.source}; the low end is pageable memory",),
    )


def _corrected(
    catalogued: Span, achieved: float, calibration: Calibration, share: tuple[float, float, float], unit: str
) -> Span:
    """The peak behind an *achieved* rate: achieved over the usual share, and no more than a peak that the catalogue knows.

    A known peak is an upper limit. GeForce has two for 16 bits, and PyTorch's products run at the slower one: both are scaled.
    """
    low, nominal, high = (achieved / part for part in reversed(share))
    source = f"{achieved:,.4g} {unit} achieved, {calibration.source}"
    if catalogued.missing:
        return Span(low=low, nominal=nominal, high=high, evidence=Evidence.MEASURED, sources=(source,))
    factors = [min(1.0, edge / catalogued.low) for edge in (low, nominal, high)]
    edges = (catalogued.low, catalogued.nominal, catalogued.high)
    low, nominal, high = (edge * factor for edge, factor in zip(edges, factors, strict=True))
    return Span(low=low, nominal=nominal, high=high, evidence=Evidence.MEASURED, sources=(*catalogued.sources, source))


def _clips(calibration: Calibration, video: Video) -> Iterator[CalibratedDecode]:
    return (clip for clip in calibration.decode if clip.codec == video.codec.value)


def _distance(clip: CalibratedDecode, video: Video) -> float:
    return abs(math.log(_macroblocks(clip) / video.macroblock_count))


def _macroblocks(clip: CalibratedDecode) -> int:
    return math.ceil(clip.width / MACROBLOCK_PX) * math.ceil(clip.height / MACROBLOCK_PX)


def _size(clip: CalibratedDecode) -> tuple[int, int]:
    return clip.width, clip.height


def _is_saturated(runs: list[CalibratedDecode]) -> bool:
    """Whether more sessions than the last but one made hardly a difference, and the decoders were busy where that is known."""
    is_busy = any(run.decoder_ratio is None or run.decoder_ratio >= BUSY_RATIO for run in runs[-2:])
    return len(runs) > 1 and is_busy and runs[-1].fps <= SATURATED_RATIO * runs[-2].fps
