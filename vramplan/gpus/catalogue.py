"""The cards: one row of ``catalogue.csv`` each, with a source for every cell that is not blank."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from vramplan.errors import InternalError
from vramplan.showing import Shown
from vramplan.units import GIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(Shown):
    """One card, or one of the GPUs of a card that has several. ``None`` is unknown, never zero.

    ``vram_marketed_bytes`` is the size on the box (its "GB" are GiB), ``nvidia_smi_total_bytes`` what nvidia-smi
    calls total, ``cuda_visible_total_bytes`` what ``cudaMemGetInfo`` calls total on Linux. Tensor rates are dense, in
    10^12 operations a second: ``fp16_dense_tflops`` at the faster accumulation, ``fp16_fp32acc_dense_tflops`` with
    FP32 accumulation (half of it on GeForce). ``nvdec_table_row`` names the row of NVIDIA's decoder note that holds;
    the ``*_stream_count`` are a vendor's 1080p30 streams for the whole device. ``source`` says where the cells are
    from, part by part, and ``*_confidence`` (high, medium, low) how sure two of them are.

    Invariant: nvidia-smi shows no more than is marketed, and CUDA sees no more than nvidia-smi shows.
    """

    key: str
    name: str
    family: str
    architecture: str | None = None
    compute_capability: str | None = None
    sm_count: int | None = None
    boost_mhz: float | None = None
    memory_type: str | None = None
    vram_marketed_bytes: int
    nvidia_smi_total_bytes: int | None = None
    nvidia_smi_confidence: str | None = None
    cuda_visible_total_bytes: int | None = None
    unified_memory: bool = False
    memory_bandwidth_gb_s: float | None = None
    fp32_tflops: float | None = None
    fp16_dense_tflops: float | None = None
    fp16_fp32acc_dense_tflops: float | None = None
    int8_dense_tops: float | None = None
    fp8_dense_tflops: float | None = None
    tensor_basis: str | None = None
    pcie_generation: int | None = None
    pcie_lane_count: int | None = None
    nvdec_generation: str | None = None
    nvdec_count: int | None = None
    nvdec_confidence: str | None = None
    nvdec_table_row: str | None = None
    video_clock_max_mhz: float | None = None
    h264_1080p30_stream_count: int | None = None
    h265_1080p30_stream_count: int | None = None
    notes: str | None = None
    source: str

    def __post_init__(self) -> None:
        sizes = (self.vram_marketed_bytes, self.nvidia_smi_total_bytes, self.cuda_visible_total_bytes)
        known = [size for size in sizes if size is not None]
        if known != sorted(known, reverse=True):
            raise ValueError(f"{self.key}: marketed, nvidia-smi and CUDA-visible bytes must not grow: {known}")


class Catalogue(tuple[Gpu, ...], Shown):
    """Cards, in the order of their file."""

    __slots__ = ()


@functools.cache
def all_gpus() -> Catalogue:
    """Every card of the catalogue, in the order of the file. The file is read on the first call."""
    return parse_catalogue(Path(__file__).with_name("catalogue.csv").read_text(encoding="utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    """Read the CSV *text* of a catalogue, strictly: a broken cell raises `InternalError` with its row and column."""
    rows = csv.DictReader(text.splitlines(), strict=True)
    if tuple(rows.fieldnames or ()) != tuple(column for column, _, _ in _COLUMNS):
        raise InternalError(f"GPU catalogue: unexpected columns {rows.fieldnames}")
    gpus = Catalogue(_gpu(row, f"GPU catalogue line {rows.line_num}") for row in rows)
    if len({gpu.key for gpu in gpus}) != len(gpus):
        raise InternalError("GPU catalogue: a key appears twice")
    return gpus


def _gpu(row: Mapping[str, str | None], where: str) -> Gpu:
    cells = {field: _cell(row, column, read, where) for column, field, read in _COLUMNS}
    try:
        return Gpu(**cells)  # type: ignore[arg-type]  # _COLUMNS pairs each field with the reader of its type
    except ValueError as error:
        raise InternalError(f"{where}: {error}") from error


def _cell(row: Mapping[str, str | None], column: str, read: Callable[[str], object], where: str) -> object:
    text = row[column]
    if text is None or None in row:
        raise InternalError(f"{where}: wrong number of cells, seen at column {column}")
    if not text:
        if column in _REQUIRED:
            raise InternalError(f"{where}, column {column}: empty")
        return None
    try:
        return read(text)
    except ValueError as error:
        raise InternalError(f"{where}, column {column}: cannot read {text!r}") from error


def _yes_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(text)
    return int(text)


def _bytes_of(unit_bytes: int) -> Callable[[str], int]:
    """A reader of sizes in a binary unit, to the byte: ``48508.9375`` MiB is a whole number of bytes."""

    def read(text: str) -> int:
        size_bytes = _positive(text) * unit_bytes
        if not size_bytes.is_integer():
            raise ValueError(text)
        return int(size_bytes)

    return read


_IN_BYTES: dict[str, tuple[str, int]] = {
    "vram_marketed_bytes": ("vram_marketed_gib", GIB),
    "nvidia_smi_total_bytes": ("nvidia_smi_total_mib", MIB),
    "cuda_visible_total_bytes": ("cuda_visible_total_mib", MIB),
}
"""Sizes stand in the file as their sources print them, in GiB or MiB; in the program they are bytes."""

_READERS: dict[str, Callable[[str], object]] = {
    "str": str, "str | None": str, "int": _count, "int | None": _count, "float | None": _positive, "bool": _yes_no,
}  # fmt: skip


def _column(name: str, annotation: str) -> tuple[str, str, Callable[[str], object]]:
    if name in _IN_BYTES:
        column, unit_bytes = _IN_BYTES[name]
        return column, name, _bytes_of(unit_bytes)
    return name, name, _READERS[annotation]


_COLUMNS = tuple(_column(field.name, str(field.type)) for field in fields(Gpu))
"""(column of the file, field of `Gpu`, reader of the cell); annotations are strings in this module."""

_REQUIRED = {"key", "name", "family", "vram_marketed_gib", "unified_memory", "source"}
