"""How fast a card runs a model: the time of a batch, the batch to choose, frames a second.

::

    time = launches x cycles / clock                                  what every kernel costs before it does anything
         + (weights + batch x activations) / (bandwidth x share)      what travels through memory
         + batch x operations / (dense peak x share)                  what the tensor cores compute

The three parts are added: published speeds fit a sum better than the maximum of them, for the kernels of one network follow
each other and each is bound by something else. Five numbers are fitted (``constants.toml``); clock, bandwidth and peak are
the card's own.

Known limits: power and temperature are not modelled (a T4 rarely holds its clock); results that stay in a large cache make
small networks up to twice as fast as this says (MLPerf ResNet-50 on an L4 or an RTX 4090).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.capacity.constants import Constants, constants
from vramplan.capacity.facts import known
from vramplan.capacity.measured import bandwidth_gb_s, peak_tflops
from vramplan.capacity.span import Span
from vramplan.capacity.work import FrameWork
from vramplan.gpus import Gpu
from vramplan.ranges import Evidence

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Batches that ``auto`` chooses from: people build engines for powers of two."""

PLATEAU_RATIO = 0.95
"""A batch is on the plateau when it reaches this share of the speed of the largest allowed one."""

TF32_ARCHITECTURES = frozenset({"Ampere", "Ada Lovelace", "Hopper", "Blackwell"})
"""TensorRT runs 32-bit engines in TF32 on them by default, at half the FP16 rate with FP32 accumulation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What a card offers to one arithmetic: clock (MHz), bandwidth (GB/s) and dense peak (10^12 operations a second)."""

    clock_mhz: Span
    bandwidth_gb_s: Span
    peak_tflops: Span
    efficiency: float


def speeds(gpu: Gpu, arithmetic: str, fit: Constants | None = None) -> Speeds:
    """The clock, bandwidth and peak of *gpu*; blanks are spans over comparable cards; a calibration corrects the last two."""
    fit = fit or constants()
    return Speeds(
        clock_mhz=known(gpu, lambda card: card.boost_mhz, "boost clock"),
        bandwidth_gb_s=bandwidth_gb_s(gpu, known(gpu, lambda card: card.memory_bandwidth_gb_s, "memory bandwidth")),
        peak_tflops=peak_tflops(gpu, arithmetic, _peak(gpu, arithmetic)),
        efficiency=fit.efficiency(arithmetic),
    )


def batch_ms(work: FrameWork, speed: Speeds, batch: int, fit: Constants | None = None) -> Span:
    """Milliseconds for *batch* frames at the card's lowest, nominal and highest speeds; published speeds spread further."""
    fit = fit or constants()
    facts = (speed.clock_mhz, speed.bandwidth_gb_s, speed.peak_tflops)
    per_unit = _units(work, batch, speed.efficiency, fit)
    slow, nominal, fast = (sum(map(_quotient, per_unit, edge)) for edge in zip(*map(_edges, facts), strict=True))
    return Span(
        low=fast,
        nominal=nominal,
        high=slow,
        evidence=Evidence.BOUNDED,
        sources=tuple(dict.fromkeys(source for fact in facts for source in fact.sources)),
        missing=tuple(dict.fromkeys(name for fact in facts for name in fact.missing)),
    )


def engine_fps(works: Sequence[FrameWork], gpu: Gpu, batch: int, fit: Constants | None = None) -> Span:
    """Frames a second that pass through all of *works*, one after the other, with the spread of published speeds."""
    fit = fit or constants()
    times = [batch_ms(work, speeds(gpu, work.arithmetic, fit), batch, fit) for work in works]
    slow, nominal, fast = (1000 * batch / sum(edge) for edge in zip(*((t.high, t.nominal, t.low) for t in times), strict=True))
    rate = Span(
        low=slow,
        nominal=nominal,
        high=fast,
        evidence=Evidence.BOUNDED,
        sources=(*dict.fromkeys(source for time in times for source in time.sources), *_EAGER * any(w.is_eager for w in works)),
        missing=tuple(dict.fromkeys(name for time in times for name in time.missing)),
    )
    return rate.times(fit.engine)


