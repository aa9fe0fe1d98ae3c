"""ONNX files: read once, then bound to sizes as often as wanted.

`read_onnx` copies the structure out of a file (`protobuf_scan`) and turns it into a tree (`onnx_parse`); `bind` gives
every open dimension a size (`onnx_binding`) and walks the tree into a flat `Graph` (`onnx_flatten`). Tensor values are
never read: a file of 10 GB costs what its structure costs.

Known limitations: sizes that depend on data are sized at their largest; operators of other domains have only the shapes
that the file itself declares for them; maps and the first version of Scan (opset 8) are not modelled. Each is named in
the graph's notes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from vramplan.errors import ModelError, VramplanError
from vramplan.graph import Graph
from vramplan.sources.onnx_tree import Declared, Tree
from vramplan.sources.onnx_types import printable, show
from vramplan.sources.protobuf_scan import Structure, scan

_NOTHING: Mapping[str, int] = MappingProxyType({})
_NO_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType({})
_BYTES = "the model"
_HASH_CHUNK_BYTES = 1 << 20

# How files that people mistake for ONNX begin, and what to do with them.
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Fetch it with: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, such as PyTorch writes", "Export the model to ONNX first: torch.onnx.export(...)"),
    (b"\x80\x02", "a Python pickle, such as old PyTorch writes", "Export the model to ONNX first: torch.onnx.export(...)"),
    (b"\x89HDF\r\n", "an HDF5 file, such as Keras writes", "Convert the model to ONNX first, with tf2onnx."),
    (b"ftrt", "a TensorRT engine", "Give the ONNX file that it was built from."),
    (b"<", "text, perhaps a web page saved by a download", "Download the model again."),
    (b"{", "text", "Give the binary .onnx file."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """A model as its file has it, with dimensions still open. ``path`` is None for a model that came as bytes.

    ``structure`` is the model without its large values, serialized.
    ``inputs`` and ``outputs`` are as declared; initializers that old files list as inputs are not among them.
    """

    name: str
    path: str | None
    file_bytes: int
    opset: int
    producer: str
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    node_count: int
    tree: Tree = field(repr=False)
    structure: bytes = field(repr=False)
    modified_ns: int = field(default=0, repr=False)
    digest: str = field(default="", repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal; external data is not part of it. Computed when first asked for.

        Raises `ModelError` when the file is no longer the one that was read.
        """
        return self.digest or _file_digest(self.path or "", self.file_bytes, self.modified_ns)

    @property
    def where(self) -> str:
        """How errors name the model."""
        return show(self.path) if self.path else _BYTES


def read_onnx(source: str | os.PathLike[str] | bytes) -> OnnxModel:
    """Read the structure of an ONNX model from a file, or from the bytes of one.

    Raises `ModelError` when there is no such file, when it is damaged or makes no sense, or when it is larger than any
    real model. Values are not read; external data is not opened, but must lie in the model's folder.
    """
    where = _BYTES if isinstance(source, bytes) else show(os.fspath(source))
    try:
        return _from_bytes(source, where) if isinstance(source, bytes) else _from_file(os.fspath(source), where)
    except VramplanError:
        raise
    except Exception as error:  # the one place where any doubt about a stranger's file becomes one clear sentence
        raise _unreadable(where, error) from error


def bind(
    model: OnnxModel,
    *,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] = _NO_SHAPES,
    dims: Mapping[str, int] = _NOTHING,
) -> Graph:
    """The graph of *model* with every dimension given a size.

    ``batch`` binds the batch axis, ``shapes`` whole inputs by name, ``dims`` named dimensions. A batch axis that is the
    only open dimension is 1 by default. Raises `UsageError` when a size is missing or contradicts the model, and
    `ModelError` when the graph makes no sense at these sizes.
    """
    from vramplan.sources.onnx_binding import bind_dims  # noqa: PLC0415 - keeps `--help` free of onnx
    from vramplan.sources.onnx_flatten import flatten  # noqa: PLC0415 - imports onnx

    inputs, symbols = bind_dims(model.inputs, batch=batch, shapes=shapes, dims=dims)
    try:
        graph = flatten(model.tree, inputs, symbols, where=model.where)
    except VramplanError:
        raise
    except Exception as error:  # as in read_onnx
        raise _unreadable(model.where, error) from error
    return replace(graph, name=model.name)


def _from_file(path: str, where: str) -> OnnxModel:
    try:
        with open(path, "rb", opener=_open_plain) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{where} is not a file")
            if not status.st_size:
                raise ModelError(f"{where} is empty", hint="Export or download it again.")
            with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as view:
                structure = _structure(view, where)
    except OSError as error:
        hint = "Is the path right?" if isinstance(error, FileNotFoundError) else ""
        raise ModelError(f"cannot read {where}: {error.strerror or 'system error'}", hint=hint) from None
    model = _model(structure, where, folder=os.path.dirname(os.path.abspath(path)))
    stem = printable(os.path.splitext(os.path.basename(path))[0])
    return replace(model, name=stem, path=path, file_bytes=status.st_size, modified_ns=status.st_mtime_ns)


def _from_bytes(content: bytes, where: str) -> OnnxModel:
    if not content:
        raise ModelError(f"{where} is empty")
    model = _model(_structure(content, where), where, folder=None)
    return replace(model, file_bytes=len(content), digest=hashlib.sha256(content).hexdigest())


def _open_plain(path: str, flags: int) -> int:
    # Without this a named pipe would be waited for without end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _structure(source: bytes | mmap.mmap, where: str) -> Structure:
    for start, what, hint in _OTHER_FORMATS:
        if source[: len(start)] == start:
            raise ModelError(f"{where} is {what}", hint=hint)
    return scan(source, where=where)


def _model(structure: Structure, where: str, folder: str | None) -> OnnxModel:
    from vramplan.sources.onnx_expand import check_expansion  # noqa: PLC0415 - imported with the next one
    from vramplan.sources.onnx_parse import parse  # noqa: PLC0415 - imports onnx, and a file that is none should fail fast

    tree = parse(structure.model_bytes, where=where, folder=folder)
    return OnnxModel(
        name=tree.body.name or "model",
        path=None,
        file_bytes=0,
        opset=tree.opsets.get("", 1),
        producer=tree.producer,
        inputs=tree.body.inputs,
        outputs=tree.body.outputs,
        node_count=check_expansion(tree, where=where),
        tree=tree,
        structure=structure.model_bytes,
    )


def _unreadable(where: str, error: Exception) -> ModelError:
    if isinstance(error, MemoryError):
        return ModelError(f"{where} needs more memory than there is to read its structure")
    if isinstance(error, RecursionError):
        return ModelError(f"{where} nests graphs and functions too deeply")
    if isinstance(error, UnicodeError):
        return ModelError(f"{where} has a name that is not text (UTF-8)", hint="Export or download it again.")
    return ModelError(f"{where} is damaged, or makes no sense as an ONNX model ({type(error).__name__})")


@lru_cache(maxsize=64)
def _file_digest(path: str, size_bytes: int, modified_ns: int) -> str:
    # Not through the memory map: pages of a map stay in the process's memory, and these may be gigabytes.
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) == (size_bytes, modified_ns):
                digest = hashlib.sha256()
                while chunk := file.read(_HASH_CHUNK_BYTES):
                    digest.update(chunk)
                return digest.hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {show(path)}: {error.strerror or 'system error'}") from None
    raise ModelError(f"{show(path)} changed while it was being read", hint="Run the command again.")
