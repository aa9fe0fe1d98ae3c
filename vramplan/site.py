"""``vramplan.toml``: the models of a repository, what each may take, and the site they run at.

::

    [site]
    gpu = "3090"
    margin = "20%"             # the rest is for `vramplan streams`
    video = "1080p30"
    codec = "hevc"

    [[model]]
    model = "detector.onnx"
    batch = [1, 8]
    precision = "fp16"
    budget = "2GiB"
    tolerance = "3%"
    dims = { height = 640, width = 640 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.choosing import RUNTIMES
from vramplan.errors import UsageError, close_matches, printable, show
from vramplan.lockfile import MAX_AXES, MAX_BATCH, MAX_DIM, MAX_MODELS, MAX_NAMES
from vramplan.options import MEMORY_FORMATS
from vramplan.precision import find_policy
from vramplan.units import parse_bytes, parse_share

SITE_FILE = "vramplan.toml"
MAX_FILE_BYTES = 1 << 20
DEFAULT_TOLERANCE_RATIO = 0.05

SITE_KEYS = ("gpu", "margin", "video", "codec", "bit_depth", "infer_every")
MODEL_KEYS = (
    "model", "batch", "precision", "runtime", "memory_format", "gpu", "shapes", "dims", "budget", "tolerance",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteModel:
    """One ``[[model]]``: lists where a cell is wanted for each item; None in a list: what the model or vramplan decides.

    Invariant: no list is empty.
    """

    model: str
    batches: tuple[int | None, ...]
    precisions: tuple[str, ...]
    runtimes: tuple[str | None, ...]
    memory_format: str | None
    gpu: str | None
    shapes: Mapping[str, tuple[int, ...]]
    dims: Mapping[str, int]
    budget_bytes: int | None
    tolerance_ratio: float

    def __post_init__(self) -> None:
        if not (self.batches and self.precisions and self.runtimes):
            raise ValueError("a model without cells")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The whole file; None for what ``[site]`` does not say."""

    path: Path
    models: tuple[SiteModel, ...] = ()
    gpu: str | None = None
    margin: str | None = None
    video: str | None = None
    codec: str | None = None
    bit_depth: int | None = None
    infer_every: int | None = None


def find_site(folder: Path) -> Site | None:
    """The site of *folder*; None without a file. Errors as `read_site`."""
    path = folder / SITE_FILE
    return read_site(path) if path.exists() else None


def read_site(path: Path) -> Site:
    """The file at *path*. `UsageError` for what is not TOML, unknown keys, and values that make no sense."""
    where = show(path.name)
    table = _load(path, where)
    _check_keys(table, ("site", "model"), where)
    site = table.get("site", {})
    if not isinstance(site, dict):
        raise UsageError(f"{where}: site is not a table", hint='Write it like [site] and gpu = "3090" below.')
    _check_keys(site, SITE_KEYS, f"{where}, [site]")
    models = table.get("model", [])
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise UsageError(f"{where}: model is not a list of tables", hint='Write [[model]] and model = "yolov8s" below.')
    if len(models) > MAX_MODELS:
        raise UsageError(f"{where} has {len(models):,} models, more than {MAX_MODELS}", hint="Use several folders.")
    texts = {key: _text(site, key, f"{where}, [site]") for key in SITE_KEYS[:4]}
    counts = {key: _whole(site, key, f"{where}, [site]", most=1000) for key in SITE_KEYS[4:]}
    read = tuple(_model(model, f"{where}, model {index}", texts["gpu"]) for index, model in enumerate(models, start=1))
    return Site(path=path, models=read, **texts, **counts)  # type: ignore[arg-type]


def _load(path: Path, where: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}", hint="Check the file.") from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{where} is larger than {MAX_FILE_BYTES:,} bytes", hint="It should name models and a site.")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not TOML: {printable(str(error))[:200]}", hint="See docs/how-to/gate-ci.md.") from None


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {show(key)}", hint=close_matches(key[:80], known))


