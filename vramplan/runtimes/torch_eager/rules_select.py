"""Sorting, ``topk`` and running sums: cub's buffers, in the order in which they come and go."""

from __future__ import annotations

from typing import Any

import torch

from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of
from vramplan.runtimes.torch_eager.scratch import hold, named, release
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, tensors_in
from vramplan.workspace import kernels

aten: Any = torch.ops.aten


def sort(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``sort``: values and indices, then the sort's own buffers."""
    out = func(*args, **kwargs)
    given = named(func, args, kwargs)
    for tensor in tensors_in(out):
        shadow.watch(tensor, "sort")
    play_sort(shadow, given["self"], given.get("dim", -1))
    return out


def play_sort(shadow: Shadow, x: torch.Tensor, axis: int) -> None:
    """What a sort of *x* holds beside its results. By segments it sorts twice, and the first storage goes before the second."""
    if not x.dim() or not x.numel():
        return
    axis %= x.dim()
    dense = x.stride(axis) == 1 or x.shape[axis] == 1
    scratch = kernels.sort(tuple(x.shape), axis, dtype_of(x), dense_along_dim=dense)
    names = [item.name for item in scratch]
    if "segment_storage" not in names:
        release(shadow, reversed(hold(shadow, scratch)))
        return
    held = hold(shadow, scratch[:-1])
    release(shadow, [held.pop(), held.pop()])
    held += hold(shadow, scratch[-1:])
    release(shadow, reversed(held))


def topk(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``topk``: long rows are counted by several blocks, and two scans have storage of their own."""
    out = func(*args, **kwargs)
    given = named(func, args, kwargs)
    x, axis = given["self"], given.get("dim", -1)
    for tensor in tensors_in(out):
        shadow.watch(tensor, "topk")
    if x.dim() and x.numel():
        count = shadow.target.sm_count
        scratch = kernels.topk(tuple(x.shape), axis % x.dim(), given["k"], dtype_of(x), multiprocessor_count=count)
        held = []
        for item in scratch:
            (index,) = hold(shadow, (item,))
            if item.name == "scan_storage":
                shadow.ledger.free(index)
            else:
                held.append(index)
        release(shadow, reversed(held))
    return out


def cumsum(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``cumsum`` and its kin: the input in the result's type, and row-major."""
    out = shadow.watch(func(*args, **kwargs), "cumsum")
    x = args[0]
    if x.dim():
        axis = args[1] % x.dim()
        copy = -1 if x.dtype == out.dtype else shadow.scratch(bytes_of(x.shape, out.dtype), "converted input")
        held = hold(shadow, kernels.cumsum(tuple(x.shape), axis, dtype_of(out), dense=copy >= 0 or x.is_contiguous()))
        release(shadow, [*reversed(held), copy])
    return out


RULES: dict[Op, Rule] = {
    aten.sort.default: sort,
    aten.sort.stable: sort,
    aten.topk.default: topk,
    aten.cumsum.default: cumsum,
}
