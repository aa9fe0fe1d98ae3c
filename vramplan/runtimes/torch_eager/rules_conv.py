"""Convolutions: which kernel runs, in which layout, and what is copied for it.

Sources: aten/src/ATen/native/Convolution.cpp (``_convolution``, ``_select_conv_backend``, ``use_cudnn_depthwise``),
aten/src/ATen/native/ConvUtils.h (``cudnn_conv_suggest_memory_format``), aten/src/ATen/native/cudnn/ConvShared.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of, channels_last_of, fresh, is_like_channels_last
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose
from vramplan.workspace import kernels
from vramplan.workspace.convolution import ConvCall

aten: Any = torch.ops.aten

def conv(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``conv1d``, ``conv2d``, ``conv3d`` of a batch, with padding in numbers; anything else is taken apart first."""
    x, weight, bias, stride, padding, dilation, groups = _filled(args, kwargs, ("bias", "stride", "padding", "dilation", "groups"))
    rank = weight.dim() - 2
    if x.dim() != rank + 2 or isinstance(padding, str):
        return decompose(shadow, func, args, kwargs)
    sides = (_all(stride, rank), _all(padding, rank), _all(dilation, rank))
    _check(x, weight, groups)
    return _convolve(shadow, x, weight, bias, *sides, False, (0,) * rank, groups or 1)


def convolution(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``aten::convolution``, where every kind of convolution ends."""
    names = ("bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = _filled(args, kwargs, names)
    rank = weight.dim() - 2
    sides = (_all(stride, rank), _all(padding, rank), _all(dilation, rank))
    return _convolve(shadow, x, weight, bias, *sides, bool(transposed), _all(output_padding, rank), groups)


def _filled(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> list[Any]:
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "transposed": False, "output_padding": 0}
    given = dict(zip(("input", "weight", *names), args, strict=False)) | kwargs
    return [given["input"], given["weight"], *(given.get(name, defaults[name]) for name in names)]


def _all(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)


def _check(x: torch.Tensor, weight: torch.Tensor, groups: int) -> None:
    """Operands that do not fit together fail as they do on a device, in PyTorch's own words."""
    if x.dtype != weight.dtype:
        raise RuntimeError(f"Input type ({x.dtype}) and weight type ({weight.dtype}) should be the same")
    channels = weight.shape[1] * groups
    if x.shape[1] != channels:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have {channels}"
            f" channels, but got {x.shape[1]} channels instead"
        )


def _convolve(
    shadow: Shadow,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    shape = _result_shape(x, weight, stride, padding, dilation, transposed, output_padding, groups)
    if x.dim() == 3:  # conv1d runs as conv2d of height 1, on a row-major input
        copy = _copied(shadow, x, x.is_contiguous(), "contiguous input")
        with_height = (x.contiguous().unsqueeze(2), weight.unsqueeze(2), None, (1, *stride), (0, *padding), (1, *dilation))
        out = _convolve(shadow, *with_height, transposed, (0, *output_padding), groups).squeeze(2)
        shadow.ledger.free(copy)
        return out
    if _is_native_depthwise(x, weight, stride, dilation, transposed, groups):
        copy = _copied(shadow, x, x.is_contiguous(), "contiguous input")
        out = shadow.watch(fresh(shape, x.dtype), "conv")
        shadow.ledger.free(copy)
        return out
    wide = x.dtype is torch.float64
    channels_last = not wide and (is_like_channels_last(x) or is_like_channels_last(weight))
    layout = channels_last_of(x.dim()) if channels_last else torch.contiguous_format
    copies = [_copied(shadow, x, x.is_contiguous(memory_format=layout), "input in the kernel's layout")]
    out = shadow.watch(fresh(shape, x.dtype, channels_last=channels_last), "conv")
    copies.append(_copied(shadow, weight, weight.is_contiguous(memory_format=layout), "weight in the kernel's layout"))
    if x.numel() and out.numel():
        call = ConvCall(
            input_shape=tuple(x.shape),
            weight_shape=tuple(weight.shape),
            dtype=dtype_of(x),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            transposed=transposed,
            channels_last=channels_last,
        )
        _run_cudnn(shadow, call)
    for copy in copies:
        shadow.ledger.free(copy)
    return out


def _run_cudnn(shadow: Shadow, call: ConvCall) -> None:
    workspace = shadow.target.conv_workspace(call)
    shadow.findings.doubtful_convolutions += workspace.low_bytes != workspace.high_bytes
    shadow.ledger.free(shadow.doubtful_scratch(workspace, "cuDNN workspace"))


def _copied(shadow: Shadow, tensor: torch.Tensor, is_fine: bool, name: str) -> int:
    return -1 if is_fine else shadow.scratch(bytes_of(tensor.shape, tensor.dtype), name)


def _result_shape(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> tuple[int, ...]:
    sides = []
    for axis in range(len(stride)):
        size, reach = x.shape[axis + 2], dilation[axis] * (weight.shape[axis + 2] - 1) + 1
        if transposed:
            side = (size - 1) * stride[axis] - 2 * padding[axis] + reach + output_padding[axis]
        else:
            side = (size + 2 * padding[axis] - reach) // stride[axis] + 1
        if side <= 0:
            kernel = tuple(weight.shape[2:])
            raise RuntimeError(f"kernel {kernel} is larger than the padded input {tuple(x.shape[2:])} (padding {padding})")
        sides.append(side)
    return (x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *sides)


def _is_native_depthwise(
    x: torch.Tensor, weight: torch.Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], transposed: bool, groups: int
) -> bool:
    """Whether PyTorch's own depthwise kernel runs, which takes no workspace."""
    if transposed or not kernels.is_depthwise(tuple(x.shape), tuple(weight.shape), groups):
        return False
    return not kernels.depthwise_uses_cudnn(
        tuple(x.shape),
        tuple(weight.shape),
        dtype_of(x),
        stride=(stride[0], stride[-1]),
        dilation=(dilation[0], dilation[-1]),
        channels_last=is_like_channels_last(x) or is_like_channels_last(weight),
    )


RULES: dict[Op, Rule] = {
    aten.conv1d.default: conv,
    aten.conv2d.default: conv,
    aten.conv3d.default: conv,
    aten.convolution.default: convolution,
}
