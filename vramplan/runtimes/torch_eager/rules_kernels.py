"""Norms: the statistics that a kernel writes although nobody reads them.

What each kernel asks for is in `vramplan.workspace.kernels`, with its source; here it is put into the ledger around the result.
"""

from __future__ import annotations

from typing import Any

import torch

from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of, channels_last_of, dense_like, fresh, is_like_channels_last
from vramplan.runtimes.torch_eager.scratch import hold, release
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose
from vramplan.workspace import kernels

aten: Any = torch.ops.aten

_FUSED_RMS_SINCE = (2, 9)


def layer_norm(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``layer_norm``: a strided input is copied; a mean and a reciprocal deviation for each row."""
    x, sides = args[0], args[1]
    func(*args, **kwargs)  # checks the operands
    copy = _contiguous(shadow, x)
    out = shadow.watch(fresh(x.shape, x.dtype), "layer_norm")
    held = hold(shadow, kernels.layer_norm(tuple(x.shape), tuple(sides), dtype_of(x)))
    shadow.ledger.free(copy)
    release(shadow, held)
    return out


def batch_norm(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``batch_norm`` in eval mode; with batch statistics (train) PyTorch's own decomposition."""
    x, weight = args[0], args[1]
    if args[5]:
        return decompose(shadow, func, args, kwargs)
    weight_dtype = None if weight is None else dtype_of(weight)
    copy, layout = -1, torch.preserve_format
    if kernels.uses_cudnn_batch_norm(tuple(x.shape), dtype_of(x), weight_dtype):
        layout = channels_last_of(x.dim()) if is_like_channels_last(x) else torch.contiguous_format
        copy = -1 if x.is_contiguous(memory_format=layout) else shadow.scratch(bytes_of(x.shape, x.dtype), "input copy")
    out = torch.empty_like(x, memory_format=layout) if copy >= 0 else dense_like(x)
    shadow.watch(out, "batch_norm")
    release(shadow, hold(shadow, kernels.batch_norm(tuple(x.shape), dtype_of(x), weight_dtype)))
    shadow.ledger.free(copy)
    return out


def rms_norm(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``rms_norm``: one kernel since 2.9, with a reciprocal deviation for each row."""
    x, sides = args[0], args[1]
    weight = args[2] if len(args) > 2 else kwargs.get("weight")
    if shadow.target.torch_version < _FUSED_RMS_SINCE or (weight is not None and weight.dtype != x.dtype):
        return decompose(shadow, func, args, kwargs)
    copy = _contiguous(shadow, x)
    out = shadow.watch(fresh(x.shape, x.dtype), "rms_norm")
    release(shadow, hold(shadow, kernels.rms_norm(tuple(x.shape), tuple(sides), dtype_of(x))))
    shadow.ledger.free(copy)
    return out


def group_norm(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``group_norm``: statistics of the groups, and the factors they make for each channel."""
    x, groups, weight = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("weight")
    copy = _contiguous(shadow, x)
    func(*args, **kwargs)
    out = shadow.watch(fresh(x.shape, x.dtype), "group_norm")
    version = shadow.target.torch_version
    scratch = kernels.group_norm(tuple(x.shape), groups, dtype_of(x), affine=weight is not None, torch_version=version)
    held = hold(shadow, scratch)
    release(shadow, [*reversed(held[2:]), *held[:2]])
    shadow.ledger.free(copy)
    return out


def embedding(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``embedding``: indices that cannot be seen as one row are copied first."""
    indices = args[1]
    copy = -1 if indices.is_contiguous() else shadow.scratch(bytes_of(indices.shape, indices.dtype), "flat indices")
    out = shadow.watch(func(*args, **kwargs), "embedding")
    shadow.ledger.free(copy)
    return out


def _contiguous(shadow: Shadow, x: torch.Tensor) -> int:
    return -1 if x.is_contiguous() else shadow.scratch(bytes_of(x.shape, x.dtype), "contiguous input")


RULES: dict[Op, Rule] = {
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.batch_norm.default: batch_norm,
    aten.group_norm.default: group_norm,
    aten.embedding.default: embedding,
}
