"""Attention: the backend that PyTorch picks on the device, and what it holds (`vramplan.workspace.attention`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from vramplan.dtypes import DType
from vramplan.runtimes.torch_eager.dtypes import DTYPES, dtype_of
from vramplan.runtimes.torch_eager.layouts import dense_like
from vramplan.runtimes.torch_eager.rules_gemm import prepare
from vramplan.runtimes.torch_eager.scratch import named
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose
from vramplan.workspace import kernels
from vramplan.workspace.attention import AttentionCall, AttentionDevice, AttentionPlan, Backend, Operand, attention_allocations

aten: Any = torch.ops.aten


def attention(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``scaled_dot_product_attention``."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    query, key, value, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
    if query.dtype not in DTYPES or query.dim() < 2 or query.numel() == 0:
        return decompose(shadow, func, args, kwargs)
    call = AttentionCall(
        query=_operand(query),
        key=_operand(key),
        value=_operand(value),
        dtype=DTYPES[query.dtype],
        mask=None if mask is None else _operand(mask),
        mask_dtype=DType.BOOL if mask is None or mask.dtype is torch.bool else DTYPES[mask.dtype],
        is_causal=bool(given.get("is_causal", False)),
        enable_gqa=bool(given.get("enable_gqa", False)),
    )
    plan = attention_allocations(call, device_of(shadow))
    for note in plan.bounded:
        shadow.bounded("scaled_dot_product_attention", f"attention: {note}")
    return _played(shadow, plan, _result(plan, query))


def device_of(shadow: Shadow) -> AttentionDevice:
    """What the choice of a backend depends on."""
    target = shadow.target
    return AttentionDevice(
        capability=target.capability, multiprocessor_count=target.sm_count, torch_version=target.torch_version
    )


def _operand(tensor: torch.Tensor) -> Operand:
    return Operand(shape=tuple(tensor.shape), strides=tuple(tensor.stride()))


def _played(shadow: Shadow, plan: AttentionPlan, out: torch.Tensor) -> torch.Tensor:
    """Write the plan's steps into the ledger; the result, as the kernel lays it out."""
    held: dict[str, int] = {}
    for step in plan.steps:
        if step.name == "output":
            shadow.watch(out, "attention")
        elif step.action == "alloc":
            held[step.name] = shadow.scratch(step.size_bytes, f"attention {step.name.replace('_', ' ')}")
        else:
            shadow.ledger.free(held.pop(step.name))
    return out


def _result(plan: AttentionPlan, query: torch.Tensor) -> torch.Tensor:
    """Flash and cuDNN write into ``empty_like`` of the query where its shape fits.

    The output's storage may be wider than its shape: a padded head is sliced off, not copied.
    """
    order, shape, dtype = plan.output_dim_order, plan.output_shape, query.dtype
    rows = max(math.prod(shape[:-1]), 1)
    padded = (*shape[:-1], plan.output_storage_bytes // dtype.itemsize // rows)
    if plan.backend in {Backend.FLASH, Backend.CUDNN} and padded == tuple(query.shape):
        return dense_like(query)
    full = torch.empty([padded[axis] for axis in order], dtype=dtype, device="meta")
    return full.permute(sorted(range(len(order)), key=order.__getitem__))[..., : shape[-1]]


def multi_head(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``_native_multi_head_attention``, the fast path of ``nn.MultiheadAttention``: one op, products and all."""
    given = named(func, args, kwargs)
    query, heads = given["query"], given["num_head"]
    needs, averages = given.get("need_weights", True), given.get("average_attn_weights", True)
    steps = kernels.multi_head_attention(
        batch=query.shape[0],
        rows=query.shape[1],
        width=given["embed_dim"],
        heads=heads,
        dtype=dtype_of(query),
        device=device_of(shadow),
        masked=given.get("mask") is not None,
        weights=("averaged" if averages else "each") if needs else "",
    )
    shape = (query.shape[0], query.shape[1], query.shape[1])
    weights = torch.empty(shape if averages else (shape[0], heads, *shape[1:]), dtype=query.dtype, device="meta")
    out = torch.empty(query.shape, dtype=query.dtype, device="meta")
    _play(shadow, steps, out, weights if needs else None)
    return out, weights if needs else None


def encoder_layer(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``_transformer_encoder_layer_fwd``, the fast path of ``nn.TransformerEncoderLayer``."""
    given = named(func, args, kwargs)
    source = given["src"]
    steps = kernels.transformer_encoder_layer(
        batch=source.shape[0],
        rows=source.shape[1],
        width=given["embed_dim"],
        heads=given["num_heads"],
        hidden=given["ffn_weight_1"].shape[0],
        dtype=dtype_of(source),
        device=device_of(shadow),
        norm_first=given["norm_first"],
        masked=given.get("mask") is not None,
    )
    out = torch.empty(source.shape, dtype=source.dtype, device="meta")
    _play(shadow, steps, out)
    return out


def _play(
    shadow: Shadow, steps: Iterable[tuple[str, str, int]], out: torch.Tensor, weights: torch.Tensor | None = None
) -> None:
    """Steps by name into the ledger; the first product brings the libraries' workspaces."""
    held: dict[str, list[int]] = {}
    steps = list(steps)
    last = max(index for index, (action, name, _) in enumerate(steps) if action == "alloc" and name in ("output", "fed"))
    kept = [index for index, (action, name, _) in enumerate(steps) if action == "alloc" and name == "weights"]
    if weights is not None and not kept:
        kept = [max(index for index, step in enumerate(steps) if step[0] == "alloc" and step[1] in ("scores", "softmax"))]
    for index, (action, name, size_bytes) in enumerate(steps):
        if action == "alloc" and index == last and size_bytes == out.numel() * out.element_size():
            shadow.watch(out, "attention")
        elif action == "alloc" and index in kept and weights is not None:
            shadow.watch(weights, "attention weights")
        elif action == "alloc":
            held.setdefault(name, []).append(shadow.scratch(size_bytes, f"attention {name}"))
        elif held.get(name):
            shadow.ledger.free(held[name].pop())
        if index == 0:
            prepare(shadow, epilogue=True, count=out.numel())


RULES: dict[Op, Rule] = {
    aten.scaled_dot_product_attention.default: attention,
    aten._native_multi_head_attention.default: multi_head,
    aten._transformer_encoder_layer_fwd.default: encoder_layer,
}
