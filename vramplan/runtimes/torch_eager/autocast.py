"""Automatic mixed precision: which ops narrow their operands, which widen them, and which casts are kept.

Source: aten/src/ATen/autocast_mode.h (the lists for CUDA) and autocast_mode.cpp (``cached_cast``): the narrow copy of an fp32
parameter that wants a gradient is kept until the outermost autocast block ends; every other cast lives as long as the call.
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


class Casts:
    """The casts of one autocast block; ``kept`` are narrow copies of parameters."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def applied(self, name: str, args: Any, kwargs: dict[str, Any], narrow: torch.dtype) -> tuple[Any, dict[str, Any]]:
        """The operands of the op called *name* as autocast hands them on."""
        if name in NARROWED:
            return self._cast(args, narrow), self._cast(kwargs, narrow)
        if name in WIDENED:
            return self._cast(args, torch.float32), self._cast(kwargs, torch.float32)
        if name in SUMMED_WIDE and kwargs.get("dtype") is None and _is_narrow(args[0]):
            return args, {**kwargs, "dtype": torch.float32}
        if name in PROMOTED:
            widest = torch.float32 if any(leaf.dtype is torch.float32 for leaf in _leaves(args)) else narrow
            return self._cast(args, widest), self._cast(kwargs, widest)
        return args, kwargs

    def _cast(self, item: Any, dtype: torch.dtype) -> Any:
        if isinstance(item, torch.Tensor):
            if not item.is_meta or item.dtype not in _FLOATS or item.dtype is dtype:
                return item
            if item.dtype is torch.float32 and item.requires_grad and item.is_leaf:
                known = self.kept.get(id(item))
                if known is None:
                    known = self.kept[id(item)] = (item, item.detach().to(dtype))
                return known[1]
            return item.detach().to(dtype)
        if isinstance(item, dict):
            return {key: self._cast(value, dtype) for key, value in item.items()}
        return type(item)(self._cast(value, dtype) for value in item) if type(item) in (list, tuple) else item


def _is_narrow(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.dtype in (torch.float16, torch.bfloat16)


def _leaves(item: Any) -> list[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        return [item]
    return [leaf for part in item for leaf in _leaves(part)] if isinstance(item, list | tuple) else []
