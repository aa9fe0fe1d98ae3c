"""What a browser may ask, read from a query string as if from a stranger: every key, name and number is checked.

A question is what goes to the process that answers it, and the key under which its answer is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from vramplan.choosing import RUNTIMES
from vramplan.errors import UsageError, close_matches, show
from vramplan.fleet import DEFAULT_MARGIN, DEFAULT_MODEL, DEFAULT_PRECISION, DEFAULT_VIDEO, read_margin
from vramplan.gpus import custom_gpu, find_gpu
from vramplan.options import MEMORY_FORMATS
from vramplan.precision import find_policy
from vramplan.units import parse_bytes
from vramplan.verdict import LARGEST_BATCH
from vramplan.video import parse_codec, parse_video

MOST_STREAMS = 100_000
MOST_FRAMES_SKIPPED = 1_000
MAX_DIM = 1 << 40
MAX_TEXT = 300
MAX_SIZES = 32

AUTO = "auto"

Pairs = Iterable[tuple[str, str]]

_SHAPE = re.compile(r"\d{1,13}(x\d{1,13}){0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A model that may be read: a built-in one by its name, or a file by its path. ``stamp`` changes when the file does."""

    name: str
    path: str | None = None
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the model's file leaves open: named dimensions, and whole shapes by input."""

    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuestion:
    """Which model it is, and what can be chosen for it."""

    model: Named


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateQuestion:
    """What it takes; with ``advice`` also what would help. ``batch`` None leaves it to the file."""

    model: Named
    runtime: str | None
    precision: str
    batch: int | None
    gpu: str | None
    vram_bytes: int | None
    memory_format: str | None
    sizes: Sizes
    advice: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsQuestion:
    """How many streams a card carries; with ``advice`` also what would carry more."""

    model: Named
    precision: str
    batch: int | str
    gpu: str | None
    vram_bytes: int | None
    video: str
    codec: str
    infer_every: int
    margin: str | float
    require: int | None
    sizes: Sizes
    advice: bool


Question = ModelQuestion | EstimateQuestion | StreamsQuestion
FindModel = Callable[[str], Named]


def key_of(question: Question) -> str:
    """The question as JSON: the same for the same question, and what the process that answers it reads."""
    return json.dumps({"ask": type(question).__name__, **asdict(question)}, sort_keys=True)


def read_key(text: str) -> Question:
    """The question behind a key of `key_of`."""
    given = json.loads(text)
    kind = {each.__name__: each for each in (ModelQuestion, EstimateQuestion, StreamsQuestion)}[given.pop("ask")]
    model = given.pop("model")
    named = Named(name=model["name"], path=model["path"], stamp=tuple(model["stamp"]))
    if "sizes" in given:
        sizes = given.pop("sizes")
        given["sizes"] = Sizes(dims=sizes["dims"], shapes={name: tuple(shape) for name, shape in sizes["shapes"].items()})
    return kind(model=named, **given)


def read_model(pairs: Pairs, find: FindModel) -> ModelQuestion:
    """``?model=yolov8s``."""
    asked = _Asked.of(pairs, ("model",))
    return ModelQuestion(model=find(asked.text("model") or DEFAULT_MODEL))


def read_estimate(pairs: Pairs, find: FindModel) -> EstimateQuestion:
    """``?model=…&runtime=…&precision=…&batch=…&gpu=…``; see `ESTIMATE_KEYS`."""
    asked = _Asked.of(pairs, ESTIMATE_KEYS)
    gpu, vram_bytes = _card(asked)
    return EstimateQuestion(
        model=find(asked.text("model") or DEFAULT_MODEL),
        runtime=asked.one_of("runtime", RUNTIMES),
        precision=find_policy(asked.text("precision") or "as-is").name,
        batch=asked.whole("batch", LARGEST_BATCH),
        gpu=gpu,
        vram_bytes=vram_bytes,
        memory_format=asked.one_of("memory_format", MEMORY_FORMATS),
        sizes=_sizes(asked),
        advice=asked.one_of("advice", ("yes", "no")) == "yes",
    )


