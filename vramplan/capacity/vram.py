"""How many streams the memory of a card holds.

::

    usable - margin  >=  processes x (CUDA context + weights)  +  contexts x (activations, workspace, bindings at the batch)
                         + streams x (decode session + frames on their way + extra)

*Usable* is what CUDA can allocate on an idle card, never the size on the box. With a process for each stream the first two
parts are paid by every stream.
"""

from __future__ import annotations

from dataclasses import replace

from vramplan.capacity.limits import Limit
from vramplan.capacity.load import EngineMemory, Load, Topology
from vramplan.capacity.sessions import PROCESS_BYTES, session_bytes_on
from vramplan.capacity.span import Span
from vramplan.gpus import Gpu, context_bytes, usable_bytes, usable_reason
from vramplan.ranges import Evidence, Range, weakest
from vramplan.video import Stream

FRAMES_WAITING = (2, 4, 8)
"""Decoded frames of a stream that wait for the model or are being resized: low – nominal – high. DeepStream's muxer keeps
four by default."""


def usable(gpu: Gpu, load: Load) -> Range:
    """The bytes to plan with: the card's, or what the user says CUDA can allocate."""
    if load.given.vram_bytes is None:
        return usable_bytes(gpu)
    size = load.given.vram_bytes
    return Range(low_bytes=size, nominal_bytes=size, high_bytes=size, evidence=Evidence.ASSUMED)


def vram_limit(gpu: Gpu, load: Load, batch: int) -> Limit:
    """Bytes beside what is paid once, and bytes of the average stream."""
    once, per_stream = _once(gpu, load, batch), stream_bytes(gpu, load, batch)
    have = usable(gpu, load)
    left = tuple(
        max(0, total - load.margin.of(total) - used)
        for total, used in (
            (have.low_bytes, once.high_bytes),
            (have.nominal_bytes, once.nominal_bytes),
            (have.high_bytes, once.low_bytes),
        )
    )
    source = usable_reason(gpu).removesuffix(".") if load.given.vram_bytes is None else "memory given by the user"
    capacity = Span(
        low=left[0],
        nominal=left[1],
        high=left[2],
        evidence=weakest((have.evidence, once.evidence)),
        sources=(source, f"margin {load.margin}"),
    )
    return Limit(name="vram", unit="bytes", capacity=capacity, demand=_span(per_stream, _session_sources(gpu, load)))


def stream_bytes(gpu: Gpu, load: Load, batch: int) -> Range:
    """What the average stream of the mix takes; with a process per stream, the process too."""
    streams = [_scaled(_own_bytes(gpu, stream, load), stream.count) for stream in load.streams]
    mean = _scaled(_sum(streams), 1, load.count)
    return mean + _process(gpu, load, batch) if load.topology.processes is None else mean


def _own_bytes(gpu: Gpu, stream: Stream, load: Load) -> Range:
    frame = stream.video.frame_bytes
    waiting = Range(
        low_bytes=FRAMES_WAITING[0] * frame,
        nominal_bytes=FRAMES_WAITING[1] * frame,
        high_bytes=FRAMES_WAITING[2] * frame,
        evidence=Evidence.ASSUMED,
    )
    own = waiting + load.extra
    return own + session_bytes_on(gpu, stream.video)[0] if load.decode == "gpu" else own


def _session_sources(gpu: Gpu, load: Load) -> tuple[str, ...]:
    """What decode sessions are known by, for each kind of camera."""
    if load.decode != "gpu":
        return ()
    found = [session_bytes_on(gpu, stream.video)[1] for stream in load.streams]
    rule = "the rule fitted to H200 readings"
    return tuple(dict.fromkeys(f"decode session by {rule if each is None else each.source}" for each in found))


def _once(gpu: Gpu, load: Load, batch: int) -> Range:
    if load.topology.processes is None:
        return Range.exact(0)
    return _scaled(_shared(gpu, load, batch), load.topology.processes) + _scaled(
        _activations(load, batch), load.topology.contexts
    )


def _process(gpu: Gpu, load: Load, batch: int) -> Range:
    """A process with one execution context."""
    return _shared(gpu, load, batch) + _activations(load, batch)


def _shared(gpu: Gpu, load: Load, batch: int) -> Range:
    """What a process pays before its first execution context: CUDA, the weights of its models, the decoder's own part."""
    weights = _sum([memory.weights for memory in _memories(load, batch)])
    context = _scaled(context_bytes(gpu, "tensorrt"), len(load.engines) if load.topology.separate_models else 1)
    own = context + weights
    return own + Range.exact(PROCESS_BYTES) if load.decode == "gpu" else own


def _activations(load: Load, batch: int) -> Range:
    return _sum([memory.context for memory in _memories(load, batch)])


def _memories(load: Load, batch: int) -> list[EngineMemory]:
    return [engine.memory(batch) for engine in load.engines]


def _sum(sizes: list[Range]) -> Range:
    return sum(sizes[1:], start=sizes[0])


def _scaled(size: Range, factor: int, divisor: int = 1) -> Range:
    return replace(
        size,
        low_bytes=size.low_bytes * factor // divisor,
        nominal_bytes=size.nominal_bytes * factor // divisor,
        high_bytes=size.high_bytes * factor // divisor,
    )


def _span(size: Range, sessions: tuple[str, ...]) -> Span:
    return Span(
        low=size.low_bytes,
        nominal=size.nominal_bytes,
        high=size.high_bytes,
        evidence=size.evidence,
        sources=(*sessions, "frames waiting and extra are assumptions"),
    )


def fits_topology(topology: Topology) -> str:
    """The arrangement in words: ``1 process, 2 contexts``."""
    if topology.processes is None:
        return "a process per stream"
    processes = f"{topology.processes} process{'es' if topology.processes > 1 else ''}"
    return f"{processes}, {topology.contexts} context{'s' if topology.contexts > 1 else ''}"
