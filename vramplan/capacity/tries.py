"""What would lift the limit that binds: changes that were solved again, never tips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vramplan.capacity.load import Engine, Load, Margin
from vramplan.capacity.solve import CardPlan, solve
from vramplan.gpus import Gpu, all_gpus
from vramplan.video import Codec, Stream

TRY_COUNT = 3
WORTH_RATIO = 1.1
"""A change that adds less than a tenth is not worth a line."""

Narrow = Callable[[], tuple[Engine, ...] | None]
"""The models at the next narrower precision; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A change that was solved: the flags to type ("" when it is no flag), the streams it leads to, and both in words."""

    flags: str
    streams_nominal: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    flags: str
    what: str
    load: Load
    gpu: Gpu


def tries(plan: CardPlan, narrow: Narrow) -> tuple[Try, ...]:
    """Up to three changes that carry more streams, what lifts the binding limit first."""
    found = []
    for change in _changes(plan, narrow):
        better = solve(change.gpu, change.load)
        if better.streams > max(plan.streams * WORTH_RATIO, plan.streams):
            found.append(_solved(change, better))
        if len(found) == TRY_COUNT:
            return tuple(found)
    if plan.streams:
        text = f"two of these cards: {2 * plan.streams_low}–{2 * plan.streams_high} streams, nominal {2 * plan.streams}"
        found.append(Try(flags="", streams_nominal=2 * plan.streams, text=text))
    return tuple(found)


def _solved(change: _Change, better: CardPlan) -> Try:
    counts = f"{better.streams_low}–{better.streams_high} streams, nominal {better.streams}; {better.binding} binds then"
    caveat = " (if the CPU keeps up)" if change.load.decode == "cpu" else ""
    text = f"{change.flags}: {counts}{caveat}" if change.flags else f"{change.what}: {counts}"
    return Try(flags=change.flags, streams_nominal=better.streams, text=text)


def _changes(plan: CardPlan, narrow: Narrow) -> Iterator[_Change]:
    yield from {"decode": _against_decode, "vram": _against_vram, "compute": _against_compute, "pcie": _against_pcie}[
        plan.binding
    ](plan, narrow)
    if other := _other_card(plan):
        yield _Change(flags=f"--gpu {other.key}", what=other.name, load=plan.load, gpu=other)


def _against_decode(plan: CardPlan, _: Narrow) -> Iterator[_Change]:
    load = plan.load
    for codec in (Codec.HEVC, Codec.H264, Codec.AV1):
        streams = tuple(map(_recoded(codec), load.streams))
        if streams != load.streams and len(load.streams) == 1:
            yield _change(plan, f"--codec {codec}", replace(load, streams=streams))
    slower = tuple(replace(stream, video=replace(stream.video, fps=stream.video.fps / 2)) for stream in load.streams)
    if len(slower) == 1:
        yield _change(plan, f"--video {str(slower[0].video).split()[0]}", replace(load, streams=slower))
    yield _change(plan, "--decode cpu", replace(load, decode="cpu"))


def _recoded(codec: Codec) -> Callable[[Stream], Stream]:
    def recode(stream: Stream) -> Stream:
        if stream.video.codec is codec or stream.video.bit_depth != 8:
            return stream
        return replace(stream, video=replace(stream.video, codec=codec))

    return recode


def _against_compute(plan: CardPlan, narrow: Narrow) -> Iterator[_Change]:
    load = plan.load
    factor = 2 * load.streams[0].infer_every
    skipping = tuple(replace(stream, infer_every=2 * stream.infer_every) for stream in load.streams)
    if len(skipping) == 1:
        yield _change(plan, f"--infer-every {factor}", replace(load, streams=skipping))
    if engines := narrow():
        yield _change(plan, f"--precision {engines[0].precision}", replace(load, engines=engines))


def _against_vram(plan: CardPlan, narrow: Narrow) -> Iterator[_Change]:
    load, topology = plan.load, plan.load.topology
    if topology.processes is None or topology.processes > 1:
        shared = replace(topology, processes=1, contexts=1 if topology.processes is None else topology.contexts)
        yield _change(plan, "--processes 1", replace(load, topology=shared))
    if topology.contexts > 1 and topology.processes == 1:
        yield _change(plan, "--contexts 1", replace(load, topology=replace(topology, contexts=1)))
    if load.margin.ratio > 0.1:
        yield _change(plan, "--margin 10%", replace(load, margin=Margin(ratio=0.1)))
    if engines := narrow():
        yield _change(plan, f"--precision {engines[0].precision}", replace(load, engines=engines))


def _against_pcie(plan: CardPlan, _: Narrow) -> Iterator[_Change]:
    if plan.load.decode == "cpu":
        yield _change(plan, "--decode gpu", replace(plan.load, decode="gpu"))


def _change(plan: CardPlan, flags: str, load: Load) -> _Change:
    return _Change(flags=flags, what=flags, load=load, gpu=plan.gpu)


def _other_card(plan: CardPlan) -> Gpu | None:
    """The card with no more memory that carries most, among those of which engines and rates are known."""
    if plan.gpu.unified_memory or plan.gpu.family == "custom" or plan.load.given != type(plan.load.given)():
        return None
    smaller = [gpu for gpu in all_gpus() if not gpu.unified_memory and gpu.vram_marketed_bytes <= plan.gpu.vram_marketed_bytes]
    complete = [gpu for gpu in smaller if gpu.nvdec_count and gpu.fp16_dense_tflops and gpu.key != plan.gpu.key]
    return max(complete, key=lambda gpu: (solve(gpu, plan.load).streams, gpu.key), default=None)
