"""Attention layers in one operator: the fast paths of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer`."""

from __future__ import annotations

from vramplan.dtypes import DType
from vramplan.workspace.attention import (
    AttentionCall,
    AttentionDevice,
    Backend,
    Operand,
    attention_allocations,
    choose_backend,
)
from vramplan.workspace.kernels.norms import layer_norm
from vramplan.workspace.kernels.scratch import Shape, item_bytes


def multi_head_attention(
    *,
    batch: int,
    rows: int,
    width: int,
    heads: int,
    dtype: DType,
    device: AttentionDevice,
    masked: bool = False,
    weights: str = "",
) -> tuple[tuple[str, str, int], ...]:
    """Every allocation of `_native_multi_head_attention` for self-attention, as (action, name, bytes).

    *weights* says which attention weights are returned: "" for none, "averaged" over heads, or "each": the softmax itself.

    transformers/cuda/attention.cu `native_multi_head_attention_cuda`. Fused (no mask, head a multiple of 8, and the choice for
    query, key, value as views of the input is flash, efficient or cuDNN): qkv, attention, projection; then attention and
    qkv go (recorded on 2.11). Otherwise: qkv, its biased and rescaled copy, scores with softmax in place (a masked softmax
    makes new ones), the second product into the query's part, a transposed copy, projection. Library workspaces of the
    first GEMM are not listed.
    """
    item, head = item_bytes(dtype), width // heads
    tokens = batch * rows * width * item
    query = _heads_view(batch, rows, heads, head, 1)
    whole = AttentionCall(query=query, key=query, value=query, dtype=dtype)
    if not masked and not weights and head % 8 == 0 and choose_backend(whole, device).backend is not Backend.MATH:
        return (
            ("alloc", "qkv", 3 * tokens),
            *_inner(batch=batch, rows=rows, heads=heads, head=head, dtype=dtype, device=device),
            ("alloc", "output", tokens),
            ("free", "attention", tokens),
            ("free", "qkv", 3 * tokens),
        )
    scores = batch * heads * rows * rows * item
    softmax = (("alloc", "softmax", scores), ("free", "scores", scores)) if masked else ()
    last = "softmax" if masked else "scores"
    averaged = (("alloc", "weights", scores // heads), ("free", last, scores)) if weights == "averaged" else ()
    return (
        ("alloc", "qkv", 3 * tokens),
        ("alloc", "qkv_biased", 3 * tokens),
        ("free", "qkv", 3 * tokens),
        ("alloc", "scores", scores),
        *softmax,
        *(() if weights else (("free", last, scores),)),
        ("alloc", "context", tokens),
        ("alloc", "output", tokens),
        ("free", "context", tokens),
        *averaged,
        ("free", "qkv_biased", 3 * tokens),
    )


def _heads_view(batch: int, rows: int, heads: int, head: int, parts: int) -> Operand:
    row = parts * heads * head
    return Operand(shape=(batch, heads, rows, head), strides=(rows * row, head, row, 1))


def _inner(
    *, batch: int, rows: int, heads: int, head: int, dtype: DType, device: AttentionDevice
) -> tuple[tuple[str, str, int], ...]:
    """Attention on the three parts of one product; its output is called `attention`."""
    part = _heads_view(batch, rows, heads, head, 3)
    plan = attention_allocations(AttentionCall(query=part, key=part, value=part, dtype=dtype), device)
    return tuple((step.action, "attention" if step.name == "output" else step.name, step.size_bytes) for step in plan.steps)


def transformer_encoder_layer(
    *,
    batch: int,
    rows: int,
    width: int,
    heads: int,
    hidden: int,
    dtype: DType,
    device: AttentionDevice,
    norm_first: bool = False,
    masked: bool = False,
) -> tuple[tuple[str, str, int], ...]:
    """Every allocation of `_transformer_encoder_layer_fwd`, as (action, name, bytes): transformers/transformer.cpp.

    Residuals are added in place. GELU is fused into the first product by cuBLASLt, ReLU too; where Lt is not taken GELU
    makes one more copy (not listed). Each layer norm leaves its statistics when its own call returns.
    """
    tokens, inner = batch * rows * width * item_bytes(dtype), batch * rows * hidden * item_bytes(dtype)
    mha = [
        (action, "attended" if name == "output" else name, size)
        for action, name, size in multi_head_attention(
            batch=batch, rows=rows, width=width, heads=heads, dtype=dtype, device=device, masked=masked
        )
    ]
    products = [("alloc", "hidden", inner), ("alloc", "fed", tokens), ("free", "hidden", inner)]
    shape = (batch, rows, width)
    if norm_first:
        steps = [
            *_norm("normed", tokens, shape, dtype),
            *mha,
            ("free", "normed", tokens),
            *_norm("normed", tokens, shape, dtype),
        ]
        return (*steps, *products[:2], ("free", "hidden", inner), ("free", "normed", tokens), ("free", "attended", tokens))
    steps = [*mha, *_norm("normed", tokens, shape, dtype), ("free", "attended", tokens), *products]
    return (*steps, *_norm("output", tokens, shape, dtype), ("free", "fed", tokens), ("free", "normed", tokens))


def _norm(name: str, tokens: int, shape: Shape, dtype: DType) -> list[tuple[str, str, int]]:
    stats = layer_norm(shape, shape[-1:], dtype)
    made = [("alloc", name, tokens), *(("alloc", one.name, one.size_bytes) for one in stats)]
    return [*made, *(("free", one.name, one.size_bytes) for one in stats)]
