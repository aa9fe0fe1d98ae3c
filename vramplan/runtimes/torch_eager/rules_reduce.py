"""Reductions: the buffers and semaphores of a result that several blocks share, by how the axes lie (`kernels.reduce`)."""

from __future__ import annotations

from typing import Any

import torch

from vramplan.runtimes.torch_eager.layouts import bytes_of
from vramplan.runtimes.torch_eager.scratch import hold, named, release
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose, tensors_in
from vramplan.workspace import kernels

aten: Any = torch.ops.aten


def reduction(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``mean``, ``amax``, ``var`` and the like: outputs, a copy in the type that is summed, then what the blocks share."""
    out = func(*args, **kwargs)
    given = named(func, args, kwargs)
    results = list(tensors_in((out,)))
    for tensor in results:
        shadow.watch(tensor, "reduction")
    kind = func._schema.name.partition("::")[2]
    reduced(shadow, given["self"], given.get("dim"), results[0], kind)
    return out


def adaptive_avg_pool(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``adaptive_avg_pool2d``: to one position it is a mean."""
    x, size = args[0], tuple(args[1])
    if size != (1, 1):
        return decompose(shadow, func, args, kwargs)
    out = shadow.watch(func(*args, **kwargs), "reduction")
    reduced(shadow, x, (-2, -1), out, "mean")
    return out


def reduced(shadow: Shadow, x: torch.Tensor, axes: Any, out: torch.Tensor, kind: str) -> None:
    """What the reduction of *x* over *axes* holds beside its results; semaphores go before the buffer."""
    if x.numel() == 0:
        return
    copy = -1
    if kind in _CONVERTED and out.dtype != x.dtype and not (x.dtype in _HALF and out.dtype is torch.float32):
        copy = shadow.scratch(bytes_of(x.shape, out.dtype), "converted input")
        x = torch.empty_like(x, dtype=out.dtype)
    facts = merged(x, axes, out.numel(), accumulator_bytes(kind, x.dtype))
    target = shadow.target
    threads = _THREADS.get(target.capability, 2048)
    scratch = kernels.reduce(facts, multiprocessor_count=target.sm_count, threads_per_multiprocessor=threads)
    release(shadow, reversed(hold(shadow, scratch)))
    shadow.ledger.free(copy)


def accumulator_bytes(kind: str, dtype: torch.dtype) -> int:
    """Size of the value that threads pass on: ReduceMinValuesKernel.cu, ReduceLogicKernel.cu, ReduceMomentKernel.cu and kin.

    Extremes keep the input's type, with an index beside it (a pair of 16 bytes) where one is returned; logic keeps a bool;
    variances a mean, a second moment and two counts; sums of half types are fp32.
    """
    if kind in {"amax", "amin", "aminmax"}:
        return dtype.itemsize
    if kind in {"any", "all"}:
        return 1
    if kind in {"max", "min", "argmax", "argmin"}:
        return 16
    if kind in {"var", "std", "var_mean", "std_mean"}:
        return 32 if dtype is torch.float64 else 16
    return 4 if dtype in _HALF else dtype.itemsize


def extreme(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``max()`` and ``min()`` of everything return no index: ReduceAllOps.cpp."""
    out = shadow.watch(func(*args, **kwargs), "reduction")
    reduced(shadow, args[0], None, out, "amax")
    return out


def merged(x: torch.Tensor, axes: Any, output_count: int, accumulator: int) -> kernels.Reduction:
    """The reduction as TensorIterator sees it: neighbouring dimensions merged, the one of the smallest stride first."""
    if axes is None or axes == []:
        axes = range(x.dim())
    reduced = {axis % max(x.dim(), 1) for axis in ([axes] if isinstance(axes, int) else axes)}
    dims = sorted((x.stride(axis), x.shape[axis], axis in reduced) for axis in range(x.dim()) if x.shape[axis] != 1)
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
        accumulator_bytes=accumulator,
        reduced_fastest=reduced_fastest,
        merged=sum(bool(run[2]) for run in runs) <= 1,
        output_vector=vector if not reduced_fastest else 1,
    )


_THREADS = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536, (12, 1): 1536}
"""Threads a multiprocessor holds, by compute capability; 2048 on the others (CUDA C++ Programming Guide, table 24)."""
_HALF = (torch.float16, torch.bfloat16)
_CONVERTED = frozenset({"sum", "mean", "nansum", "prod", "linalg_vector_norm"})
"""Reductions that sum in the result's type: ReduceOpsUtils.h ``make_reduction``; half to fp32 is done on the way."""

RULES: dict[Op, Rule] = {
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.max.default: extreme,
    aten.min.default: extreme,
    **dict.fromkeys(
        (
            aten.mean.dim, aten.mean.default, aten.sum.default, aten.sum.dim_IntList, aten.nansum.default,
            aten.prod.default, aten.prod.dim_int, aten.amax.default, aten.amin.default, aten.aminmax.default,
            aten.any.default, aten.any.dim, aten.any.dims, aten.all.default, aten.all.dim, aten.all.dims,
            aten.max.dim, aten.min.dim, aten.argmax.default, aten.argmin.default, aten.linalg_vector_norm.default,
            aten.var.correction, aten.std.correction, aten.var_mean.correction, aten.std_mean.correction,
        ),
        reduction,
    ),
}  # fmt: skip