def read_streams(pairs: Pairs, find: FindModel) -> StreamsQuestion:
    """``?model=…&precision=…&gpu=…&video=1080p30&codec=h264&batch=auto&require=12``; see `STREAMS_KEYS`."""
    asked = _Asked.of(pairs, STREAMS_KEYS)
    gpu, vram_bytes = _card(asked)
    video, codec = asked.text("video") or DEFAULT_VIDEO, parse_codec(asked.text("codec") or "h264")
    parse_video(video, codec=codec)
    margin = asked.text("margin") or DEFAULT_MARGIN
    read_margin(margin)
    return StreamsQuestion(
        model=find(asked.text("model") or DEFAULT_MODEL),
        precision=find_policy(asked.text("precision") or DEFAULT_PRECISION).name,
        batch=AUTO if asked.text("batch") in {None, AUTO} else asked.whole("batch", LARGEST_BATCH) or AUTO,
        gpu=gpu,
        vram_bytes=vram_bytes,
        video=video,
        codec=codec.value,
        infer_every=asked.whole("infer_every", MOST_FRAMES_SKIPPED) or 1,
        margin=margin,
        require=asked.whole("require", MOST_STREAMS),
        sizes=_sizes(asked),
        advice=asked.one_of("advice", ("yes", "no")) == "yes",
    )


_COMMON = ("model", "precision", "batch", "gpu", "vram", "dim", "shape", "advice")
ESTIMATE_KEYS = (*_COMMON, "runtime", "memory_format")
STREAMS_KEYS = (*_COMMON, "video", "codec", "infer_every", "margin", "require")
_REPEATED = frozenset({"dim", "shape"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """The pairs of a query by key. Empty values count as not given."""

    values: Mapping[str, list[str]]

    @classmethod
    def of(cls, pairs: Pairs, known: Iterable[str]) -> _Asked:
        values: dict[str, list[str]] = {}
        for key, text in pairs:
            if key not in known:
                raise UsageError(f"unknown parameter {show(key[:MAX_TEXT])}", hint=close_matches(key[:MAX_TEXT], known))
            if len(text) > MAX_TEXT:
                raise UsageError(f"{key}: {len(text)} characters are too many", hint=f"At most {MAX_TEXT}.")
            if key in values and key not in _REPEATED:
                raise UsageError(f"{key} is there twice", hint="Name it once.")
            if text.strip():
                values.setdefault(key, []).append(text.strip())
            if len(values.get(key, ())) > MAX_SIZES:
                raise UsageError(f"{key} is there more than {MAX_SIZES} times")
        return cls(values)

    def text(self, key: str) -> str | None:
        return self.values[key][0] if key in self.values else None

    def one_of(self, key: str, known: Iterable[str]) -> str | None:
        text = self.text(key)
        if text is not None and text not in known:
            raise UsageError(f"{key}: unknown value {show(text)}", hint=close_matches(text, known))
        return text

    def whole(self, key: str, most: int) -> int | None:
        text = self.text(key)
        return None if text is None else _whole(text, key, most)


def _whole(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise UsageError(f"{what}: {show(text)} is not a whole number from 1 to {most}", hint="Write it in digits, like 8.")
    return int(text)


def _card(asked: _Asked) -> tuple[str | None, int | None]:
    """A card of the catalogue by its key, or the memory of one that is not listed."""
    name, vram = asked.text("gpu"), asked.text("vram")
    if vram is None:
        return (None if name is None else find_gpu(name).key), None
    if name is not None:
        raise UsageError("gpu and vram exclude each other", hint="vram is for a card that is not listed.")
    vram_bytes = parse_bytes(vram, what="vram")
    custom_gpu(vram_bytes)
    return None, vram_bytes


def _sizes(asked: _Asked) -> Sizes:
    """``dim=height=640`` and ``shape=images:1x3x640x640``, each as often as needed."""
    dims, shapes = dict[str, int](), dict[str, tuple[int, ...]]()
    for text in asked.values.get("dim", ()):
        name, equals, size = text.rpartition("=")
        if not (name and equals):
            raise UsageError(f"dim: {show(text)} is not NAME=SIZE", hint="Write it like height=640.")
        dims[name] = _whole(size, f"dim {name}", MAX_DIM)
    for text in asked.values.get("shape", ()):
        name, colon, written = text.rpartition(":")
        if not (name and colon and _SHAPE.fullmatch(written)):
            raise UsageError(f"shape: {show(text)} is not NAME:SHAPE", hint="Write it like images:1x3x640x640.")
        shapes[name] = tuple(map(int, written.split("x")))
    return Sizes(dims=dims, shapes=shapes)
