"""The tensors of a checkpoint: names, shapes, and the storage they share. Values are never needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from vramplan.sources.torch_model import WeightFact

STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "ema")
"""Where training scripts keep the weights inside a checkpoint; the rest of it is not for inference."""


def state_of(checkpoint: object) -> tuple[object, str | None]:
    """The weights inside *checkpoint*, and the key they lie under when the file holds more than them."""
    if isinstance(checkpoint, Mapping):
        for key in STATE_KEYS:
            inner = checkpoint.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
                return inner, key
    return checkpoint, None


def weight_facts(state: object) -> tuple[WeightFact, ...]:
    """Every tensor in *state*, its names joined with dots. A storage counts where it is met first."""
    seen: set[int] = set()
    facts = []
    for name, tensor in _tensors(state):
        parts = _storages(tensor)
        size_bytes = sum(storage.nbytes() for storage in parts if storage._cdata not in seen)
        seen.update(storage._cdata for storage in parts)
        dtype = str(tensor.dtype).removeprefix("torch.")
        facts.append(WeightFact(name=name, shape=tuple(map(int, tensor.shape)), dtype=dtype, size_bytes=size_bytes))
    return tuple(facts)


def _tensors(state: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Depth first, without recursion, each container once: a hostile file may nest deeply or contain itself."""
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [("", state)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items: list[tuple[Any, Any]] = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            pending.extend((f"{name}.{key}" if name else str(key), inner) for key, inner in reversed(items))


def _storages(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """The storages behind *tensor*; a quantised or sparse subclass has several."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [storage for name in names for storage in _storages(getattr(tensor, name))]
    if tensor.layout is torch.sparse_coo:
        return [*_storages(tensor._indices()), *_storages(tensor._values())]
    return [tensor.untyped_storage()] if tensor.layout is torch.strided else []
