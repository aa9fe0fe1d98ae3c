"""From a model, a card and a camera to the number of streams, in a straight line: engines → load → limits → plan."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from vramplan.capacity import DEFAULT_EXTRA, CardPlan, Engine, Given, Limit, Load, Margin, Topology
from vramplan.capacity.solve import solve as solve_card
from vramplan.capacity.tries import Try, tries
from vramplan.device.this_gpu import find_card
from vramplan.errors import UsageError
from vramplan.fleet_measured import Subject, open_bench
from vramplan.gpus import Gpu, all_gpus, custom_gpu
from vramplan.opened import Opened, open_engine
from vramplan.options import ModelLike, Options, Shapes
from vramplan.precision import NARROWER, find_policy
from vramplan.progress import tell
from vramplan.ranges import Evidence, Range
from vramplan.result import ModelFacts
from vramplan.showing import Shown
from vramplan.sources.torch_spec import is_torch_model
from vramplan.units import parse_bytes
from vramplan.video import Codec, Stream, Video, parse_stream, parse_video

DEFAULT_MODEL = "yolov8s"
DEFAULT_PRECISION = "fp16"
DEFAULT_VIDEO = "1080p30"
DEFAULT_MARGIN = 0.30

Models: TypeAlias = "ModelLike | Opened | Sequence[ModelLike | Opened]"
Cards = str | Gpu | Sequence[str | Gpu]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsPlan(Shown):
    """How many streams each card carries, and why.

    The counts and limits of the plan itself are those of the first card; ``cards`` has them all, in the order asked, or
    ranked when all cards were asked for. ``required`` is the count that must fit (None: just asking).

    Invariant: there is a card.
    """

    models: tuple[ModelFacts, ...]
    cards: tuple[CardPlan, ...]
    required: int | None
    tries: tuple[Try, ...]

    def __post_init__(self) -> None:
        if not self.cards:
            raise ValueError("a plan without cards")

    @property
    def card(self) -> CardPlan:
        """The first card."""
        return self.cards[0]

    @property
    def streams(self) -> int:
        """Streams that fit, nominal."""
        return self.card.streams

    @property
    def streams_low(self) -> int:
        """Streams that fit when every doubt goes against you."""
        return self.card.streams_low

    @property
    def streams_high(self) -> int:
        """Streams that fit when every doubt goes your way."""
        return self.card.streams_high

    @property
    def binding(self) -> str:
        """The limit that ends first: vram, decode, compute or pcie."""
        return self.card.binding

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The four limits by name."""
        return self.card.limits

    @property
    def fits(self) -> bool | None:
        """Whether the required streams fit on any of the cards; None when none are required."""
        return None if self.required is None else any(card.fits(self.required) for card in self.cards)


