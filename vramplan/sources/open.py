"""From what the user names to something that can be bound: an ``.onnx`` file, its bytes, or a zoo model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.errors import ModelError, UsageError, close_matches
from vramplan.graph import Graph
from vramplan.sources.zoo import find_zoo_model, zoo

if TYPE_CHECKING:
    from vramplan.sources.onnx_file import OnnxModel
    from vramplan.sources.onnx_tree import Declared

NOT_ONNX = {
    ".tflite": "TensorFlow Lite files",
    ".pb": "TensorFlow graphs",
    ".xml": "OpenVINO models",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that was read and checked, and can be bound to shapes again and again.

    ``default_dims`` fill in dynamic dimensions that the caller does not mention (the zoo's published input sizes).
    """

    name: str
    format: str
    onnx: OnnxModel
    default_dims: Mapping[str, int] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the file as it lies on disk."""
        return self.onnx.sha256

    @property
    def inputs(self) -> tuple[Declared, ...]:
        """What the caller provides, as declared."""
        return self.onnx.inputs

    @property
    def outputs(self) -> tuple[Declared, ...]:
        """What the caller receives, as declared."""
        return self.onnx.outputs

    def bind(self, *, batch: int | None, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]) -> Graph:
        """The graph at these sizes. UsageError for a dimension that stays open, ModelError for a broken model."""
        from vramplan.sources.onnx_file import bind  # noqa: PLC0415  imports onnx

        open_dims = {} if shapes else self.default_dims
        named = tuple(name.lower() for name in dims)
        defaults = {dim: size for dim, size in open_dims.items() if not dim.lower().startswith(named)}
        return bind(self.onnx, batch=batch, shapes=shapes, dims={**defaults, **dims})

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the file fixes, by the first axis of its first input; None where it is open."""
        first = self.inputs[0].dims if self.inputs else None
        return first[0] if first and isinstance(first[0], int) else None

    @property
    def open_dims(self) -> Mapping[str, int | None]:
        """Named dimensions that the file leaves open, but for the batch, with their default sizes."""
        from vramplan.sources.onnx_binding import batch_symbol  # noqa: PLC0415  imports onnx

        names = [dim for item in self.inputs for dim in item.dims or () if isinstance(dim, str) and dim.isidentifier()]
        return {name: self.default_dims.get(name) for name in dict.fromkeys(names) if name != batch_symbol(self.inputs)}

    def batch_of(self, graph: Graph) -> int | None:
        """The size of the first axis of the first input; None for a scalar or a model without inputs."""
        shape = graph.tensors[graph.inputs[0]].shape if graph.inputs else None
        return shape[0] if shape else None


ENGINES = frozenset({".engine", ".plan"})


def engine_path(model: object) -> Path | None:
    """The path of a built TensorRT engine, by its suffix; None for everything else."""
    path = Path(os.fspath(model)) if isinstance(model, str | os.PathLike) else None
    return path if path and path.suffix.lower() in ENGINES else None


def open_model(model: object) -> Source:
    """Read *model*: the path or bytes of an ONNX file, or the name of a zoo model.

    A path wins over a zoo name only when it has a suffix or a directory. ModelError when nothing can be read there.
    """
    from vramplan.sources.onnx_file import read_onnx  # noqa: PLC0415  imports onnx

    if isinstance(model, bytes):
        onnx = read_onnx(model)
        return Source(name=onnx.name, format="onnx", onnx=onnx)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"{type(model).__name__} is no ONNX model", hint="Name a file, a zoo model, or use runtime torch for modules."
        )
    text = os.fspath(model)
    if isinstance(model, str) and (entry := find_zoo_model(text)):
        onnx = read_onnx(entry.path.read_bytes())
        return Source(name=entry.name, format="zoo", onnx=onnx, default_dims=entry.default_dims)
    path = Path(text)
    _check_path(path)
    return Source(name=path.stem, format="onnx", onnx=read_onnx(path))


def _check_path(path: Path) -> None:
    """One clear error for what is not an ONNX file, before anything is opened."""
    shown = repr(str(path)[:200])
    if path.suffix.lower() in NOT_ONNX:
        kind = NOT_ONNX[path.suffix.lower()]
        raise ModelError(f"{shown}: {kind} cannot be read by this version", hint="Export the model to ONNX and name that file.")
    if path.is_dir():
        raise ModelError(f"{shown} is a folder", hint="Name the .onnx file inside it.")
    if not path.exists():
        raise ModelError(f"no file and no zoo model is called {shown}", hint=_near_names(path))


def _near_names(path: Path) -> str:
    known = [name for model in zoo().values() for name in (model.name, *model.aliases)]
    near = close_matches(path.stem.lower(), known)
    return near or f"Check the path. Zoo models: {', '.join(zoo())}."
