"""Automatic mixed precision: which ops narrow their operands, and which widen them.

Source: aten/src/ATen/autocast_mode.h (the lists for CUDA). A cast lives as long as the call. In training the narrow copy of a
parameter is kept until the autocast block ends (``cached_cast``); under ``inference_mode`` it is not: six models recorded on
an H200 (torch 2.11) cast their weights anew for every call.
"""

from __future__ import annotations

from typing import Any

import torch

NARROWED = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "cudnn_convolution", "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm",
    "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "scaled_dot_product_attention",
})  # fmt: skip
"""AT_FORALL_LOWER_PRECISION_FP."""

WIDENED = frozenset({
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan",
    "pow", "softplus", "layer_norm", "native_layer_norm", "group_norm", "frobenius_norm", "nuclear_norm", "cosine_similarity",
    "cosine_embedding_loss", "nll_loss", "hinge_embedding_loss", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss",
    "mse_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss",
    "multi_margin_loss", "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp",
})  # fmt: skip
"""AT_FORALL_FP32."""

SUMMED_WIDE = frozenset({
    "prod", "softmax", "log_softmax", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm", "sum",
})  # fmt: skip
"""AT_FORALL_FP32_SET_OPT_DTYPE: the result is fp32 although the operand is not cast."""

PROMOTED = frozenset({
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sample", "index_put", "tensordot", "scatter_add",
    "cat", "stack",
})  # fmt: skip
"""AT_FORALL_PROMOTE: operands take the widest type among them."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def applied(name: str, args: Any, kwargs: dict[str, Any], narrow: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The operands of the op called *name* as autocast hands them on."""
    if name in NARROWED:
        return _cast(args, narrow), _cast(kwargs, narrow)
    if name in WIDENED:
        return _cast(args, torch.float32), _cast(kwargs, torch.float32)
    if name in SUMMED_WIDE and kwargs.get("dtype") is None and _is_narrow(args[0]):
        return args, {**kwargs, "dtype": torch.float32}
    if name in PROMOTED:
        widest = torch.float32 if any(leaf.dtype is torch.float32 for leaf in _leaves(args)) else narrow
        return _cast(args, widest), _cast(kwargs, widest)
    return args, kwargs


def _cast(item: Any, dtype: torch.dtype) -> Any:
    if isinstance(item, torch.Tensor):
        return item.detach().to(dtype) if item.is_meta and item.dtype in _FLOATS and item.dtype is not dtype else item
    if isinstance(item, dict):
        return {key: _cast(value, dtype) for key, value in item.items()}
    return type(item)(_cast(value, dtype) for value in item) if type(item) in (list, tuple) else item


def _is_narrow(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.dtype in (torch.float16, torch.bfloat16)


def _leaves(item: Any) -> list[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        return [item]
    return [leaf for part in item for leaf in _leaves(part)] if isinstance(item, list | tuple) else []
