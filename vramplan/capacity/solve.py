"""One card, one load: the four limits, the smallest of them, and the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.capacity.compute import BATCHES, choose_batch, engine_fps
from vramplan.capacity.constants import constants
from vramplan.capacity.decode import Decoder, NoDecoder, decoder_of
from vramplan.capacity.limits import LIMITS, Limit
from vramplan.capacity.load import Load
from vramplan.capacity.pcie import pcie_limit
from vramplan.capacity.span import Span
from vramplan.capacity.vram import stream_bytes, usable, vram_limit
from vramplan.gpus import Gpu
from vramplan.ranges import Evidence, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """What one card carries. The counts are the smallest over the limits that are known, edge by edge.

    ``binding`` is the limit with the smallest nominal count, ``next_binding`` the one that follows it.
    Invariant: ``limits`` has all four names, and VRAM is always known.
    """

    gpu: Gpu
    load: Load
    usable: Range
    limits: Mapping[str, Limit]
    batch: int
    per_stream: Range

    def __post_init__(self) -> None:
        if tuple(self.limits) != LIMITS or not self.limits["vram"].is_known:
            raise ValueError(f"a plan with the limits {tuple(self.limits)}")

    @property
    def streams(self) -> int:
        """Streams that fit, nominal; of a mix, cameras in its proportions."""
        return self._smallest("nominal")

    @property
    def streams_low(self) -> int:
        """Streams that fit when every doubt goes against you."""
        return self._smallest("low")

    @property
    def streams_high(self) -> int:
        """Streams that fit when every doubt goes your way."""
        return self._smallest("high")

    @property
    def ranked(self) -> tuple[Limit, ...]:
        """The limits that are known, the smallest nominal count first."""
        known = [limit for limit in self.limits.values() if limit.is_known]
        return tuple(sorted(known, key=lambda limit: (limit.exact_nominal, LIMITS.index(limit.name))))

    @property
    def binding(self) -> str:
        """The limit that ends first."""
        return self.ranked[0].name

    @property
    def next_binding(self) -> Limit | None:
        """The limit that would end next, if the binding one were lifted."""
        return self.ranked[1] if len(self.ranked) > 1 else None

    @property
    def unknown(self) -> tuple[Limit, ...]:
        """Limits that exist and have no number: the answer holds only as far as they allow."""
        return tuple(limit for limit in self.limits.values() if limit.applies and not limit.is_known)

    @property
    def missing(self) -> tuple[str, ...]:
        """Facts of the card that would narrow the answer."""
        return tuple(dict.fromkeys(fact for limit in self.limits.values() for fact in limit.missing))

    @property
    def marginal_bytes_per_stream(self) -> int:
        """Nominal bytes that one more stream takes."""
        return self.per_stream.nominal_bytes

    def fits(self, required: int) -> bool:
        """Whether *required* streams fit, by the nominal count."""
        return self.streams >= required

    def _smallest(self, edge: str) -> int:
        counts = (getattr(limit, edge) for limit in self.limits.values() if limit.is_known)
        return min(int(count) for count in counts)


def solve(gpu: Gpu, load: Load, *, batch: int | None = None) -> CardPlan:
    """The four limits of *gpu* under *load*, at *batch*, else at the given or the best one."""
    decode, pcie = decode_limit(gpu, load), pcie_limit(gpu, load)
    batch = batch or load.topology.batch or _best_batch(gpu, load, decode, pcie)
    limits = {
        "vram": vram_limit(gpu, load, batch),
        "decode": decode,
        "compute": compute_limit(gpu, load, batch),
        "pcie": pcie,
    }
    return CardPlan(
        gpu=gpu, load=load, usable=usable(gpu, load), limits=limits, batch=batch, per_stream=stream_bytes(gpu, load, batch)
    )


def decode_limit(gpu: Gpu, load: Load) -> Limit:
    """Frames a second of the decoders; of a mix, engines and the engines that its average camera keeps busy."""
    if load.decode == "cpu":
        reason = "the CPU decodes: its speed is not modelled here, only what then crosses PCIe"
        return Limit(name="decode", unit="fps", capacity=None, demand=None, reason=reason)
    decoders = []
    for stream in load.streams:
        measured = load.given.readings.decode_fps(stream.video)
        decoder = decoder_of(
            gpu, stream.video, engine_count=load.given.nvdec_count, fps=load.given.decode_fps, measured=measured
        )
        if isinstance(decoder, NoDecoder):
            return _no_decoder(decoder)
        if decoder.engine_fps.high < stream.video.fps:
            rate = f"{decoder.engine_fps.high:.0f} fps"
            reason = f"one {stream.video} stream needs more than the {rate} of one engine of {gpu.name}"
            return Limit(name="decode", unit="fps", capacity=None, demand=None, reason=reason, forced_streams=0)
        decoders.append(decoder)
    if len(load.streams) == 1:
        video = load.streams[0].video
        demand = Span.of(video.fps, Evidence.EXACT)
        return Limit(name="decode", unit="fps", capacity=decoders[0].fps, demand=demand)
    return _mixed_decode(load, decoders)


def _no_decoder(decoder: NoDecoder) -> Limit:
    streams = 0 if decoder.supported is False else None
    return Limit(name="decode", unit="fps", capacity=None, demand=None, reason=decoder.reason, forced_streams=streams)


def _mixed_decode(load: Load, decoders: list[Decoder]) -> Limit:
    shares = list(zip(load.streams, decoders, strict=True))
    busy = [
        sum(stream.count * stream.video.fps / getattr(decoder.engine_fps, edge) for stream, decoder in shares) / load.count
        for edge in ("high", "nominal", "low")
    ]
    rates = [decoder.engine_fps for decoder in decoders]
    demand = Span(
        low=busy[0],
        nominal=busy[1],
        high=busy[2],
        evidence=Evidence.BOUNDED,
        sources=tuple(dict.fromkeys(source for rate in rates for source in rate.sources)),
        missing=tuple(dict.fromkeys(fact for rate in rates for fact in rate.missing)),
    )
    return Limit(name="decode", unit="engines", capacity=decoders[0].engines, demand=demand)


def compute_limit(gpu: Gpu, load: Load, batch: int) -> Limit:
    """Frames a second of the whole pipeline against those of the average camera that reach the models."""
    if load.given.infer_fps is not None:
        rate = Span.of(load.given.infer_fps, Evidence.ASSUMED, "inference rate given by the user")
    elif measured := load.given.readings.infer_rate(load.engines[0].precision):
        rate = measured.fps
    else:
        works = [engine.work for engine in load.engines]
        rate = engine_fps(works, gpu, batch).times(constants().pipeline)
    return Limit(name="compute", unit="fps", capacity=rate, demand=Span.of(load.infer_fps, Evidence.EXACT))


def _best_batch(gpu: Gpu, load: Load, decode: Limit, pcie: Limit) -> int:
    """The batch on the plateau, no larger than the streams that fit with it: a batch is one frame of each of them."""
    if load.topology.processes is None:
        return 1
    works = [engine.work for engine in load.engines]
    most = max(BATCHES)
    while True:
        batch = choose_batch(works, gpu, frame_ms=1000 / load.fastest_fps, most=most)
        limits = (decode, pcie, compute_limit(gpu, load, batch), vram_limit(gpu, load, batch))
        streams = min((limit.nominal for limit in limits if limit.nominal is not None), default=0)
        streams_each = max(1, streams // load.topology.contexts)
        if batch <= streams_each or batch == 1:
            return batch
        most = batch // 2
