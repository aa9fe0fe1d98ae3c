"""Floating-point operations of a traced forward, by PyTorch's own counter (``torch.utils.flop_counter``).

Two operations a multiply-add, products and convolutions only, as everywhere in vramplan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import conv_flop_count, flop_registry, mm_flop, sdpa_flop_count

aten: Any = torch.ops.aten

Formula = Callable[..., int]
_sdpa: Formula = sdpa_flop_count


def _conv(x: Any, weight: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return int(conv_flop_count(x.shape, weight.shape, out_val.shape))


def _linear(x: Any, weight: Any, *_: Any, out_val: Any, **__: Any) -> int:
    rows = x.numel() // max(x.shape[-1], 1)
    return int(mm_flop((rows, x.shape[-1]), (x.shape[-1], weight.shape[0])))


def _attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any, **__: Any) -> int:
    if query.dim() != 4:
        return 0
    heads = query.shape[1]  # grouped queries read the same keys several times
    return int(_sdpa(query.shape, (key.shape[0], heads, *key.shape[2:]), (value.shape[0], heads, *value.shape[2:])))


def _multi_head(query: Any, key: Any, value: Any, width: int, heads: int, *_: Any, out_val: Any, **__: Any) -> int:
    batch, rows, _ = query.shape
    products = mm_flop((batch * rows, width), (width, 4 * width))
    part = (batch, heads, rows, width // heads)
    return int(products) + int(_sdpa(part, part, part))


_OWN: dict[Any, Formula] = {
    aten.conv1d.default: _conv,
    aten.conv2d.default: _conv,
    aten.conv3d.default: _conv,
    aten.linear.default: _linear,
    aten.scaled_dot_product_attention.default: _attention,
    aten._native_multi_head_attention.default: _multi_head,
}


def formula_of(func: Any) -> Formula | None:
    """The counter of *func*; None for an op that multiplies nothing."""
    own = _OWN.get(func)
    registered: Formula | None = flop_registry.get(func.overloadpacket)
    return own or registered
