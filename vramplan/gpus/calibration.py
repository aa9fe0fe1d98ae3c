"""What was measured once on a GPU and its driver, in a file of our own: contexts, decode rates, achieved speeds.

The format is described in docs/how-to/calibrate.md. A file may come from anybody: it is read within limits, and becomes a
`Calibration` that holds its invariants, or a ValueError that says where and which value.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from vramplan.errors import close_matches, printable, show
from vramplan.strict_json import (
    MAX_TEXT_CHARS,
    check_keys,
    items_of,
    number_of,
    object_of,
    read_object,
    shown,
    text_of,
    whole_of,
)

FORMAT = "vramplan-calibration"
SCHEMA_VERSION = 1

MAX_FILE_BYTES = 1 << 20
MAX_ROWS = 1_000

MAX_MEMORY_BYTES = 1 << 43
"""8 TiB are more than any GPU has."""

MAX_FPS, MAX_TFLOPS, MAX_GB_S = 1e7, 1e6, 1e6
"""Beyond any card of this decade by a factor of ten and more: a larger number is a mistake or an attack."""

MAX_SIDE_PX, MAX_SESSIONS, MAX_SM = 16_384, 4_096, 100_000

RUNTIMES = ("torch", "onnxruntime", "tensorrt")
STAGES = ("context", "first_tensor", "first_convolution", "first_gemm")
"""Moments of a process: the bare CUDA context, then the first tensor, convolution and matrix product."""

CODECS = ("h264", "hevc", "av1", "vp9", "mjpeg")
COMPUTE_DTYPES = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
ENVIRONMENT = ("driver", "cuda", "torch", "cudnn", "python", "platform", "date", "command")

_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedGpu:
    """The card: ``key`` is the catalogue's where it has the card, else made of the driver's name for it.

    Invariant: the key is lower-case letters, digits and hyphens; sizes are positive where they are known.
    """

    key: str
    name: str
    compute_capability: str | None = None
    sm_count: int | None = None
    nvidia_smi_total_bytes: int | None = None
    cuda_visible_total_bytes: int | None = None

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"gpu.key is {show(self.key)}, not lower-case letters, digits and hyphens")
        if 0 in (self.sm_count, self.nvidia_smi_total_bytes, self.cuda_visible_total_bytes):
            raise ValueError("gpu: a count or a size is 0; leave it out where it is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedContext:
    """What a process of *runtime* held at *stage* beside what it had allocated. Invariant: context_bytes > 0."""

    runtime: str
    stage: str
    context_bytes: int

    def __post_init__(self) -> None:
        if self.context_bytes <= 0:
            raise ValueError(f"context: {self.runtime} at {self.stage} takes {self.context_bytes:,} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedDecode:
    """Frames a second of *sessions* decoders together, 8 bits a sample, and what each session after the first took.

    ``decoder_ratio`` is how busy the driver said the decoders were: well below 1, the program could not feed them.
    Invariant: there is a session, and sides have at least 16 px, which is the least that decoders take.
    """

    codec: str
    width: int
    height: int
    sessions: int
    fps: float
    session_bytes: int | None = None
    decoder_ratio: float | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 16 or self.sessions < 1 or self.session_bytes == 0:
            raise ValueError(f"decode: {self.sessions} sessions of {self.width} x {self.height} make no sense")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedPcie:
    """Copies in 10^9 bytes a second, from pinned (page-locked) and pageable memory of the host."""

    to_gpu_pinned_gb_s: float | None = None
    to_gpu_pageable_gb_s: float | None = None
    from_gpu_pinned_gb_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one machine knows of its card. An empty part was not measured.

    compute                 operations in 10^12 a second of a large matrix product, by type
    memory_bandwidth_gb_s   bytes that a large copy on the device reads and writes, 10^9 a second
    cublas_workspace_bytes  what the first matrix product of a PyTorch process takes from its allocator, and keeps
    disturbed               whether other programs used the card: its rates are then too low
    notes                   what was left out, and why

    Invariant: nothing is there twice (a stage of a runtime, a type, a codec at one size and number of sessions), and the
    environment names driver, torch and a date (ISO 8601).
    """

    gpu: CalibratedGpu
    environment: Mapping[str, str]
    context: tuple[CalibratedContext, ...] = ()
    cublas_workspace_bytes: int | None = None
    decode: tuple[CalibratedDecode, ...] = ()
    compute: Mapping[str, float] = field(default_factory=dict)
    memory_bandwidth_gb_s: float | None = None
    pcie: CalibratedPcie = CalibratedPcie()
    disturbed: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_once("context", [(row.runtime, row.stage) for row in self.context])
        _check_once("decode", [(row.codec, row.width, row.height, row.sessions) for row in self.decode])
        for name in ("driver", "torch", "date"):
            if not self.environment.get(name):
                raise ValueError(f"environment has no {name!r}")
        try:
            datetime.datetime.fromisoformat(self.environment["date"])
        except ValueError:
            raise ValueError(f"environment.date is {show(self.environment['date'])}, not a date like 2026-01-31") from None

    @property
    def driver(self) -> str:
        """The driver's version."""
        return self.environment["driver"]

    @property
    def torch(self) -> str:
        """PyTorch's version."""
        return self.environment["torch"]

    @property
    def date(self) -> str:
        """The day it was measured, as 2026-01-31."""
        return datetime.datetime.fromisoformat(self.environment["date"]).date().isoformat()

    @property
    def source(self) -> str:
        """Where its numbers are from, for a report: card, driver, torch and day."""
        return f"calibration of {self.gpu.name}, driver {self.driver}, torch {self.torch}, {self.date}"

    @property
    def file_name(self) -> str:
        """Under which it is stored: ``<gpu key>_<driver>_<torch version>.json``, of harmless characters."""
        versions = (re.sub(r"[^A-Za-z0-9.+-]", "-", text)[:60] for text in (self.driver, self.torch))
        return "_".join((self.gpu.key, *versions)) + ".json"

    def context_at(self, runtime: str, stage: str) -> int | None:
        """The bytes of *runtime*'s context at *stage*; None where they were not measured."""
        return next((row.context_bytes for row in self.context if (row.runtime, row.stage) == (runtime, stage)), None)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration. ValueError that says what is wrong, and `ModelError` when there is no such file."""
    return calibration_of(read_object(path, max_bytes=MAX_FILE_BYTES))


def calibration_of(content: Mapping[str, Any]) -> Calibration:
    """The calibration that decoded JSON describes. ValueError that says where it is wrong."""
    if content.get("format") != FORMAT:
        raise ValueError(f"its key 'format' is {shown(content.get('format'))}, not '{FORMAT}'")
    if type(content.get("schema_version")) is not int or content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is {shown(content.get('schema_version'))}; this vramplan reads {SCHEMA_VERSION}")
    parts = [part.name for part in fields(Calibration)]
    check_keys(content, where="it", required=("format", "schema_version", *parts[:2]), optional=parts[2:])
    pcie = object_of(content.get("pcie") or {}, "pcie")
    rates = [rate.name for rate in fields(CalibratedPcie)]
    check_keys(pcie, where="pcie", optional=rates)
    disturbed = content.get("disturbed", False)
    if not isinstance(disturbed, bool):
        raise ValueError(f"disturbed is {shown(disturbed)}, neither true nor false")
    return Calibration(
        gpu=_gpu(object_of(content["gpu"], "gpu")),
        environment=_environment(object_of(content["environment"], "environment")),
        context=tuple(_contexts(content.get("context"))),
        cublas_workspace_bytes=_size(content.get("cublas_workspace_bytes"), "cublas_workspace_bytes"),
        decode=tuple(_decodes(content.get("decode"))),
        compute=_compute(content.get("compute")),
        memory_bandwidth_gb_s=_rate(content.get("memory_bandwidth_gb_s"), "memory_bandwidth_gb_s"),
        pcie=CalibratedPcie(**{name: _rate(pcie.get(name), f"pcie.{name}") for name in rates}),
        disturbed=disturbed,
        notes=tuple(text_of(note, f"notes[{index}]") for index, note in enumerate(_items(content.get("notes"), "notes"))),
    )


def calibration_content(calibration: Calibration) -> dict[str, Any]:
    """The JSON object of *calibration*, in which unknown parts are null or empty; control characters in texts are escaped."""
    content: dict[str, Any] = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(calibration)}
    content["gpu"]["name"] = _clean(calibration.gpu.name)
    content["environment"] = {key: _clean(text) for key, text in calibration.environment.items()}
    content["compute"] = [{"dtype": dtype, "tflops": tflops} for dtype, tflops in calibration.compute.items()]
    content["notes"] = list(map(_clean, calibration.notes))
    return content


def calibration_text(calibration: Calibration) -> str:
    """*calibration* as the text of its file, for people too."""
    return json.dumps(calibration_content(calibration), indent=1) + "\n"


def _gpu(content: dict[str, Any]) -> CalibratedGpu:
    names = [part.name for part in fields(CalibratedGpu)]
    check_keys(content, where="gpu", required=names[:2], optional=names[2:])
    capability, sm_count = content.get("compute_capability"), content.get("sm_count")
    return CalibratedGpu(
        key=text_of(content["key"], "gpu.key"),
        name=text_of(content["name"], "gpu.name"),
        compute_capability=None if capability is None else text_of(capability, "gpu.compute_capability"),
        sm_count=None if sm_count is None else whole_of(sm_count, "gpu.sm_count", most=MAX_SM),
        nvidia_smi_total_bytes=_size(content.get("nvidia_smi_total_bytes"), "gpu.nvidia_smi_total_bytes"),
        cuda_visible_total_bytes=_size(content.get("cuda_visible_total_bytes"), "gpu.cuda_visible_total_bytes"),
    )


def _environment(content: dict[str, Any]) -> dict[str, str]:
    check_keys(content, where="environment", optional=ENVIRONMENT)
    return {key: text_of(value, f"environment.{key}") for key, value in content.items()}


def _contexts(value: Any) -> Iterator[CalibratedContext]:
    for where, row in _rows(value, "context", required=("runtime", "stage", "context_bytes")):
        yield CalibratedContext(
            runtime=_word(row["runtime"], f"{where}.runtime", RUNTIMES),
            stage=_word(row["stage"], f"{where}.stage", STAGES),
            context_bytes=whole_of(row["context_bytes"], f"{where}.context_bytes", most=MAX_MEMORY_BYTES),
        )


def _decodes(value: Any) -> Iterator[CalibratedDecode]:
    required = ("codec", "width", "height", "sessions", "fps")
    for where, row in _rows(value, "decode", required=required, optional=("session_bytes", "decoder_ratio")):
        yield CalibratedDecode(
            codec=_word(row["codec"], f"{where}.codec", CODECS),
            width=whole_of(row["width"], f"{where}.width", most=MAX_SIDE_PX),
            height=whole_of(row["height"], f"{where}.height", most=MAX_SIDE_PX),
            sessions=whole_of(row["sessions"], f"{where}.sessions", most=MAX_SESSIONS),
            fps=number_of(row["fps"], f"{where}.fps", most=MAX_FPS),
            session_bytes=_size(row.get("session_bytes"), f"{where}.session_bytes"),
            decoder_ratio=_ratio(row.get("decoder_ratio"), f"{where}.decoder_ratio"),
        )


def _compute(value: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for where, row in _rows(value, "compute", required=("dtype", "tflops")):
        dtype = _word(row["dtype"], f"{where}.dtype", COMPUTE_DTYPES)
        if dtype in found:
            raise ValueError(f"compute: {dtype} is there twice")
        found[dtype] = number_of(row["tflops"], f"{where}.tflops", most=MAX_TFLOPS)
    return found


def _rows(
    value: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the list *value* under its place, with the keys it must and may have."""
    for index, row in enumerate(_items(value, where)):
        place = f"{where}[{index}]"
        check_keys(object_of(row, place), where=place, required=required, optional=optional)
        yield place, row


def _items(value: Any, where: str) -> list[Any]:
    return [] if value is None else items_of(value, where, most=MAX_ROWS)


def _word(value: Any, where: str, known: tuple[str, ...]) -> str:
    """*value*, one of *known*."""
    word = text_of(value, where)
    if word not in known:
        raise ValueError(f"{where} is {show(word)}. {close_matches(word[:80], known)}".strip())
    return word


def _size(value: Any, where: str) -> int | None:
    return None if value is None else whole_of(value, where, most=MAX_MEMORY_BYTES)


def _rate(value: Any, where: str) -> float | None:
    return None if value is None else number_of(value, where, most=MAX_GB_S)


def _ratio(value: Any, where: str) -> float | None:
    return 0.0 if value == 0 and type(value) in (int, float) else None if value is None else number_of(value, where, most=1.0)


def _check_once(where: str, keys: list[tuple[T, ...]]) -> None:
    twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        raise ValueError(f"{where}: {', '.join(map(str, twice))} is there twice")


def _clean(text: str) -> str:
    return printable(text)[:MAX_TEXT_CHARS]
