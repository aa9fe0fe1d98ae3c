"""Pooling, resizing, rolling, unfolding and recurrence: the copies of strided images, and buffers beside the result.

Sources: aten/src/ATen/native/cuda: AveragePool2d.cu, AdaptiveMaxPooling2d.cu, DilatedMaxPool2d.cu, UpSampleNearest2d.cu,
UpSampleBilinear2d.cu, ReflectionPad.cu, TensorTransformations.h, Im2Col.cu, Col2Im.cu; aten/src/ATen/native:
AffineGridGenerator.cpp, PixelShuffle.cpp, cudnn/RNN.cpp.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vramplan.runtimes.torch_eager.layouts import bytes_of, channels_last_of, fresh, is_like_channels_last
from vramplan.runtimes.torch_eager.rules_gemm import prepare
from vramplan.runtimes.torch_eager.scratch import hold, named, release
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose, tensors_in
from vramplan.workspace import kernels

aten: Any = torch.ops.aten


def max_pool(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``max_pool2d`` and its kin: an int64 index for each result, always."""
    out = shadow.watch(func(*args, **kwargs), "max_pool")
    release(shadow, hold(shadow, kernels.max_pool2d(tuple(out.shape))))
    return out


def avg_pool(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``avg_pool2d``: an input that is in neither layout (a slice of channels) is copied after the result is made."""
    x = args[0]
    out = shadow.watch(func(*args, **kwargs), "avg_pool")
    layout = channels_last_of(x.dim()) if is_like_channels_last(x) else torch.contiguous_format
    if not x.is_contiguous(memory_format=layout):
        shadow.ledger.free(_copy(shadow, x))
    return out


def row_major_copies(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kernels for row-major images only: outputs are made once more, then the input, and both are copied back and forth."""
    x = args[0]
    out = func(*args, **kwargs)
    results = list(tensors_in((out,)))
    for tensor in results:
        shadow.watch(tensor, func._schema.name.partition("::")[2])
    if not x.is_contiguous():
        strided = [tensor for tensor in results if not tensor.is_contiguous() or len(results) > 1]
        held = [_copy(shadow, tensor) for tensor in strided]
        release(shadow, reversed([*held, _copy(shadow, x)]))
    return out


def nearest(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``upsample_nearest2d``: there is a channels_last kernel from four channels on."""
    if args[0].shape[1] >= _CHANNELS_LAST_FROM:
        return func(*args, **kwargs)
    return row_major_copies(shadow, func, args, kwargs)


def input_copy(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``reflection_pad2d``, ``_softmax``: a strided input is copied once the result is there."""
    out = shadow.watch(func(*args, **kwargs), func._schema.name.partition("::")[2])
    if not args[0].is_contiguous():
        shadow.ledger.free(_copy(shadow, args[0]))
    return out


def softmax(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``softmax``: fp16 to fp32 is one kernel, any other conversion a copy (SoftMax.cpp)."""
    given = named(func, args, kwargs)
    x = given["self"]
    if x.dtype is not torch.float16 or given.get("dtype") is not torch.float32:
        return decompose(shadow, func, args, kwargs)
    out = shadow.watch(fresh(x.shape, torch.float32), "softmax")
    if not x.is_contiguous():
        shadow.ledger.free(_copy(shadow, x))
    return out


def roll(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``roll``: a row-major copy, then one axis after another, each result held until the next is made."""
    x = args[0]
    axes = args[2] if len(args) > 2 else kwargs.get("dims", ())
    previous = -1 if x.is_contiguous() else _copy(shadow, x)
    for _ in range(len(axes) - 1):
        following = _copy(shadow, x)
        shadow.ledger.free(previous)
        previous = following
    out = shadow.watch(func(*args, **kwargs), "roll")
    shadow.ledger.free(previous)
    return out


def unfold(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``im2col`` and ``col2im``: the result is first made as large as the input, then resized, which keeps a larger storage."""
    x, name = args[0], func._schema.name.partition("::")[2]
    out = func(*args, **kwargs)
    first, wanted = bytes_of(x.shape, x.dtype), bytes_of(out.shape, out.dtype)
    if wanted <= first:
        out = torch.empty(x.numel(), dtype=x.dtype, device="meta")[: out.numel()].view(out.shape)
        shadow.watch(out, name)
        shadow.ledger.free(-1 if x.is_contiguous() else _copy(shadow, x))
        return out
    held = [shadow.scratch(first, "result before it is resized"), -1 if x.is_contiguous() else _copy(shadow, x)]
    shadow.watch(out, name)
    release(shadow, held)
    return out


def affine_grid(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``affine_grid_generator``: a grid of base coordinates, filled from one ``linspace`` an axis, times theta."""
    theta, size, corners = args
    sides = tuple(size)[2:]
    base = shadow.scratch(bytes_of((size[0], *sides, len(sides) + 1), theta.dtype), "base grid")
    for side in reversed(sides):
        scaled = not corners and side > 1
        release(shadow, [shadow.scratch(side * theta.dtype.itemsize, "coordinates") for _ in range(3 if scaled else 1)])
    out = shadow.watch(func(*args, **kwargs), "affine_grid")
    prepare(shadow, epilogue=False, count=out.numel())
    shadow.ledger.free(base)
    return out


def pixel_unshuffle(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``pixel_unshuffle``: the last reshape writes row-major."""
    out = func(*args, **kwargs)
    return fresh(out.shape, out.dtype) if args[1] > 1 else out


def bernoulli(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``bernoulli``: probabilities of half types are copied to fp32 (DistributionTemplates.h)."""
    out = shadow.watch(func(*args, **kwargs), "bernoulli")
    if args[0].dtype in (torch.float16, torch.bfloat16):
        shadow.ledger.free(shadow.scratch(args[0].numel() * 4, "probabilities"))
    return out


def isinf(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``isinf``: ``abs() == inf`` (TensorCompare.cpp)."""
    x = args[0]
    absolute = shadow.scratch(bytes_of(x.shape, x.dtype), "absolute values") if x.is_floating_point() else -1
    out = shadow.watch(func(*args, **kwargs), "isinf")
    shadow.ledger.free(absolute)
    return out


def pow_scalar(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``pow`` of a number: the base goes to the device in 8 bytes (Pow.cpp), but for 1, which fills the result."""
    out = shadow.watch(func(*args, **kwargs), "pow")
    if args[0] != 1:
        shadow.ledger.free(shadow.scratch(8, "base"))
    return out


def one_hot(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``one_hot`` with the number of classes given writes into zeros; without it the device counts them."""
    classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    if classes < 0:
        return decompose(shadow, func, args, kwargs)
    return shadow.watch(fresh((*args[0].shape, classes), torch.int64), "one_hot")


def recurrent(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu`` of a whole batch on cuDNN."""
    given = named(func, args, kwargs)
    x, states, params, first = given["input"], given["hx"], given["params"], given["batch_first"]
    states = list(states) if isinstance(states, tuple | list) else [states]
    name = func._schema.name.partition("::")[2]
    if x.dim() != 3 or x.numel() == 0:
        return decompose(shadow, func, args, kwargs)
    sequence = x.transpose(0, 1) if first else x
    copy = -1 if sequence.is_contiguous() else _copy(shadow, x)
    steps, batch, _ = sequence.shape
    directions = 2 if given["bidirectional"] else 1
    out = shadow.watch(fresh((steps, batch, states[0].shape[-1] * directions), x.dtype), name)
    last = [shadow.watch(fresh(state.shape, x.dtype), f"{name} state") for state in states]
    scratch = kernels.recurrent(
        weight_bytes=sum(math.prod(weight.shape) for weight in params if weight.dim() > 1) * x.dtype.itemsize,
        parameter_bytes=sum(weight.numel() for weight in params) * x.dtype.itemsize,
        step_bytes=steps * batch * directions * states[-1].shape[-1] * x.dtype.itemsize,
        gates=_GATES[name],
        flattened=x.dtype is not torch.bfloat16,
    )
    held = hold(shadow, scratch)
    release(shadow, [held[-1], copy, *held[:-1]])
    note = "recurrence: cuDNN's workspace is an estimate from one measured network (two layers, both directions, 50 steps)"
    shadow.bounded(name, note)
    return (out.transpose(0, 1) if first else out, *last)


def _copy(shadow: Shadow, x: torch.Tensor) -> int:
    return shadow.scratch(bytes_of(x.shape, x.dtype), "row-major copy")


_CHANNELS_LAST_FROM = 4
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

RULES: dict[Op, Rule] = {
    aten.max_pool1d.default: max_pool,
    aten.max_pool2d.default: max_pool,
    aten.max_pool3d.default: max_pool,
    aten.avg_pool2d.default: avg_pool,
    aten.adaptive_max_pool2d.default: row_major_copies,
    aten.upsample_nearest2d.default: nearest,
    aten._upsample_nearest_exact2d.default: nearest,
    aten._upsample_bilinear2d_aa.default: row_major_copies,
    aten._upsample_bicubic2d_aa.default: row_major_copies,
    aten.reflection_pad2d.default: input_copy,
    aten._softmax.default: input_copy,
    aten._log_softmax.default: input_copy,
    aten.softmax.int: softmax,
    aten.log_softmax.int: softmax,
    aten.roll.default: roll,
    aten.im2col.default: unfold,
    aten.col2im.default: unfold,
    aten.affine_grid_generator.default: affine_grid,
    aten.pixel_unshuffle.default: pixel_unshuffle,
    aten.bernoulli.default: bernoulli,
    aten.isinf.default: isinf,
    aten.pow.Scalar: pow_scalar,
    aten.one_hot.default: one_hot,
    aten.lstm.input: recurrent,
    aten.gru.input: recurrent,
    aten.rnn_tanh.input: recurrent,
    aten.rnn_relu.input: recurrent,
}
