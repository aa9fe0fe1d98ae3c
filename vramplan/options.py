"""What is asked about a model besides its batch, precision and runtime, and which runtime each of it means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from vramplan.device.this_gpu import find_card
from vramplan.errors import UsageError, close_matches
from vramplan.gpus import Gpu
from vramplan.runtimes.onnxruntime.options import parse_session_options

if TYPE_CHECKING:
    from torch import nn

ModelLike: TypeAlias = "str | os.PathLike[str] | bytes | nn.Module"
Shapes = Mapping[str, tuple[int, ...]]

MEMORY_FORMATS = ("contiguous", "channels_last")

MOST_TURNS = 32
"""Sets of shapes that are run in turn. Each is planned and replayed several times."""

_OWNERS = {
    "torch": (
        ("args", "kwargs", "memory_format", "drop_outputs"),
        "example inputs, memory formats and kept outputs are PyTorch's",
    ),
    "tensorrt": (("max_shapes", "workspace_bytes"), "a largest shape and a workspace limit are TensorRT's"),
    "onnxruntime": (("runtime_options",), "runtime options are ONNX Runtime's"),
}
"""What only one runtime understands, and the error for it on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for every cell of a sweep; see `vramplan.estimate`.

    ``turns`` are the sets of shapes of a model that is run with one after the other; ``shapes`` is then the largest of them.
    """

    gpu: Gpu | None = None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    shapes: Shapes = field(default_factory=dict)
    turns: tuple[Shapes, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)
    max_shapes: Shapes = field(default_factory=dict)
    workspace_bytes: int | None = None
    memory_format: str | None = None
    drop_outputs: bool = False
    allow_pickle: bool = False
    runtime_options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        gpu: str | Gpu | None = None,
        shapes: Shapes | Sequence[Shapes] | None = None,
        dims: Mapping[str, int] | None = None,
        max_shapes: Shapes | None = None,
        memory_format: str | None = None,
        runtime_options: Mapping[str, str] | None = None,
        **others: Any,
    ) -> Options:
        """Look the card up and fill in what is not given. `UsageError` for values that nobody understands."""
        if memory_format is not None and memory_format not in MEMORY_FORMATS:
            raise UsageError(f"unknown memory format {memory_format[:40]!r}", hint=close_matches(memory_format, MEMORY_FORMATS))
        parse_session_options(runtime_options or {})
        turns = _turns(shapes)
        return cls(
            gpu=find_card(gpu) if isinstance(gpu, str) else gpu,
            shapes=max(turns, key=_elements, default={}),
            turns=turns if len(turns) > 1 else (),
            dims=dims or {},
            max_shapes=max_shapes or {},
            memory_format=memory_format,
            runtime_options=runtime_options or {},
            **others,
        )

    def checked(self, runtimes: Iterable[str]) -> Options:
        """Themselves. `UsageError` for an option that none of *runtimes* understands."""
        known = set(runtimes)
        if self.turns and "torch" in known:
            raise UsageError(
                "shapes that change between runs are not modelled for PyTorch, which plans nothing ahead",
                hint="Give one shape, or use --runtime onnxruntime.",
            )
        for runtime, (names, message) in _OWNERS.items():
            if runtime not in known and any(getattr(self, name) != getattr(_NOTHING, name) for name in names):
                raise UsageError(message, hint=f"Use them with --runtime {runtime}.")
        return self

    def only(self, runtime: str) -> Options:
        """Without what only other runtimes than *runtime* understand."""
        foreign = [name for owner, (names, _) in _OWNERS.items() if owner != runtime for name in names]
        return replace(self, **{name: getattr(_NOTHING, name) for name in foreign})


_NOTHING = Options()


def _turns(shapes: Shapes | Sequence[Shapes] | None) -> tuple[Shapes, ...]:
    """Each set of shapes once, in order. `UsageError` when they are not of the same inputs, or too many."""
    given = [shapes] if isinstance(shapes, Mapping) else [*(shapes or ())]
    turns: list[Shapes] = []
    for each in given:
        if set(each) != set(given[0]):
            raise UsageError("the sets of shapes are not of the same inputs", hint="Give each input as many shapes, or one.")
        if each not in turns:
            turns.append(each)
    if len(turns) > MOST_TURNS:
        raise UsageError(f"{len(turns)} sets of shapes are more than {MOST_TURNS}", hint="Give those that differ most.")
    return tuple(turns)


def _elements(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
