"""PyTorch's element types, as the rest of vramplan names them."""

from __future__ import annotations

import torch

from vramplan.dtypes import DType

DTYPES = {
    torch.float64: DType.FLOAT64, torch.float32: DType.FLOAT32, torch.float16: DType.FLOAT16, torch.bfloat16: DType.BFLOAT16,
    torch.float8_e4m3fn: DType.FLOAT8_E4M3FN, torch.float8_e5m2: DType.FLOAT8_E5M2, torch.complex64: DType.COMPLEX64,
    torch.complex128: DType.COMPLEX128, torch.int64: DType.INT64, torch.int32: DType.INT32, torch.int16: DType.INT16,
    torch.int8: DType.INT8, torch.uint8: DType.UINT8, torch.bool: DType.BOOL,
}  # fmt: skip


def dtype_of(tensor: torch.Tensor) -> DType:
    """The element type of *tensor*; one that has no name here counts by its width."""
    return DTYPES.get(tensor.dtype, _BY_WIDTH.get(tensor.dtype.itemsize, DType.FLOAT64))


_BY_WIDTH = {1: DType.UINT8, 2: DType.INT16, 4: DType.INT32, 8: DType.INT64, 16: DType.COMPLEX128}


_TYPES = {value: key for key, value in DTYPES.items()}


def torch_type(dtype: DType | None) -> torch.dtype | None:
    """PyTorch's element type for *dtype*."""
    return None if dtype is None else _TYPES[dtype]


def torch_version() -> tuple[int, int]:
    """The installed PyTorch: its rules are the ones that are modelled."""
    major, minor, *_ = torch.__version__.split(".")
    return int(major), int(minor)
