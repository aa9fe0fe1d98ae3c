"""Element types by their ONNX number, and the limits of what is read."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.errors import printable as printable  # noqa: PLC0414  every reader of a file needs both
from vramplan.errors import show as show  # noqa: PLC0414
from vramplan.units import MAX_BYTES

MAX_NODES = 250_000
"""Nodes of one model, in all its graphs and after local functions are expanded. The largest exports have some 50,000."""

MAX_DIM = 1 << 40
MAX_RANK = 64

# TensorProto.DataType in onnx.proto.
DTYPES = {
    1: DType.FLOAT32, 2: DType.UINT8, 3: DType.INT8, 4: DType.UINT16, 5: DType.INT16, 6: DType.INT32, 7: DType.INT64,
    8: DType.STRING, 9: DType.BOOL, 10: DType.FLOAT16, 11: DType.FLOAT64, 12: DType.UINT32, 13: DType.UINT64,
    14: DType.COMPLEX64, 15: DType.COMPLEX128, 16: DType.BFLOAT16, 17: DType.FLOAT8_E4M3FN, 18: DType.FLOAT8_E4M3FNUZ,
    19: DType.FLOAT8_E5M2, 20: DType.FLOAT8_E5M2FNUZ, 21: DType.UINT4, 22: DType.INT4, 23: DType.FLOAT4_E2M1,
    24: DType.FLOAT8_E8M0, 25: DType.UINT2, 26: DType.INT2,
}  # fmt: skip
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def expected_bytes(dtype: DType, dims: Iterable[int]) -> int:
    """Bytes that the values of a tensor take in a file."""
    return dtype.storage_bytes(math.prod(dims))


def check_dims(name: str, dtype: DType, dims: Iterable[int | None], *, what: str) -> None:
    """Refuse dimensions that no tensor can have: negative, beyond 2^40, or more than `MAX_BYTES` together.

    Zeros count as ones, so that no product of some of the dimensions can overflow either.
    """
    known = [dim for dim in dims if dim is not None]
    if not known:
        return
    if len(known) > MAX_RANK:
        raise ModelError(f"{what} {show(name)} has {len(known)} dimensions; the limit is {MAX_RANK}")
    if min(known) < 0 or max(known) > MAX_DIM:
        wrong = next(dim for dim in known if not 0 <= dim <= MAX_DIM)
        raise ModelError(f"{what} {show(name)} has dimension {wrong:,}, which no tensor can have (shape {_brief(known)})")
    count = math.prod([dim or 1 for dim in known])
    if count * max(dtype.bits, 8) // 8 > MAX_BYTES:
        raise ModelError(f"{what} {show(name)} of shape {_brief(known)} is larger than any GPU's memory")


def _brief(dims: list[int]) -> str:
    return "[" + ", ".join(map(str, dims[:8])) + (", …]" if len(dims) > 8 else "]")
