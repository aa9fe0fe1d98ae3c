"""Tensors inside the containers that a forward takes: tuples, lists, mappings and dataclasses, nested as they like."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Change = Callable[[str, torch.Tensor], torch.Tensor]


def named_tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in *value* with its name: ``x``, ``x[0]`` of a sequence, ``x.key`` of a mapping or dataclass."""
    if isinstance(value, torch.Tensor):
        yield name, value
    for inner_name, _, inner in _children(name, value):
        yield from named_tensors(inner_name, inner)


def map_tensors(name: str, value: Any, change: Change) -> Any:
    """*value* with every tensor passed through *change*; the very same object where nothing changed."""
    if isinstance(value, torch.Tensor):
        return change(name, value)
    pairs = [(key, inner, map_tensors(inner_name, inner, change)) for inner_name, key, inner in _children(name, value)]
    if all(new is old for _, old, new in pairs):
        return value
    return _rebuilt(value, {key: new for key, _, new in pairs})


def _children(name: str, value: Any) -> list[tuple[str, Any, Any]]:
    """Name, key and value of what lies directly in *value*."""
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", key, inner) for key, inner in value.items()]
    if isinstance(value, (tuple, list)):
        return [(f"{name}[{index}]", index, inner) for index, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return [(f"{name}.{field.name}", field.name, getattr(value, field.name)) for field in fields]
    return []


def _rebuilt(value: Any, new: dict[Any, Any]) -> Any:
    """A container of the same type with these contents. Dataclasses are not initialised anew: fields may be derived."""
    if isinstance(value, (tuple, list)):
        kind = type(value)
        return kind(*new.values()) if hasattr(kind, "_fields") else kind(new.values())
    made = copy.copy(value)
    for key, inner in new.items():
        if isinstance(value, Mapping):
            made[key] = inner
        else:
            object.__setattr__(made, key, inner)
    return made
