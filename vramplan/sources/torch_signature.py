"""What a module's forward takes, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_INTEGER_NAMES = frozenset({"input_ids", "token_type_ids", "attention_mask", "position_ids", "labels"})
_ANNOTATED = {"LongTensor": torch.int64, "IntTensor": torch.int32, "BoolTensor": torch.bool, "HalfTensor": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of forward. ``many`` marks ``*args``, ``by_name`` one that cannot be given by position."""

    name: str
    annotation: str = ""
    required: bool = True
    by_name: bool = False
    many: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of an input made from a shape alone: what the annotation says, int64 for token ids, else float32.

        The names of token ids are those that the transformers library uses, and every ``*_ids``.
        """
        annotated = next((dtype for word, dtype in _ANNOTATED.items() if word in self.annotation), None)
        by_name = torch.int64 if self.name in _INTEGER_NAMES or self.name.endswith("_ids") else torch.float32
        return annotated or by_name


def forward_parameters(module: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Parameters of *module*'s forward, in order, without ``self`` and ``**kwargs``."""
    forward: Any = getattr(module, "forward", module)
    if isinstance(module, torch.jit.ScriptModule):
        return _of_schema(forward.schema)
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return (Parameter(name="args", many=True),)
    return tuple(_of_python(parameter) for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)


def _of_python(parameter: inspect.Parameter) -> Parameter:
    many = parameter.kind is parameter.VAR_POSITIONAL
    annotation = "" if parameter.annotation is parameter.empty else parameter.annotation
    return Parameter(
        name=parameter.name,
        annotation=annotation if isinstance(annotation, str) else f"{annotation} {getattr(annotation, '__name__', '')}",
        required=parameter.default is parameter.empty and not many,
        by_name=parameter.kind is parameter.KEYWORD_ONLY,
        many=many,
    )


def _of_schema(schema: Any) -> tuple[Parameter, ...]:
    """A TorchScript forward has a schema in place of a Python signature; its first argument is the module."""
    return tuple(
        Parameter(name=given.name, required=not given.has_default_value(), by_name=given.kwarg_only)
        for given in schema.arguments[1:]
    )
