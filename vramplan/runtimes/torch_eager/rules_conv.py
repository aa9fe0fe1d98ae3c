"""Convolutions: which kernel runs, in which layout, and what is copied for it.

Sources: aten/src/ATen/native/Convolution.cpp (``_convolution``, ``_select_conv_backend``, ``use_cudnn_depthwise``),
aten/src/ATen/native/ConvUtils.h (``cudnn_conv_suggest_memory_format``), aten/src/ATen/native/cudnn/ConvShared.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of, channels_last_of, fresh, is_like_channels_last
from vramplan.runtimes.torch_eager.scratch import named
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose
from vramplan.workspace import kernels
from vramplan.workspace.convolution import WORKSPACE_NAME, ConvCall

aten: Any = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a convolution walks: one entry for each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    transposed: bool
    groups: int

    @property
    def with_height(self) -> Geometry:
        """The same for an image of height 1, which is how a 1-d convolution runs."""
        return replace(
            self,
            stride=(1, *self.stride),
            padding=(0, *self.padding),
            dilation=(1, *self.dilation),
            output_padding=(0, *self.output_padding),
        )

    def result_shape(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[int, ...]:
        """(batch, channels, spatial…). RuntimeError for a kernel that is larger than the padded input."""
        sides = []
        for axis, (stride, padding, dilation) in enumerate(zip(self.stride, self.padding, self.dilation, strict=True), start=2):
            size, reach = x.shape[axis], dilation * (weight.shape[axis] - 1) + 1
            if self.transposed:
                sides.append((size - 1) * stride - 2 * padding + reach + self.output_padding[axis - 2])
            else:
                sides.append((size + 2 * padding - reach) // stride + 1)
        if min(sides) <= 0:
            kernel, image = tuple(weight.shape[2:]), tuple(x.shape[2:])
            raise RuntimeError(f"kernel {kernel} is larger than the padded input {image} (padding {self.padding})")
        return (x.shape[0], weight.shape[1] * self.groups if self.transposed else weight.shape[0], *sides)


def conv(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``conv1d``, ``conv2d``, ``conv3d`` of a batch, with padding in numbers; anything else is taken apart first."""
    given = _DEFAULTS | named(func, args, kwargs)
    x, weight = given["input"], given["weight"]
    if x.dim() != weight.dim() or isinstance(given["padding"], str):
        return decompose(shadow, func, args, kwargs)
    _check(x, weight, given["groups"])
    return _convolve(shadow, x, weight, _geometry(given))


def convolution(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``aten::convolution``, where every kind of convolution ends."""
    given = _DEFAULTS | named(func, args, kwargs)
    return _convolve(shadow, given["input"], given["weight"], _geometry(given))


_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "transposed": False, "output_padding": 0}


def _geometry(given: dict[str, Any]) -> Geometry:
    rank = given["weight"].dim() - 2

    def sides(name: str) -> tuple[int, ...]:
        value = given[name]
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * rank if len(values) == 1 else values

    return Geometry(
        stride=sides("stride"),
        padding=sides("padding"),
        dilation=sides("dilation"),
        output_padding=sides("output_padding"),
        transposed=bool(given["transposed"]),
        groups=given["groups"],
    )


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


def _convolve(shadow: Shadow, x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    if x.dim() == 3:  # conv1d runs as conv2d of height 1, on a row-major input
        copy = _copied(shadow, x, x.is_contiguous(), "contiguous input")
        out = _convolve(shadow, x.contiguous().unsqueeze(2), weight.unsqueeze(2), geometry.with_height).squeeze(2)
        shadow.ledger.free(copy)
        return out
    shape = geometry.result_shape(x, weight)
    if _is_native_depthwise(x, weight, geometry):
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
        _run_cudnn(shadow, _call(x, weight, geometry, channels_last=channels_last))
    for copy in reversed(copies):
        shadow.ledger.free(copy)
    return out


def _call(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, *, channels_last: bool) -> ConvCall:
    return ConvCall(
        input_shape=tuple(x.shape),
        weight_shape=tuple(weight.shape),
        dtype=dtype_of(x),
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        transposed=geometry.transposed,
        channels_last=channels_last,
    )


def _run_cudnn(shadow: Shadow, call: ConvCall) -> None:
    workspace = shadow.target.conv_workspace(call)
    shadow.findings.convolutions[len(shadow.ledger.ops) - 1] = call
    shadow.findings.doubtful_convolutions += workspace.low_bytes != workspace.high_bytes
    shadow.ledger.free(shadow.doubtful_scratch(workspace, WORKSPACE_NAME))


def _copied(shadow: Shadow, tensor: torch.Tensor, is_fine: bool, name: str) -> int:
    return -1 if is_fine else shadow.scratch(bytes_of(tensor.shape, tensor.dtype), name)


def _is_native_depthwise(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """Whether PyTorch's own depthwise kernel runs, which takes no workspace."""
    if geometry.transposed or not kernels.is_depthwise(tuple(x.shape), tuple(weight.shape), geometry.groups):
        return False
    return not kernels.depthwise_uses_cudnn(
        tuple(x.shape),
        tuple(weight.shape),
        dtype_of(x),
        stride=(geometry.stride[0], geometry.stride[-1]),
        dilation=(geometry.dilation[0], geometry.dilation[-1]),
        channels_last=is_like_channels_last(x) or is_like_channels_last(weight),
    )


RULES: dict[Op, Rule] = {
    aten.conv1d.default: conv,
    aten.conv2d.default: conv,
    aten.conv3d.default: conv,
    aten.convolution.default: convolution,
}
