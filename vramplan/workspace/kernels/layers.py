"""Pooling, convolution, and libraries that do not say what they take."""

from __future__ import annotations

from math import prod

from vramplan.dtypes import DType
from vramplan.workspace.kernels.scratch import Scratch, Shape, held, is_dense_row_major, item_bytes


def max_pool2d(output_shape: Shape) -> tuple[Scratch, ...]:
    """DilatedMaxPool2d.cu: int64 indices of every output, always (measured on every call in 2.11)."""
    return held(Scratch(name="indices", size_bytes=prod(output_shape) * 8))


def adaptive_avg_pool2d_is_mean(output_size: tuple[int, int]) -> bool:
    """AdaptiveAveragePooling.cpp: to one position it is `mean` over height and width, with that reduction's scratch."""
    return output_size == (1, 1)


def convolution_copies(
    input_shape: Shape, input_strides: Shape, weight_shape: Shape, weight_strides: Shape, dtype: DType
) -> tuple[Scratch, ...]:
    """ConvUtils.h `cudnn_conv_suggest_memory_format` and `.contiguous(format)` of input and weight in Convolution.cpp.

    Either one in channels_last makes the whole convolution channels_last; then whichever is not gets copied.
    """
    last = is_channels_last(input_shape, input_strides) or is_channels_last(weight_shape, weight_strides)
    made = []
    for name, shape, strides in (("input_copy", input_shape, input_strides), ("weight_copy", weight_shape, weight_strides)):
        fits = _fits_channels_last(shape, strides) if last else is_dense_row_major(shape, strides)
        if not fits:
            made.append(Scratch(name=name, size_bytes=prod(shape) * item_bytes(dtype)))
    return held(*made)


def _fits_channels_last(shape: Shape, strides: Shape) -> bool:
    order = (0, *range(2, len(shape)), 1)
    return is_dense_row_major(tuple(shape[d] for d in order), tuple(strides[d] for d in order))


def is_channels_last(shape: Shape, strides: Shape) -> bool:
    """MemoryFormat.h `is_channels_last_strides_2d`: by strides alone, ties going to row-major."""
    if len(shape) not in {4, 5} or strides[1] == 0:
        return False
    smallest = 0
    for dim in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[dim] == 0 or strides[dim] < smallest or (dim == 0 and smallest == strides[1]):
            return False
        smallest = strides[dim] * (shape[dim] if shape[dim] > 1 else 1)
    return True


def is_depthwise(input_shape: Shape, weight_shape: Shape, groups: int) -> bool:
    """Convolution.cpp `is_depthwise`: a group a channel, outputs a multiple of inputs, 2-D or 3-D, not transposed."""
    channels = input_shape[1]
    return len(input_shape) in {4, 5} and channels == groups and groups > 1 and weight_shape[0] % channels == 0


def depthwise_uses_cudnn(
    input_shape: Shape,
    weight_shape: Shape,
    dtype: DType,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    channels_last: bool = False,
) -> bool:
    """Convolution.cpp `use_cudnn_depthwise` and `check_cudnn_depthwise_workload_with_filter`, for a depthwise convolution.

    False means PyTorch's own kernel, which has no workspace. channels_last is always cuDNN; otherwise only fp16 (not
    bfloat16, not fp32) in 2-D without dilation, one stride for both, 32 channels and more, square filters of 1, 3, 5 on
    rows of 7 and more: all of stride 1, some of stride 2. 64-bit sized tensors go to cuDNN 9.3 and later.
    """
    if prod(input_shape) >= 2**31 or channels_last:
        return True
    square = len(input_shape) == 4 and (stride[0] == stride[1] or input_shape[2] == 1)
    if dtype is not DType.FLOAT16 or not square or dilation != (1, 1) or input_shape[1] < 32:
        return False
    if input_shape[2] == 1 and stride[1] == 1:
        return True
    if weight_shape[2] != weight_shape[3] or weight_shape[3] not in {1, 3, 5} or input_shape[3] < 7:
        return False
    return stride[1] == 1 or (stride[1] == 2 and _strided_depthwise_uses_cudnn(input_shape, weight_shape[3]))


def _strided_depthwise_uses_cudnn(input_shape: Shape, kernel: int) -> bool:
    batch, channels, _, width = input_shape
    if kernel == 1:
        return width <= 28 if batch == 1 else batch <= 16 and channels >= 128 and width <= 7
    return batch == 1 or channels >= 512 or (channels >= 256 and width >= 28)


def fft(shape: Shape, transformed: tuple[int, ...], complex_bytes: int) -> tuple[Scratch, ...]:
    """CuFFTPlanCache.h: the plan's work area on each call; cuFFT says how large only on a GPU.

    Assumed at most twice the data for lengths of primes up to 127 and eight times otherwise (Bluestein): no source.
    """
    smooth = all(_largest_prime(shape[dim]) <= 127 for dim in transformed)
    return held(Scratch(name="work_area", size_bytes=prod(shape) * complex_bytes * (2 if smooth else 8), bounded=True))


def _largest_prime(number: int) -> int:
    largest, factor = 1, 2
    while factor * factor <= number:
        while number % factor == 0:
            largest, number = factor, number // factor
        factor += 1
    return max(largest, number)


def recurrent(*, weight_bytes: int, parameter_bytes: int, step_bytes: int, gates: int, flattened: bool) -> tuple[Scratch, ...]:
    """cudnn/RNN.cpp `_cudnn_rnn` in inference: a flat copy of parameters that are not flat already, then the workspace.

    `flatten_parameters` leaves bfloat16 as it is (`torch.backends.cudnn.is_acceptable`). The workspace is cuDNN's answer:
    recorded (LSTM and GRU, one shape, three batch sizes, two types) as 32 MiB, the weights without biases, 288 bytes, and
    a share that grows with the batch, a little less than gates and four more of each step's outputs: bounded.
    """
    workspace = 32 * 2**20 + weight_bytes + 288 + step_bytes * (gates + 4)
    return held(
        Scratch(name="weight_buffer", size_bytes=0 if flattened else parameter_bytes),
        Scratch(name="workspace", size_bytes=workspace, bounded=True),
    )