_EAGER = ("speeds are those of TensorRT engines: eager PyTorch is slower, measure it and give --infer-fps",)
"""What a reader has to know about the compute limit of a module."""


def choose_batch(works: Sequence[FrameWork], gpu: Gpu, *, frame_ms: float, most: int) -> int:
    """The smallest batch on the plateau of speed.

    Only batches of at most *most* frames count, and of those the ones that run within *frame_ms*, the time between two
    frames of a stream: a batch that takes longer would fall behind. One frame is always allowed.
    """
    allowed = [1]
    for batch in BATCHES[1:]:
        time = sum(batch_ms(work, speeds(gpu, work.arithmetic), batch).nominal for work in works)
        if batch <= most and time <= frame_ms:
            allowed.append(batch)
    rates = {batch: engine_fps(works, gpu, batch).nominal for batch in allowed}
    return min(batch for batch in allowed if rates[batch] >= PLATEAU_RATIO * max(rates.values()))


def _edges(span: Span) -> tuple[float, float, float]:
    return span.low, span.nominal, span.high


def _quotient(amount: float, rate: float) -> float:
    return amount / rate


def _units(work: FrameWork, batch: int, efficiency: float, fit: Constants) -> tuple[float, float, float]:
    """What a batch needs of clock, bandwidth and peak: divided by MHz, GB/s and 10^12 a second it is milliseconds."""
    return (
        work.launch_count * fit.cycles_per_launch / 1e3,
        (work.weight_bytes + batch * work.activation_bytes) / (1e6 * fit.bandwidth_efficiency),
        batch * work.matrix_flops / (1e9 * efficiency),
    )


def _peak(gpu: Gpu, arithmetic: str) -> Span:
    """The dense peak for *arithmetic*; where a card has no units for it, what TensorRT falls back to."""
    if arithmetic == "fp8" and gpu.fp8_dense_tflops is not None:
        return known(gpu, lambda card: card.fp8_dense_tflops, "FP8 peak")
    if arithmetic == "int8" and (gpu.int8_dense_tops is not None or gpu.fp16_dense_tflops is None):
        return known(gpu, lambda card: card.int8_dense_tops, "INT8 peak")
    if arithmetic == "fp32" or (arithmetic == "bf16" and gpu.architecture not in {*TF32_ARCHITECTURES, None}):
        return known(gpu, _fp32_peak, "FP32 peak")
    return _fp16_peak(gpu)


def _fp16_peak(gpu: Gpu) -> Span:
    """GeForce cards halve the rate when they accumulate in FP32; kernels of both kinds run, so nominal lies between.

    Cards whose FP16 units are slower than their FP32 units (GeForce GTX 10, P4, P40) compute in FP32.
    """
    fast = known(gpu, lambda card: _at_least_fp32(card, card.fp16_dense_tflops), "dense FP16 peak")
    slow = known(gpu, lambda card: _at_least_fp32(card, card.fp16_fp32acc_dense_tflops), "dense FP16 peak")
    return Span(
        low=min(slow.low, fast.low),
        nominal=math.sqrt(slow.nominal * fast.nominal),
        high=fast.high,
        evidence=fast.evidence,
        sources=fast.sources,
        missing=fast.missing,
    )


def _at_least_fp32(gpu: Gpu, rate: float | None) -> float | None:
    return None if rate is None else max(rate, gpu.fp32_tflops or 0.0)


def _fp32_peak(gpu: Gpu) -> float | None:
    tensor = gpu.fp16_fp32acc_dense_tflops if gpu.architecture in TF32_ARCHITECTURES else None
    rates = [rate for rate in (gpu.fp32_tflops, tensor and tensor / 2) if rate is not None]
    return max(rates, default=None)
