"""A temporary of a kernel, and how tensors lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vramplan.dtypes import DType

Shape = tuple[int, ...]

HALF = (DType.FLOAT16, DType.BFLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """One temporary of a kernel; `persistent` ones outlive the call and are shared by later ones.

    Invariant: the size is positive.
    """

    name: str
    size_bytes: int
    bounded: bool = False
    persistent: bool = False


def held(*scratch: Scratch) -> tuple[Scratch, ...]:
    """Those that are not empty."""
    return tuple(one for one in scratch if one.size_bytes > 0)


def item_bytes(dtype: DType) -> int:
    """Bytes of one element."""
    return dtype.bits // 8


def accumulator_item(dtype: DType) -> int:
    """AccumulateType.h: half types accumulate in fp32, the rest in themselves."""
    return 4 if dtype in HALF else item_bytes(dtype)


def is_dense_row_major(shape: Shape, strides: Shape) -> bool:
    """TensorImpl.h `is_contiguous`: row-major, ignoring dimensions of one."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def is_dense(shape: Shape, strides: Shape) -> bool:
    """TensorImpl.h `is_non_overlapping_and_dense`: some permutation is row-major."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def contiguous_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """`.contiguous()`: a copy unless the input is row-major already."""
    if is_dense_row_major(shape, strides):
        return ()
    return held(Scratch(name="contiguous_copy", size_bytes=prod(shape) * item_bytes(dtype)))
