"""Element types: how many bits one value takes, and the names people use for it."""

from __future__ import annotations

from enum import Enum

from vramplan.errors import UsageError, close_matches


class DType(Enum):
    """An element type; the value is its canonical name."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E4M3FNUZ = "float8_e4m3fnuz"
    FLOAT8_E5M2 = "float8_e5m2"
    FLOAT8_E5M2FNUZ = "float8_e5m2fnuz"
    FLOAT8_E8M0 = "float8_e8m0"
    FLOAT4_E2M1 = "float4_e2m1"
    COMPLEX64 = "complex64"
    COMPLEX128 = "complex128"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    UINT4 = "uint4"
    UINT2 = "uint2"
    BOOL = "bool"
    STRING = "string"
    """Text. It never lives on a GPU and counts no bytes there."""

    @property
    def bits(self) -> int:
        """Bits one element takes in memory; 4-bit types pack two to a byte."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        """Whether a precision policy may convert it: real floating point of any width."""
        return self.value.startswith(("float", "bfloat"))

    def storage_bytes(self, count: int) -> int:
        """Bytes that *count* packed elements take, rounded up to a whole byte."""
        return (count * self.bits + 7) // 8

    def __str__(self) -> str:
        return self.value


_BITS = {
    DType.FLOAT64: 64, DType.FLOAT32: 32, DType.FLOAT16: 16, DType.BFLOAT16: 16,
    DType.FLOAT8_E4M3FN: 8, DType.FLOAT8_E4M3FNUZ: 8, DType.FLOAT8_E5M2: 8, DType.FLOAT8_E5M2FNUZ: 8,
    DType.FLOAT8_E8M0: 8, DType.FLOAT4_E2M1: 4, DType.COMPLEX64: 64, DType.COMPLEX128: 128,
    DType.INT64: 64, DType.INT32: 32, DType.INT16: 16, DType.INT8: 8, DType.INT4: 4, DType.INT2: 2,
    DType.UINT64: 64, DType.UINT32: 32, DType.UINT16: 16, DType.UINT8: 8, DType.UINT4: 4, DType.UINT2: 2,
    DType.BOOL: 8, DType.STRING: 0,
}  # fmt: skip

_ALIASES = {
    "double": DType.FLOAT64, "fp64": DType.FLOAT64, "f64": DType.FLOAT64,
    "float": DType.FLOAT32, "fp32": DType.FLOAT32, "f32": DType.FLOAT32, "single": DType.FLOAT32,
    "half": DType.FLOAT16, "fp16": DType.FLOAT16, "f16": DType.FLOAT16,
    "bf16": DType.BFLOAT16,
    "fp8": DType.FLOAT8_E4M3FN, "float8": DType.FLOAT8_E4M3FN, "e4m3": DType.FLOAT8_E4M3FN, "e5m2": DType.FLOAT8_E5M2,
    "fp4": DType.FLOAT4_E2M1,
    "long": DType.INT64, "int": DType.INT32, "byte": DType.UINT8, "boolean": DType.BOOL,
}  # fmt: skip


def parse_dtype(text: str) -> DType:
    """The type that *text* names, by canonical name or alias (``fp16`` = ``float16`` = ``half``).

    Raises `UsageError` with close matches for anything else.
    """
    word = text.strip().lower().removeprefix("torch.")
    if word in _ALIASES:
        return _ALIASES[word]
    try:
        return DType(word)
    except ValueError:
        hint = close_matches(word, [*_ALIASES, *(dtype.value for dtype in DType)])
        raise UsageError(f"unknown element type {text[:80]!r}", hint=hint) from None
