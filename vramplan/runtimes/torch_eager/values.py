"""What is known stays real: small tensors whose elements follow from constants keep them beside their shadow.

A detection head does ``float(stride[i])``, a mask is built from ``arange``: such values steer Python code, so they have to be
right. A shadow with known elements carries a real CPU tensor; an op whose operands are all known is also run on those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

LIMIT_COUNT = 1 << 16
"""Elements up to which a value is kept: enough for masks and positions, too few to cost time."""

_ATTRIBUTE = "_vramplan_known"


class Known:
    """The elements of a shadow. Views share ``alive``: a write of unknown elements through one of them ends all."""

    __slots__ = ("alive", "value")

    def __init__(self, value: torch.Tensor, alive: list[bool] | None = None) -> None:
        self.value = value
        self.alive = [True] if alive is None else alive


def known_of(tensor: torch.Tensor) -> Known | None:
    """The elements of *tensor*, if they are known. A real CPU tensor knows its own."""
    known: Known | None = getattr(tensor, _ATTRIBUTE, None)
    return known if known is not None and known.alive[0] else None


def keep(tensor: torch.Tensor, value: torch.Tensor, alive: list[bool] | None = None) -> None:
    """Give the shadow *tensor* its elements, if they are few."""
    if value.numel() <= LIMIT_COUNT and value.shape == tensor.shape:
        setattr(tensor, _ATTRIBUTE, Known(value, alive))


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A real copy of a shadow: its elements where they are known, else zeros."""
    known = known_of(tensor)
    return known.value.clone() if known is not None else torch.zeros(tensor.shape, dtype=tensor.dtype)


def forget(tensor: torch.Tensor) -> None:
    """The elements of *tensor* and of all its views are not known any more."""
    known: Known | None = getattr(tensor, _ATTRIBUTE, None)
    if known is not None:
        known.alive[0] = False


def computed(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """*func* on the real values behind *args*; None when one is not known or the op fails on the CPU."""
    try:
        return func(*_real(args), **{name: _real(item) for name, item in kwargs.items()})
    except (_UnknownError, RuntimeError, NotImplementedError, TypeError, IndexError):
        return None


class _UnknownError(Exception):
    """An operand whose elements are not known."""


def _real(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        if not item.is_meta:
            return item
        known = known_of(item)
        if known is None:
            raise _UnknownError
        return known.value
    if isinstance(item, tuple | list):
        return type(item)(map(_real, item))
    if isinstance(item, torch.device):
        return torch.device("cpu")
    return item


def keep_results(out: Any, value: Any, operands: Iterable[torch.Tensor]) -> None:
    """Give each shadow of *out* its elements from *value*; a view of an operand shares its fate."""
    if isinstance(out, torch.Tensor):
        if isinstance(value, torch.Tensor) and out.is_meta:
            keep(out, value, _shared_fate(value, operands))
    elif isinstance(out, tuple | list) and isinstance(value, tuple | list):
        for item, elements in zip(out, value, strict=False):
            keep_results(item, elements, operands)


def _shared_fate(value: torch.Tensor, operands: Iterable[torch.Tensor]) -> list[bool] | None:
    storage = value.untyped_storage()._cdata
    for operand in operands:
        known = known_of(operand) if operand.is_meta else None
        if known is not None and known.value.untyped_storage()._cdata == storage:
            return known.alive
    return None
