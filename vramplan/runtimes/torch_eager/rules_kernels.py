"""Norms, pooling, selection: the statistics, indices and buffers that a kernel writes although nobody reads them.

What each kernel asks for is in `vramplan.workspace.kernels`, with its source; here it is put into the ledger around the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from vramplan.dtypes import DType
from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of, fresh
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose, tensors_in
from vramplan.workspace import kernels
from vramplan.workspace.kernels import Scratch

aten: Any = torch.ops.aten


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
    out = shadow.watch(_dense_like(x), "batch_norm")
    release(shadow, hold(shadow, kernels.batch_norm(tuple(x.shape), dtype_of(x), None if weight is None else dtype_of(weight))))
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


def max_pool(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``max_pool2d`` and its kin: an int64 index for each result, always."""
    out = shadow.watch(func(*args, **kwargs), "max_pool")
    release(shadow, hold(shadow, kernels.max_pool2d(tuple(out.shape))))
    return out


def reduction(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``mean``, ``sum``, ``amax`` and the like: buffers when one result is the work of several blocks."""
    out = func(*args, **kwargs)
    x = args[0]
    axes = args[1] if len(args) > 1 else kwargs.get("dim")
    _reduced(shadow, x, axes, out)
    return out


def adaptive_avg_pool(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``adaptive_avg_pool2d``: to one position it is a mean."""
    x, size = args[0], tuple(args[1])
    if size != (1, 1):
        return decompose(shadow, func, args, kwargs)
    out = func(*args, **kwargs)
    _reduced(shadow, x, (-2, -1), out)
    return out


def _reduced(shadow: Shadow, x: torch.Tensor, axes: Any, out: torch.Tensor) -> None:
    shadow.watch(out, "reduction")
    if x.numel() == 0:
        return
    facts = merged(x, axes, out.numel())
    release(shadow, hold(shadow, kernels.reduce(facts, multiprocessor_count=shadow.target.sm_count)))


def merged(x: torch.Tensor, axes: Any, output_count: int) -> kernels.Reduction:
    """The reduction as TensorIterator sees it: neighbouring dimensions merged, the one of the smallest stride first."""
    if axes is None or axes == []:
        axes = range(x.dim())
    reduced = {axis % max(x.dim(), 1) for axis in ([axes] if isinstance(axes, int) else axes)}
    dims = sorted(((x.stride(axis), x.shape[axis], axis in reduced) for axis in range(x.dim()) if x.shape[axis] != 1))
    runs: list[list[Any]] = []
    for stride, size, is_reduced in dims:
        if runs and runs[-1][2] == is_reduced and runs[-1][0] * runs[-1][1] == stride:
            runs[-1][1] *= size
        else:
            runs.append([stride, size, is_reduced])
    reduced_fastest = not runs or bool(runs[0][2])
    fastest = runs[0][1] if runs else 1
    others = [run[0] for run in runs[1:]]
    vector = next(width for width in (4, 2, 1) if fastest % width == 0 and all(stride % width == 0 for stride in others))
    return kernels.Reduction(
        output_count=output_count,
        input_count=x.numel() // max(output_count, 1),
        accumulator_bytes=8 if x.dtype in (torch.int64, torch.float64) else 4,
        reduced_fastest=reduced_fastest,
        merged=sum(bool(run[2]) for run in runs) <= 1,
        output_vector=vector if not reduced_fastest else 1,
    )


def sort(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``sort``: values and indices, then the sort's own buffers."""
    out = func(*args, **kwargs)
    given = _named(func, args, kwargs)
    x, axis = given["self"], given.get("dim", -1)
    for tensor in tensors_in(out):
        shadow.watch(tensor, "sort")
    if x.dim():
        axis %= x.dim()
        dense = x.stride(axis) == 1 or x.shape[axis] == 1
        release(shadow, hold(shadow, kernels.sort(tuple(x.shape), axis, dtype_of(x), dense_along_dim=dense)))
    return out


def topk(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``topk``."""
    out = func(*args, **kwargs)
    given = _named(func, args, kwargs)
    x, axis = given["self"], given.get("dim", -1)
    for tensor in tensors_in(out):
        shadow.watch(tensor, "topk")
    if x.dim() and x.numel():
        count = shadow.target.sm_count
        scratch = kernels.topk(tuple(x.shape), axis % x.dim(), given["k"], dtype_of(x), multiprocessor_count=count)
        release(shadow, hold(shadow, scratch))
    return out


def cumsum(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``cumsum`` and its kin."""
    out = shadow.watch(func(*args, **kwargs), "cumsum")
    x = args[0]
    if x.dim():
        axis = args[1] % x.dim()
        release(shadow, hold(shadow, kernels.cumsum(tuple(x.shape), axis, dtype_of(out), dense=x.is_contiguous())))
    return out


def roll(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``roll``: one axis after another, each result held until the next is made."""
    x = args[0]
    axes = args[2] if len(args) > 2 else kwargs.get("dims", ())
    previous = -1
    for _ in range(len(axes) - 1):
        following = shadow.scratch(bytes_of(x.shape, x.dtype), "roll")
        shadow.ledger.free(previous)
        previous = following
    out = shadow.watch(func(*args, **kwargs), "roll")
    shadow.ledger.free(previous)
    return out


def embedding(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``embedding``: indices that cannot be seen as one row are copied first."""
    indices = args[1]
    copy = -1 if indices.is_contiguous() else shadow.scratch(bytes_of(indices.shape, indices.dtype), "flat indices")
    out = shadow.watch(func(*args, **kwargs), "embedding")
    shadow.ledger.free(copy)
    return out


def hold(shadow: Shadow, scratch: Iterable[Scratch]) -> list[int]:
    """Hold a kernel's buffers in order; those known as a bound only are counted as such."""
    held = []
    for item in scratch:
        held.append(shadow.scratch(item.size_bytes, item.name.replace("_", " ")))
        if item.bounded:
            shadow.bounded(item.name)
    return held


def release(shadow: Shadow, held: Iterable[int]) -> None:
    """Free them, in the order given."""
    for index in held:
        shadow.ledger.free(index)


def _contiguous(shadow: Shadow, x: torch.Tensor) -> int:
    return -1 if x.is_contiguous() else shadow.scratch(bytes_of(x.shape, x.dtype), "contiguous input")


def _dense_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _named(func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = (item.name for item in func._schema.arguments)
    return dict(zip(names, args, strict=False)) | kwargs


RULES: dict[Op, Rule] = {
    aten.layer_norm.default: layer_norm,
    aten.batch_norm.default: batch_norm,
    aten.group_norm.default: group_norm,
    aten.max_pool1d.default: max_pool,
    aten.max_pool2d.default: max_pool,
    aten.max_pool3d.default: max_pool,
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.mean.dim: reduction,
    aten.mean.default: reduction,
    aten.sum.default: reduction,
    aten.sum.dim_IntList: reduction,
    aten.amax.default: reduction,
    aten.amin.default: reduction,
    aten.sort.default: sort,
    aten.sort.stable: sort,
    aten.topk.default: topk,
    aten.cumsum.default: cumsum,
    aten.roll.default: roll,
    aten.embedding.default: embedding,
}
