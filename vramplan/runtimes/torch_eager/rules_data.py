"""Ops whose results depend on the elements: with known ones as large as they are, else as large as they can be.

Sources: aten/src/ATen/native/cuda: Nonzero.cu, IndexKernel.cpp, Indexing.cu, Unique.cu, Repeat.cu; torchvision's nms_kernel.cu.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from vramplan.runtimes.torch_eager import values
from vramplan.runtimes.torch_eager.layouts import bytes_of, fresh
from vramplan.runtimes.torch_eager.rules_select import play_sort
from vramplan.runtimes.torch_eager.scratch import named, release
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow
from vramplan.workspace import kernels

aten: Any = torch.ops.aten


def nonzero(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``nonzero``: int64 coordinates of each hit, one dimension after another in memory."""
    return _hits(shadow, args[0], "nonzero")


def masked_select(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``masked_select`` is indexing with a mask."""
    x, mask = args[:2]
    shape: torch.Size = torch.broadcast_tensors(x, mask)[0].shape  # type: ignore[no-untyped-call]
    hits = _hits(shadow, mask.expand(shape), "masked_select", known=mask if mask.shape == shape else None)
    return shadow.watch(fresh((hits.shape[0],), x.dtype), "masked_select")


def index(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x[...]`` with tensors; a boolean one becomes coordinates first, held until the result is there."""
    x, indices = args[0], args[1]
    if not _has_masks(indices):
        return func(*args, **kwargs)
    expanded = _expanded(shadow, indices)
    out = shadow.watch(func(x, expanded, *args[2:], **kwargs), "index")
    del expanded
    return out


def index_put(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x[mask] = value``: a number is ``masked_fill``, else the mask becomes coordinates first.

    On a device a number comes as a CPU tensor, on shadows as one whose element is known.
    """
    given = named(func, args, kwargs)
    indices, value = given["indices"], given["values"]
    if not _has_masks(indices):
        return func(*args, **kwargs)
    masks = [item for item in indices if item is not None]
    is_number = value.dim() == 0 and (not value.is_meta or values.known_of(value) is not None)
    if is_number and len(masks) == 1:
        if "index_put_" in func._schema.name:
            return args[0]
        return shadow.watch(torch.empty_like(args[0]), "index_put")
    if "index_put_" in func._schema.name:
        _expanded(shadow, indices)
        return args[0]
    out = shadow.watch(torch.empty_like(args[0]), "index_put")
    _expanded(shadow, indices)
    return out


def unique(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``unique`` of everything: a sorted copy, then its distinct elements; inverse and counts where asked for.

    Of elements that are not known all may differ, so that many bytes are held; but Python sees one, because what follows is
    often a loop over them (a class each), whose turns do not add up in memory.
    """
    given = named(func, args, kwargs)
    x, inverse, counts = given["self"], given.get("return_inverse", False), given.get("return_counts", False)
    known = values.known_of(x)
    count = int(torch.unique(known.value).numel()) if known else x.numel()
    if known is None:
        shadow.bounded("unique", "unique: bytes for all elements to differ; code that loops over them is run for one")
    size = bytes_of(x.shape, x.dtype)
    ordered = shadow.scratch(size, "sorted elements")
    indices = [shadow.scratch(x.numel() * 8, "sorted indices") for _ in range(2 if inverse else 0)]
    shadow.ledger.free(shadow.scratch(kernels.sort_storage(x.numel(), x.dtype.itemsize, 8 if inverse else 0), "sort storage"))
    out = shadow.watch(fresh((count,), x.dtype), "unique")
    number = shadow.scratch(8, "number of elements")
    shadow.ledger.free(shadow.scratch(kernels.unique_storage(x.numel(), x.dtype.itemsize), "select storage"))
    release(shadow, [number, ordered, *reversed(indices)])
    back = shadow.watch(fresh(x.shape if inverse else (0,), torch.int64), "unique inverse")
    numbers = shadow.watch(fresh((count if counts else 0,), torch.int64), "unique counts")
    return (out, back, numbers) if known else (out[:1], back, numbers[:1])


def repeat_interleave(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``repeat_interleave`` of a tensor of repeats: a running sum of them, then an index for each repeated element."""
    repeats, size = args[0], kwargs.get("output_size")
    known = values.known_of(repeats)
    if size is None and known is not None:
        size = int(known.value.sum())
    if size is None:
        size = repeats.numel()
        shadow.bounded("repeat_interleave", "repeat_interleave: every element is taken once, its repeats are not known")
    total = shadow.scratch(repeats.numel() * 8, "running sum")
    out = shadow.watch(fresh((size,), repeats.dtype), "repeat_interleave")
    shadow.ledger.free(total)
    return out


def scalar(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``item`` and truth: the element where it is known, else zero or False."""
    value = values.computed(func, args, kwargs)
    if value is not None:
        return value
    name = func._schema.name.partition("::")[2]
    x = args[0]
    if name == "is_nonzero" or x.dtype is torch.bool:
        zero: Any = False
    else:
        zero = 0.0 if x.is_floating_point() else 0j if x.is_complex() else 0
    shadow.bounded(name, f"{name} of a tensor whose elements are not known: {zero} is taken")
    return zero


def equal(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``equal``: true for one tensor with itself; else compared (a bool an element) and reduced."""
    x, other = args[:2]
    if x is other or (x.untyped_storage()._cdata == other.untyped_storage()._cdata and x.stride() == other.stride()):
        return True
    if x.shape != other.shape:
        return False
    release(shadow, [shadow.scratch(x.numel(), "comparison"), shadow.scratch(1, "all of it")])
    value = values.computed(func, args, kwargs)
    if value is None:
        shadow.bounded("equal", "equal of tensors whose elements are not known: False is taken")
    return bool(value)


def nms(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Torchvision's ``nms``: scores sorted, boxes gathered, a bit for each pair, then the kept ones are selected."""
    boxes, scores = args[0], args[1]
    count = boxes.shape[0]
    if not count:
        return shadow.watch(fresh((0,), torch.int64), "nms")
    real = values.computed(func, args, kwargs)
    kept = count if real is None else real.numel()
    if real is None:
        shadow.bounded("nms", f"nms: all {count} boxes are taken to be kept")
    ordered = shadow.scratch(bytes_of(scores.shape, scores.dtype), "sorted scores")
    order = shadow.scratch(count * 8, "order")
    play_sort(shadow, scores, 0)
    shadow.ledger.free(ordered)
    gathered = shadow.scratch(bytes_of(boxes.shape, boxes.dtype), "sorted boxes")
    mask = shadow.scratch(count * -(-count // 64) * 8, "mask of pairs")
    flags = shadow.scratch(count, "kept flags")
    chosen = _selected(shadow, (count,), kept)
    out = shadow.watch(fresh((kept,), torch.int64), "nms")
    del chosen
    release(shadow, [flags, mask, gathered, order])
    return out


def late_rule(func: Op) -> Rule | None:
    """The rule of an op that its library may not have registered yet when rules are made."""
    return _LATE.get(func._schema.name)


def _hits(shadow: Shadow, x: torch.Tensor, name: str, known: torch.Tensor | None = None) -> torch.Tensor:
    real = values.known_of(x if known is None else known)
    count = int(torch.count_nonzero(real.value)) if real is not None else x.numel()
    if real is None:
        shadow.bounded(name, f"{name}: all elements are taken to be hits")
    copy = -1 if x.is_contiguous() else shadow.scratch(bytes_of(x.shape, x.dtype), "row-major copy")
    return _selected(shadow, tuple(x.shape), count, copy)


def _selected(shadow: Shadow, shape: Sequence[int], count: int, copy: int = -1) -> torch.Tensor:
    """Count the hits, make room for their coordinates, select: each cub call has storage of its own."""
    total = math.prod(shape)
    held = [copy]
    if total:
        held.append(shadow.scratch(4, "number of hits"))
        shadow.ledger.free(shadow.scratch(kernels.count_storage(total, shadow.target.sm_count), "count storage"))
    columns = torch.empty((len(shape), count), dtype=torch.int64, device="meta").t()
    shadow.watch(columns, "nonzero")
    if total:
        shadow.ledger.free(shadow.scratch(kernels.scan_storage(total), "select storage"))
    release(shadow, reversed(held))
    return columns


def _has_masks(indices: Sequence[Any]) -> bool:
    return any(item is not None and item.dtype in (torch.bool, torch.uint8) for item in indices)


def _expanded(shadow: Shadow, indices: Sequence[Any]) -> list[Any]:
    expanded: list[Any] = []
    for item in indices:
        if item is not None and item.dtype in (torch.bool, torch.uint8):
            expanded += _hits(shadow, item, "index").unbind(1)
        else:
            expanded.append(item)
    return expanded


_LATE: dict[str, Rule] = {"torchvision::nms": nms}

RULES: dict[Op, Rule] = {
    aten.nonzero.default: nonzero,
    aten.masked_select.default: masked_select,
    aten.index.Tensor: index,
    aten.index_put.default: index_put,
    aten.index_put_.default: index_put,
    aten._unique2.default: unique,
    aten.repeat_interleave.Tensor: repeat_interleave,
    aten.item.default: scalar,
    aten._local_scalar_dense.default: scalar,
    aten.is_nonzero.default: scalar,
    aten.equal.default: equal,
}