def streams(
    model: Models = DEFAULT_MODEL,
    *,
    gpu: Cards | None = None,
    video: str | Video = DEFAULT_VIDEO,
    codec: str | Codec = Codec.H264,
    bit_depth: int = 8,
    mix: Sequence[str | Stream] = (),
    precision: str = DEFAULT_PRECISION,
    margin: float | str = DEFAULT_MARGIN,
    batch: int | str = "auto",
    processes: int | str = 1,
    contexts: int | None = None,
    separate_models: bool = False,
    infer_every: int = 1,
    per_stream_extra: int | str | None = None,
    decode: str = "gpu",
    require: int | None = None,
    nvdec: int | None = None,
    decode_fps: float | None = None,
    infer_fps: float | None = None,
    vram: int | str | None = None,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    allow_pickle: bool = False,
    measure: bool = False,
    advise: bool = True,
) -> StreamsPlan:
    """How many video streams a card carries with *model* looking at them, and what stops the next one.

    model             what `vramplan.estimate` takes; several run one after the other on every frame; ONNX models run on
                      TensorRT, modules in eager PyTorch; one that `vramplan.opened` has read keeps its precision and sizes
    gpu               a card or several, ``"auto"`` for this machine's; ``"all"`` ranks the catalogue; with *vram* alone
                      a card of which only that is known
    video, codec      every camera's: ``"1080p30"``, ``"4k25"``; h264, hevc, av1, vp9 or mjpeg; *bit_depth* 8, 10 or 12
    mix               cameras of several kinds instead: ``["12x1080p30/h264", "4x4k25/hevc"]``; the answer scales the mix
    margin            kept free of the usable memory: 0.3, ``"30%"`` or ``"2GiB"``
    batch             frames the engine takes at once; ``"auto"`` is the smallest on the plateau of speed
    processes         each pays for CUDA and the weights; ``"per-stream"`` is one for every camera
    contexts          execution contexts over all processes (default: one a process); each has its own activations
    separate_models   whether several models live in processes of their own
    infer_every       the model sees every n-th frame
    per_stream_extra  tracker, queues and the like, in bytes or as ``"20MiB"``
    decode            ``"gpu"`` or ``"cpu"``: who decodes, which decides what crosses PCIe
    require           streams that must fit
    nvdec, decode_fps, infer_fps, vram   what you measured: decoder engines, decode and inference frames a second of the
                      whole card, bytes that CUDA can allocate
    shapes, dims      sizes of the model's inputs, as in `vramplan.estimate`
    allow_pickle      whether a pickled ``.pt`` may be loaded, which runs code from the file
    measure           whether this machine's GPU, which *gpu* must be then, decodes clips and runs the models in eager
                      PyTorch, for the rates that are not given; takes minutes
    advise            whether changes that carry more are solved too; takes longer than the answer itself

    Raises `UsageError` for arguments that make no sense and `ModelError` for a model that cannot be read; with *measure*
    also `MachineError` when there is no GPU, and `MeasurementError`.
    """
    cameras = _cameras(mix, video, codec, bit_depth, infer_every)
    options = Options.of(shapes=shapes, dims=dims, allow_pickle=allow_pickle)
    bench = open_bench(Subject.of(_models(model), precision, options), gpu, infer_fps=infer_fps) if measure else None
    gpu = bench.machine.gpu if bench else find_card(gpu) if isinstance(gpu, str) and gpu != "all" else gpu
    card = gpu if isinstance(gpu, Gpu) else None
    engines, facts = _engines(model, precision, replace(options, gpu=card))
    fixed = [engine.batch for engine in engines if engine.batch is not None]
    load = Load(
        streams=cameras,
        engines=tuple(engine.engine for engine in engines),
        topology=_topology(batch, processes, contexts, separate_models=separate_models, fixed=fixed),
        margin=read_margin(margin),
        extra=_extra(per_stream_extra),
        decode=decode,
        given=Given(nvdec_count=nvdec, decode_fps=decode_fps, infer_fps=infer_fps, vram_bytes=_bytes(vram, "VRAM")),
    )
    required = _required(require, load, is_mix=bool(mix))
    plans = (bench.solve(load),) if bench else _solved(gpu, load)
    narrow = functools.partial(_narrower, engines, precision, is_measured=plans[0].load.given.readings.infer is not None)
    found = tries(plans[0], narrow) if advise and len(plans) == 1 else ()
    return StreamsPlan(models=facts, cards=plans, required=required, tries=found)


def _solved(gpu: Cards | None, load: Load) -> tuple[CardPlan, ...]:
    """One plan a card, in their order; the whole catalogue by streams."""
    cards = _cards(gpu, load.given.vram_bytes)
    plans: list[CardPlan] = []
    for card in cards:
        tell(f"cameras on {card.name}", done=len(plans), total=len(cards))
        plans.append(solve_card(card, load))
    if gpu != "all":
        return tuple(plans)
    return tuple(sorted(plans, key=lambda plan: (-plan.streams, -plan.streams_low, plan.gpu.key)))


def _engines(model: Models, precision: str, options: Options) -> tuple[list[Opened], tuple[ModelFacts, ...]]:
    policy = find_policy(precision).name
    opened = [each if isinstance(each, Opened) else open_engine(each, policy, options) for each in _models(model)]
    facts = tuple(each.facts for each in opened)
    return opened, facts


def _models(model: Models) -> list[Any]:
    is_one = isinstance(model, str | bytes | Opened) or hasattr(model, "__fspath__") or is_torch_model(model)
    models: list[Any] = [model] if is_one else list(model)  # type: ignore[arg-type]
    if not models:
        raise UsageError("no model is named", hint="Try yolov8s, or name an .onnx file.")
    return models


