"""The header of a safetensors file: 8 bytes of length, then JSON. Nothing behind it is read.

https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import show
from vramplan.sources.torch_archive import damaged
from vramplan.sources.torch_model import WeightFact

MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# safetensors' Dtype: name in the file, name in torch, bits.
DTYPES = {
    "BOOL": ("bool", 8), "U8": ("uint8", 8), "I8": ("int8", 8), "U16": ("uint16", 16), "I16": ("int16", 16),
    "U32": ("uint32", 32), "I32": ("int32", 32), "U64": ("uint64", 64), "I64": ("int64", 64), "F16": ("float16", 16),
    "BF16": ("bfloat16", 16), "F32": ("float32", 32), "F64": ("float64", 64), "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8), "F4": ("float4_e2m1fn_x2", 4),
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[WeightFact, ...]:
    """Every tensor of the file at *path*, in file order. ModelError when header and file do not agree."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        length_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or length_bytes > min(size_bytes - 8, MAX_HEADER_BYTES):
            raise damaged(path, f"its header claims {length_bytes:,} bytes, the file has {size_bytes:,}")
        header = _json(path, file.read(length_bytes))
    tensors = [(*_span(path, name, row), name, row) for name, row in header.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: tensor[:2])
    _check_spans(path, [tensor[:2] for tensor in tensors], size_bytes - 8 - length_bytes)
    return tuple(
        WeightFact(name=name, shape=tuple(row["shape"]), dtype=DTYPES[row["dtype"]][0], size_bytes=end - start)
        for start, end, name, row in tensors
    )


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    return header


def _span(path: Path, name: str, row: Any) -> tuple[int, int]:
    """Where the tensor's bytes lie, once shape, dtype and offsets agree."""
    try:
        shape, (start, end), bits = row["shape"], row["data_offsets"], DTYPES[row["dtype"]][1]
        sane = all(type(number) is int and 0 <= number < 1 << 62 for number in (*shape, start, end)) and len(shape) < 64
    except (KeyError, TypeError, ValueError):
        sane = False
    if not sane:
        raise _wrong(path, name, "its shape, dtype or offsets make no sense")
    if end - start != math.prod(shape) * bits // 8:
        raise _wrong(path, name, f"{end - start:,} bytes for shape {'x'.join(map(str, shape))} of {row['dtype']}")
    return start, end


def _check_spans(path: Path, spans: list[tuple[int, int]], data_bytes: int) -> None:
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise damaged(path, "tensors overlap")
    if spans and spans[-1][1] > data_bytes:
        raise damaged(path, f"its tensors end at byte {spans[-1][1]:,} of {data_bytes:,}; the file is cut short")


def _wrong(path: Path, name: str, why: str) -> ModelError:
    return damaged(path, f"tensor {show(name)}: {why}")
