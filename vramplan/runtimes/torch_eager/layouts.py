"""Strides, as CUDA kernels choose them: what counts as channels_last, and what a copy into a layout would be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vramplan.workspace import kernels
from vramplan.workspace.kernels import is_dense

_FORMAT = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_like_channels_last(tensor: torch.Tensor) -> bool:
    """``Tensor::suggest_memory_format() != Contiguous`` of a 4- or 5-d tensor (c10/core/MemoryFormat.h)."""
    return kernels.is_channels_last(tuple(tensor.shape), tensor.stride())


def channels_last_of(dim: int) -> torch.memory_format:
    """The channels_last format of a tensor with *dim* axes."""
    return _FORMAT[dim]


def strides_of(shape: Sequence[int], *, channels_last: bool) -> tuple[int, ...]:
    """Strides of a fresh tensor: row-major, or with the channels innermost."""
    axes = [*range(len(shape))]
    if channels_last:
        axes = [0, *axes[2:], 1]
    strides, step = [0] * len(shape), 1
    for axis in reversed(axes):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def fresh(shape: Sequence[int], dtype: torch.dtype, *, channels_last: bool = False) -> torch.Tensor:
    """A shadow of *shape* with the strides of a new tensor."""
    strides = strides_of(shape, channels_last=channels_last)
    return torch.empty_strided(tuple(shape), strides, dtype=dtype, device="meta")


def bytes_of(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a dense tensor."""
    return math.prod(shape) * dtype.itemsize


def dense_like(tensor: torch.Tensor) -> torch.Tensor:
    """``empty_like`` as a device makes it: a dense tensor's strides are kept to the number, also where an axis is 1."""
    if is_dense(tuple(tensor.shape), tensor.stride()):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor)
