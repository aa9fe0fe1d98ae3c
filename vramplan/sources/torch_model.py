"""What every PyTorch source comes to: a module to run, the inputs it brings along, or only its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Format = Literal["module", "zoo", "pt2", "torchscript", "pickle", "weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFact:
    """One tensor of a file that holds weights only.

    ``size_bytes`` is the storage behind it; zero for a tensor whose storage an earlier one already counts.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredInput:
    """An input whose shape the source itself knows.

    ``dims`` holds sizes and the names of dynamic dimensions, ``shape`` a valid size for each. ``aliases`` are other
    names a user may know it by: the ONNX file of a zoo model calls its input ``images`` where forward says ``x``.

    Invariant: `shape` has one size per dim.
    """

    parameter: str
    aliases: tuple[str, ...] = ()
    dims: tuple[int | str, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape):
            raise ValueError(f"{self.parameter}: {len(self.dims)} dims, {len(self.shape)} sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel:
    """A PyTorch model that was opened and is ready to be traced.

    ``module`` is in eval mode, and None when the file holds weights only; then ``weights`` says which. ``args`` and
    ``kwargs`` are example inputs that came with the source. ``sha256`` is computed when called: of the file, or of
    the names, shapes and dtypes of a module's parameters and buffers.

    Invariant: a module or weights, never both.
    """

    name: str
    format: Format
    module: torch.nn.Module | Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[DeclaredInput, ...] = ()
    weights: tuple[WeightFact, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: Callable[[], str]

    def __post_init__(self) -> None:
        if self.module is not None and self.weights:
            raise ValueError(f"{self.name}: has a module and is weights only")
