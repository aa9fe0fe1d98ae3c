"""Scratch memory of a cuDNN convolution in closed form, for when cuDNN itself cannot be asked.

cuDNN's tensor-core kernels want channels last, in channel counts that fill a 16-byte vector. Whatever arrives otherwise is
copied for the call: a row-major tensor is transposed, a tensor with odd channels is padded. So the workspace is a sum of
copies of the input, the weight and the output, or none, plus the partial sums of kernels that share one output tile.

Which copies are made was fitted on one half of ``tests/data/conv_workspace_h200.csv.gz`` (H200, PyTorch 2.11, cuDNN 9.19) and
judged on the other; ``benchmarks/conv_workspace.py`` prints both. The identities are exact where they apply, the choice of
kernel is cuDNN's and changes with its version: evidence is therefore never better than bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vramplan.dtypes import DType
from vramplan.ranges import Evidence, Range
from vramplan.units import MIB
from vramplan.workspace.pointwise import Product, pointwise_workspace_bytes

_ALIGNMENT_BYTES = 16
"""Added once to every workspace that holds copies."""

_PARTIAL_SUMS_BYTES = 16 * MIB
"""Room for fp32 partial sums: two 128 x 128 tiles (64 KiB) on each of 132 multiprocessors; the most seen is 14.5 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvCall:
    """One forward convolution as cuDNN is given it; ``channels_last`` is the layout of all its tensors (NHWC, NDHWC).

    ``input_shape`` and ``weight_shape`` are in PyTorch's order (N, C, spatial...), (K, C / groups, spatial...), or
    (C, K / groups, spatial...) when ``transposed``.

    Invariant: stride, padding and dilation have one entry for each spatial dimension, of which there are one to three.
    """

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    dtype: DType
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        rank = len(self.input_shape) - 2
        sides = {len(self.weight_shape) - 2, len(self.stride), len(self.padding), len(self.dilation)}
        if rank not in (1, 2, 3) or sides != {rank}:
            raise ValueError(f"not a convolution of one to three dimensions: {self}")
        if self.groups < 1 or min(*self.input_shape, *self.weight_shape, *self.stride, *self.dilation) < 1:
            raise ValueError(f"sizes, strides, dilations and groups are positive: {self}")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, K, spatial...), without output padding when transposed."""
        kernel = self.weight_shape[2:]
        axes = zip(self.input_shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True)
        channels = self.weight_shape[1] * self.groups if self.transposed else self.weight_shape[0]
        return (self.input_shape[0], channels, *(_side(*axis, transposed=self.transposed) for axis in axes))

    @property
    def is_depthwise(self) -> bool:
        """Whether each input channel has kernels of its own."""
        return self.groups > 1 and self.groups == self.input_shape[1]

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a matrix product: a 1x1 kernel, moved by one, without groups of channels."""
        ones = (*self.weight_shape[2:], *self.stride)
        return all(one == 1 for one in ones) and not any(self.padding) and self.groups == 1


def _side(size: int, kernel: int, stride: int, padding: int, dilation: int, *, transposed: bool) -> int:
    reach = dilation * (kernel - 1) + 1
    if transposed:
        return (size - 1) * stride - 2 * padding + reach
    return (size + 2 * padding - reach) // stride + 1


WORKSPACE_NAME = "cuDNN workspace"
"""What the scratch of a convolution is called in a program, behind the module that runs it."""


def conv_workspace(call: ConvCall, compute_capability: tuple[int, int] | None, sm_count: int | None) -> Range:
    """Bytes of scratch for *call* on a device of *compute_capability* with *sm_count* multiprocessors (``None``: unknown).

    Low is none: some kernel without copies nearly always exists. High is all three copies and the partial sums.
    """
    call = _one_piece(call)
    copies = _copies_bytes(call)
    nominal = _nominal_bytes(call, copies, compute_capability)
    high = sum(copies) + _partial_sums_bytes(sm_count)
    return Range(low_bytes=0, nominal_bytes=nominal, high_bytes=max(high, nominal), evidence=Evidence.BOUNDED)