def _narrower(opened: Sequence[Opened], precision: str, *, is_measured: bool) -> tuple[Engine, ...] | None:
    """The models at the next narrower precision; none beside a measured one, for a measured and a modelled speed differ."""
    narrower = None if is_measured else NARROWER.get(find_policy(precision).name)
    return tuple(replace(each, precision=narrower[0]).engine for each in opened) if narrower else None


def _cameras(
    mix: Sequence[str | Stream], video: str | Video, codec: str | Codec, bit_depth: int, infer_every: int
) -> tuple[Stream, ...]:
    if mix:
        read = functools.partial(parse_stream, codec=codec, bit_depth=bit_depth, infer_every=infer_every)
        return tuple(each if isinstance(each, Stream) else read(each) for each in mix)
    chosen = video if isinstance(video, Video) else parse_video(video, codec=codec, bit_depth=bit_depth)
    return (Stream(video=chosen, infer_every=infer_every),)


def _topology(
    batch: int | str, processes: int | str, contexts: int | None, *, separate_models: bool, fixed: Sequence[int]
) -> Topology:
    count = None if processes == "per-stream" else _whole(processes, "processes", "a number, or per-stream")
    size = None if batch == "auto" else _whole(batch, "batch", "a number, or auto")
    for own in fixed:
        if size not in (None, own):
            raise UsageError(f"batch {size}: the model's file fixes the batch to {own}", hint="Export it with a dynamic batch.")
        size = own
    return Topology(
        processes=count, contexts=(count or 1) if contexts is None else contexts, batch=size, separate_models=separate_models
    )


def _whole(value: int | str, what: str, allowed: str) -> int:
    if isinstance(value, int) or (value.isascii() and value.isdigit() and len(value) < 10):
        return int(value)
    raise UsageError(f"{what} {value[:40]!r} is not {allowed}", hint=f"Write it like --{what} 4")


def read_margin(margin: float | str) -> Margin:
    """``0.3``, ``"30%"`` or ``"2GiB"``. `UsageError` for a share of 100 % and more, and for nonsense."""
    if isinstance(margin, int | float):
        return Margin(ratio=float(margin)) if 0 <= margin < 1 else _bad_margin(f"{margin:g}")
    text = margin.strip()
    share = text.removesuffix("%").strip()
    if not text.endswith("%"):
        return Margin(size_bytes=parse_bytes(text, what="margin"))
    try:
        ratio = float(share) / 100
    except ValueError:
        return _bad_margin(margin)
    return Margin(ratio=ratio) if 0 <= ratio < 1 else _bad_margin(margin)


def _bad_margin(text: str) -> Margin:
    raise UsageError(f"margin {text[:40]!r} is not a share below 100 % or a size", hint="Write it like 30% or 2GiB.")


def _bytes(size: int | str | None, what: str) -> int | None:
    return None if size is None else parse_bytes(size, what=what)


def _extra(size: int | str | None) -> Range:
    given = _bytes(size, "per-stream extra")
    if given is None:
        return DEFAULT_EXTRA
    return Range(low_bytes=given, nominal_bytes=given, high_bytes=given, evidence=Evidence.ASSUMED)


def _required(require: int | None, load: Load, *, is_mix: bool) -> int | None:
    """What must fit: asked for, or the size of the mix when it names counts."""
    required = require if require is not None else load.count if is_mix and load.count > 1 else None
    if required is not None and required < 1:
        raise UsageError(f"require {required} makes no sense", hint="Name at least one stream.")
    batch = load.topology.batch
    if required is not None and batch is not None and batch > required:
        raise UsageError(f"batch {batch} is larger than the {required} streams", hint="A batch holds one frame of each stream.")
    return required


def _cards(gpu: Cards | None, vram_bytes: int | None) -> tuple[Gpu, ...]:
    if gpu == "all":
        return all_gpus()
    if gpu is None:
        if vram_bytes is None:
            raise UsageError("no card is named", hint="Write it like --gpu 3090; `vramplan gpus` lists the cards.")
        return (custom_gpu(vram_bytes),)
    names = [gpu] if isinstance(gpu, str | Gpu) else list(gpu)
    cards = tuple(dict.fromkeys(name if isinstance(name, Gpu) else find_card(name) for name in names))
    if not cards:
        raise UsageError("no card is named", hint="Write it like --gpu 3090; `vramplan gpus` lists the cards.")
    return cards