def _model(table: Mapping[str, Any], where: str, gpu: str | None) -> SiteModel:
    _check_keys(table, MODEL_KEYS, where)
    name = _text(table, "model", where)
    if not name:
        raise UsageError(f"{where}: model is not named", hint='Write it like model = "yolov8s".')
    where = f"{where} ({show(name)})"
    budget, tolerance = _text(table, "budget", where), _text(table, "tolerance", where)
    precisions = [find_policy(word).name for word in _words(table, "precision", where)]
    return SiteModel(
        model=name,
        batches=_batches(table, where),
        precisions=_distinct(precisions, f"{where}: precision") or ("as-is",),
        runtimes=_runtimes(table, where) or (None,),
        memory_format=_choice(_text(table, "memory_format", where), MEMORY_FORMATS, f"{where}: memory_format"),
        gpu=_text(table, "gpu", where) or gpu,
        shapes=_shapes(table, where),
        dims={dim: _size(size, f"{where}: dims.{printable(dim)[:80]}") for dim, size in _table(table, "dims", where).items()},
        budget_bytes=None if budget is None else _memory(budget, f"{where}: budget"),
        tolerance_ratio=DEFAULT_TOLERANCE_RATIO if tolerance is None else parse_share(tolerance, what=f"{where}: tolerance"),
    )


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UsageError(f"{where}: {key} must be text in one line", hint=f'Write it like {key} = "…".')
    return value


def _whole(table: Mapping[str, Any], key: str, where: str, *, most: int) -> int | None:
    return None if key not in table else _size(table[key], f"{where}: {key}", most=most)


def _size(value: Any, what: str, *, most: int = MAX_DIM) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most}", hint="Write it in digits, like 8.")
    return value


def _memory(text: str, what: str) -> int:
    size_bytes = parse_bytes(text, what=what)
    if size_bytes == 0:
        raise UsageError(f"{what}: {show(text)} is no memory at all", hint="Write it like 8GiB.")
    return size_bytes


def _items(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key, [])
    return value if isinstance(value, list) else [value]


def _batches(table: Mapping[str, Any], where: str) -> tuple[int | None, ...]:
    sizes = [_size(value, f"{where}: batch", most=MAX_BATCH) for value in _items(table, "batch")]
    _distinct([str(size) for size in sizes], f"{where}: batch")
    return tuple(sizes) or (None,)


def _words(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    words = _items(table, key)
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise UsageError(f"{where}: {key} must be text, or a list of texts", hint=f'Write it like {key} = "…".')
    return [word.strip().lower() for word in words]


def _runtimes(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    words = _words(table, "runtime", where)
    for word in words:
        _choice(word, RUNTIMES, f"{where}: runtime")
    return _distinct(words, f"{where}: runtime")


def _distinct(words: list[str], what: str) -> tuple[str, ...]:
    repeated = next((word for index, word in enumerate(words) if word in words[:index]), None)
    if repeated is not None:
        raise UsageError(f"{what}: {show(repeated)} is there twice", hint="Name each once.")
    return tuple(words)


def _choice(word: str | None, known: tuple[str, ...], what: str) -> str | None:
    if word is not None and word not in known:
        raise UsageError(f"{what}: {show(word)} is not known", hint=close_matches(word[:80], known))
    return word


def _table(table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict) or len(value) > MAX_NAMES:
        raise UsageError(f"{where}: {key} must be a table of names", hint=f"Write it like {key} = {{ height = 640 }}.")
    return value


def _shapes(table: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, shape in _table(table, "shapes", where).items():
        if not isinstance(shape, list) or len(shape) > MAX_AXES:
            raise UsageError(
                f"{where}: shapes.{printable(name)[:80]} must be a list", hint="Write it like { images = [1, 3, 640, 640] }."
            )
        shapes[name] = tuple(_size(size, f"{where}: shapes.{printable(name)[:80]}") for size in shape)
    return shapes
