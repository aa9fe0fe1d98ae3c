"""The scratch memory of single convolutions: what PyTorch asks cuDNN for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from vramplan.dtypes import DType, parse_dtype
from vramplan.errors import UsageError, close_matches
from vramplan.gpus import Gpu, find_gpu
from vramplan.ranges import Evidence, Range
from vramplan.workspace import kernels
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import conv_workspaces

Sides = int | Sequence[int]
FORMATS = ("contiguous", "channels_last")
FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)


@overload
def conv_workspace(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    dtype: str | DType = ...,
    stride: Sides = ...,
    padding: Sides = ...,
    dilation: Sides = ...,
    groups: int = ...,
    bias: bool = ...,
    memory_format: str = ...,
    gpu: str | Gpu | None = ...,
) -> Range: ...


@overload
def conv_workspace(input_shape: Sequence[Mapping[str, Any]], *, gpu: str | Gpu | None = ...) -> list[Range]: ...


def conv_workspace(
    input_shape: Any, weight_shape: Any = None, *, gpu: str | Gpu | None = None, **more: Any
) -> Range | list[Range]:
    """Bytes of workspace of one forward convolution on *gpu*, low – nominal – high; for a list of calls, a list of ranges.

    input_shape    (batch, channels, spatial…), one to three spatial dimensions
    weight_shape   (output channels, channels / groups, kernel…)
    dtype          float16, bfloat16 or float32 (TF32 on, as PyTorch has it for convolutions); an alias or a `DType`
    stride, padding, dilation   a number, or one for each spatial dimension
    bias           has no influence: PyTorch adds it afterwards
    memory_format  contiguous, or channels_last for both operands

    cuDNN answers where its libraries are installed (no GPU is needed), a closed form elsewhere: see
    `vramplan.workspace.cudnn`. Copies of operands in another layout are not part of it. A list holds mappings with the
    same names. Raises `UsageError` for arguments that make no convolution.
    """
    card = find_gpu(gpu) if isinstance(gpu, str) else gpu
    if weight_shape is None and not more:
        return _answers([_call(**dict(each)) for each in input_shape], card)
    return _answers([_call(input_shape=input_shape, weight_shape=weight_shape, **more)], card)[0]


def _answers(calls: Sequence[ConvCall], gpu: Gpu | None) -> list[Range]:
    """Ask for all at once; PyTorch's own depthwise kernels take nothing."""
    workspaces = conv_workspaces(gpu)
    found = workspaces.of_many(calls)
    workspaces.save()
    none = Range(low_bytes=0, nominal_bytes=0, high_bytes=0, evidence=Evidence.BOUNDED)
    return [none if _is_native(call) else answer for call, answer in zip(calls, found, strict=True)]


def _is_native(call: ConvCall) -> bool:
    if not kernels.is_depthwise(call.input_shape, call.weight_shape, call.groups):
        return False
    return not kernels.depthwise_uses_cudnn(
        call.input_shape,
        call.weight_shape,
        call.dtype,
        stride=(call.stride[0], call.stride[-1]),
        dilation=(call.dilation[0], call.dilation[-1]),
        channels_last=call.channels_last,
    )


def _call(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    dtype: str | DType = DType.FLOAT16,
    stride: Sides = 1,
    padding: Sides = 0,
    dilation: Sides = 1,
    groups: int = 1,
    bias: bool = False,
    memory_format: str = "contiguous",
) -> ConvCall:
    rank = len(input_shape) - 2
    element = parse_dtype(dtype) if isinstance(dtype, str) else dtype
    if element not in FLOATS:
        raise UsageError(f"convolutions of {element} are not modelled", hint="Known: " + ", ".join(map(str, FLOATS)) + ".")
    if memory_format not in FORMATS:
        raise UsageError(f"unknown memory format {memory_format[:40]!r}", hint=close_matches(memory_format, FORMATS))
    if groups < 1 or input_shape[1] != weight_shape[1] * groups:
        raise UsageError(
            f"a weight {tuple(weight_shape)} with {groups} groups does not go with an input {tuple(input_shape)}",
            hint="The input has the weight's second dimension times the groups as channels.",
        )
    try:
        return ConvCall(
            input_shape=tuple(input_shape),
            weight_shape=tuple(weight_shape),
            dtype=element,
            stride=_sides(stride, rank),
            padding=_sides(padding, rank),
            dilation=_sides(dilation, rank),
            groups=groups,
            channels_last=memory_format == "channels_last",
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _sides(value: Sides, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