def _one_piece(call: ConvCall) -> ConvCall:
    """The part of the batch that cuDNN runs at once: kernels count elements in 31 bits.

    Its own answers for larger tensors stay at those of the largest part. PyTorch leaves such tensors to it from cuDNN 9.3 on
    (``ConvParams::use_cudnn``).
    """
    largest = max(math.prod(call.input_shape[1:]), math.prod(call.output_shape[1:]), 1)
    batch = min(call.input_shape[0], max(1, _MOST_ELEMENTS // largest))
    return call if batch == call.input_shape[0] else replace(call, input_shape=(batch, *call.input_shape[1:]))


_MOST_ELEMENTS = 2**31 - 1


def _partial_sums_bytes(sm_count: int | None) -> int:
    return _PARTIAL_SUMS_BYTES if sm_count is None else max(MIB, _PARTIAL_SUMS_BYTES * sm_count // 132)


def _copies_bytes(call: ConvCall) -> tuple[int, int, int]:
    """Bytes of a copy of the input, the weight and the output, channels filled up to whole vectors."""
    x, w, y = call.input_shape, call.weight_shape, call.output_shape
    channels, outputs = _filled(call, x[1]), _filled(call, y[1])
    weights = channels * outputs // call.groups * math.prod(w[2:])
    counts = (x[0] * channels * math.prod(x[2:]), weights, y[0] * outputs * math.prod(max(0, side) for side in y[2:]))
    return call.dtype.storage_bytes(counts[0]), call.dtype.storage_bytes(counts[1]), call.dtype.storage_bytes(counts[2])


def _vector(dtype: DType) -> int:
    """Elements in 16 bytes, what one thread loads at once."""
    return max(1, 16 * 8 // dtype.bits)


def _filled(call: ConvCall, channels: int) -> int:
    """Channels after filling up: to a vector, in large fp32 groups to a tile of 32, and otherwise as they are."""
    each = channels // call.groups
    if call.dtype is DType.FLOAT32 and channels <= 4:
        multiple = 1
    elif call.groups == 1:
        multiple = _vector(call.dtype)
    else:
        multiple = 32 if call.dtype is DType.FLOAT32 and each > 32 else 1
    return -(-each // multiple) * multiple * call.groups


def _nominal_bytes(call: ConvCall, copies: tuple[int, int, int], capability: tuple[int, int] | None) -> int:
    if call.is_depthwise or not _has_tensor_cores(call.dtype, capability):
        return 0
    if call.is_pointwise:
        return pointwise_workspace_bytes(product_of(call))
    total = sum(size for size, is_held in zip(copies, _held(call), strict=True) if is_held)
    return total + _ALIGNMENT_BYTES if total else 0


def _has_tensor_cores(dtype: DType, capability: tuple[int, int] | None) -> bool:
    """Half from Volta on; bfloat16 and TF32 from Ampere on (CUDA programming guide, arithmetic by compute capability)."""
    newest = capability or (9, 0)
    first = {DType.FLOAT16: (7, 0), DType.BFLOAT16: (8, 0), DType.FLOAT32: (8, 0)}.get(dtype)
    return first is not None and newest >= first


def _held(call: ConvCall) -> tuple[bool, bool, bool]:
    """Which copies the likely kernel makes: (input, weight, output)."""
    if call.channels_last:
        return _held_channels_last(call)
    if call.input_shape[1] <= 4:  # first layers: a kernel that reads and writes row-major tensors
        return False, False, False
    if math.prod(call.weight_shape[2:]) == 1:  # the weight of a 1x1 kernel is the same in both layouts
        return True, False, True
    if call.dtype is DType.FLOAT32 and call.groups == 1:
        return _held_row_major_fp32(call)
    return True, True, True


def _held_channels_last(call: ConvCall) -> tuple[bool, bool, bool]:
    """Only tensors whose channels are no whole vectors are copied, to be filled up; in groups it is left to the high side."""
    if call.groups > 1:
        return False, False, False
    vector = _vector(call.dtype)
    is_input_odd, is_output_odd = call.input_shape[1] % vector != 0, call.output_shape[1] % vector != 0
    return is_input_odd, is_input_odd or is_output_odd, is_output_odd


def _held_row_major_fp32(call: ConvCall) -> tuple[bool, bool, bool]:
    """TF32 kernels of three kinds, by the number of channels in (summed up), channels out, and output pixels."""
    channels, outputs = call.input_shape[1], call.output_shape[1]
    pixels = call.output_shape[0] * math.prod(call.output_shape[2:])
    if channels <= 36 and pixels <= 6_300:  # short sums: a row-major kernel
        return False, False, False
    writes_row_major = (
        (outputs <= 64 and channels >= 32) or (outputs <= 128 and channels <= 64) or (channels <= 128 and pixels <= 2_312)
    )
    return True, True, not (writes_row_major and channels >= 32 and outputs >= 32)


def product_of(call: ConvCall) -> Product:
    """A pointwise *call* as the matrix product it is."""
    return Product(
        images=call.input_shape[0],
        pixels=math.prod(call.input_shape[2:]),
        channels=call.input_shape[1],
        outputs=call.output_shape[1],
        bits=call.dtype.bits,
        channels_last=call.channels_last,
        is_bfloat16=call.dtype is DType.BFLOAT16,
    )
