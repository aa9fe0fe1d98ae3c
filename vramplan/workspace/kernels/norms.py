"""Normalisation: statistics that no output shows."""

from __future__ import annotations

from math import prod

from vramplan.dtypes import DType
from vramplan.workspace.kernels.scratch import HALF, Scratch, Shape, accumulator_item, held, item_bytes


def layer_norm(input_shape: Shape, normalized_shape: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """layer_norm_kernel.cu `layer_norm_cuda`: mean and reciprocal deviation of each row in the accumulation type.

    Allocated after the output (recorded on 2.11). A strided input is copied first: `contiguous_copy`.
    """
    rows = prod(input_shape) // max(prod(normalized_shape), 1) * accumulator_item(dtype)
    return held(Scratch(name="mean", size_bytes=rows), Scratch(name="rstd", size_bytes=rows))


def group_norm(
    input_shape: Shape, groups: int, dtype: DType, *, affine: bool = True, torch_version: tuple[int, int] = (2, 11)
) -> tuple[Scratch, ...]:
    """group_norm.cpp `native_group_norm` and group_norm_kernel.cu `GroupNormKernelImplInternal`, after the output.

    Mean and deviation of each group in the input's type (fp32 with fp32 weights on a half input: not modelled), then,
    for images with weights, factors a and b of each channel in fp32. Later versions hold the statistics in fp32 as well
    (bounded: when that began is not known). A strided or, before 2.13, channels_last input is copied to row-major first.
    """
    batch, channels, positions = input_shape[0], input_shape[1], prod(input_shape[2:])
    stats, fused = batch * groups, batch * channels * accumulator_item(dtype)
    fused = fused if affine and positions > 1 else 0
    twice = stats * 4 if dtype in HALF and torch_version > (2, 11) else 0
    return held(
        Scratch(name="mean", size_bytes=stats * item_bytes(dtype)),
        Scratch(name="rstd", size_bytes=stats * item_bytes(dtype)),
        Scratch(name="mean_float", size_bytes=twice, bounded=True),
        Scratch(name="rstd_float", size_bytes=twice, bounded=True),
        Scratch(name="a", size_bytes=fused),
        Scratch(name="b", size_bytes=fused),
    )


def uses_cudnn_batch_norm(input_shape: Shape, dtype: DType, weight_dtype: DType | None) -> bool:
    """Whether inference goes to cuDNN: Normalization.cpp `_select_batch_norm_backend`.

    Weights present, three dimensions or more, no bfloat16, a half input only with fp32 weights, batch up to 65535.
    From memory of the source but for what recordings confirm (fp16 with fp16 weights is native).
    """
    if weight_dtype is None or DType.BFLOAT16 in {dtype, weight_dtype} or len(input_shape) < 3:
        return False
    half_ok = dtype is not DType.FLOAT16 or weight_dtype is DType.FLOAT32
    return half_ok and input_shape[0] <= 65_535 and prod(input_shape) < 2**31 - 1


def batch_norm(input_shape: Shape, dtype: DType, weight_dtype: DType | None) -> tuple[Scratch, ...]:
    """Inference: cuDNN asks for nothing; natively two vectors of a channel each in the accumulation type.

    Normalization.cu `batch_norm_cuda` (recorded on 2.11: 256 and 256 bytes for 64 channels in fp16); cudnn/BatchNorm.cpp
    makes empty ones and needs no workspace in inference. Without weights the strided path adds two scalars: not modelled.
    """
    if uses_cudnn_batch_norm(input_shape, dtype, weight_dtype):
        return ()
    size = input_shape[1] * accumulator_item(dtype)
    return held(Scratch(name="save_mean", size_bytes=size), Scratch(name="save_invstd", size_bytes=size))


def rms_norm(input_shape: Shape, normalized_shape: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """layer_norm_kernel.cu `_fused_rms_norm_cuda` (2.9 and later): after the output, one reciprocal deviation a row."""
    rows = prod(input_shape) // max(prod(normalized_shape), 1) * accumulator_item(dtype)
    return held(Scratch(name="rstd", size_bytes=rows))
