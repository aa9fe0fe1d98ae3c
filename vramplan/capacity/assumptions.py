"""What a plan takes for granted: each default with its value, where it is from, and the flag that changes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vramplan.capacity.constants import constants
from vramplan.capacity.load import names_of
from vramplan.capacity.measured import decode_fps, pcie_gb_s
from vramplan.capacity.readings import InferRate
from vramplan.capacity.solve import CardPlan
from vramplan.capacity.span import Span
from vramplan.capacity.vram import FRAMES_WAITING
from vramplan.ranges import Evidence
from vramplan.units import format_bytes
from vramplan.video import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """One premise. ``flag`` is the command-line option that overrides it, "" where none does."""

    name: str
    value: str
    flag: str
    evidence: Evidence
    source: str


def assumptions(plan: CardPlan) -> tuple[Assumption, ...]:
    """Every premise of *plan* that a user may know better."""
    return (*_asked(plan), *_modelled(plan))


def _asked(plan: CardPlan) -> Iterator[Assumption]:
    load, topology = plan.load, plan.load.topology
    processes = "per-stream" if topology.processes is None else str(topology.processes)
    chosen = "smallest on the plateau of speed" if topology.batch is None else "given, or fixed by the model's file"
    extra = load.extra.nominal_bytes
    yield _premise("model", names_of(load.engines), "MODEL", "what looks at the frames")
    yield _premise("precision", load.engines[0].precision, "--precision", f"{load.engines[0].runtime} engine")
    yield _premise("video", ", ".join(map(describe, load.streams)), "--video, --codec, --stream", "cameras")
    yield _premise("margin", str(load.margin), "--margin", "kept free of the usable memory")
    yield _premise("batch", str(plan.batch), "--batch", chosen)
    yield _premise("processes", processes, "--processes", "each pays for CUDA and the weights")
    yield _premise("contexts", str(topology.contexts), "--contexts", "each has activations of its own")
    yield _premise("per_stream_extra", format_bytes(extra), "--per-stream-extra", "tracker, queues")
    yield _premise("decode", load.decode, "--decode", "who decodes the video")


def _modelled(plan: CardPlan) -> Iterator[Assumption]:
    load, fit = plan.load, constants()
    waiting = f"{FRAMES_WAITING[0]}–{FRAMES_WAITING[1]}–{FRAMES_WAITING[2]}"
    yield _premise("frames_waiting", waiting, "", "decoded frames of a stream between decoder and model")
    measured = load.given.readings.infer_rate(load.engines[0].precision)
    if load.given.infer_fps is None:
        if measured is None:
            yield _ratio("engine_over_model", fit.engine, "--infer-fps")
        else:
            yield _measured(measured)
        yield _ratio("pipeline_over_engine", fit.pipeline, "--infer-fps")
    videos = [stream.video for stream in load.streams]
    uses_note = any((load.given.readings.decode_fps(video) or decode_fps(plan.gpu, video)) is None for video in videos)
    if load.given.decode_fps is None and load.decode == "gpu" and uses_note:
        yield _ratio("decoder_over_note", fit.decoder, "--decode-fps")
    if pcie_gb_s(plan.gpu) is None:
        yield _ratio("pcie_over_raw", fit.pcie, "")


def describe(stream: Stream) -> str:
    """``1080p30 h264``, ``12 × 2160p25 hevc``, with the frames that are skipped."""
    text = str(stream) if stream.count > 1 else str(stream.video)
    return text if stream.infer_every == 1 else f"{text}, every {_ordinal(stream.infer_every)} frame"


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else last}"


def _premise(name: str, value: str, flag: str, source: str) -> Assumption:
    return Assumption(name=name, value=value, flag=flag, evidence=Evidence.ASSUMED, source=source)


def _measured(rate: InferRate) -> Assumption:
    return Assumption(
        name="inference",
        value=f"measured with {rate.how} at batch {rate.batch}: TensorRT is usually faster",
        flag="--infer-fps",
        evidence=rate.fps.evidence,
        source=rate.fps.sources[0],
    )


def _ratio(name: str, span: Span, flag: str) -> Assumption:
    value = f"{span.low:g}–{span.nominal:g}–{span.high:g}"
    return Assumption(name=name, value=value, flag=flag, evidence=span.evidence, source=span.sources[0])
