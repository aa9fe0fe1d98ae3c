"""External data: files beside the model that hold the values of its tensors. They are never opened.

A location in a model is text from a stranger. It must stay inside the model's folder, as the ONNX specification asks,
also when a link leads out of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import show


class ExternalFolder:
    """The folder of one model, and what is known of the files that the model names in it."""

    def __init__(self, folder: str | None, where: str) -> None:
        self.folder = None if folder is None else os.path.realpath(folder)
        self.where = where
        self._sizes_bytes: dict[str, int | None] = {}
        self._short: set[str] = set()

    def check(self, tensor: str, entries: Mapping[str, str], expected_bytes: int) -> None:
        """Check where a tensor's values are said to lie; *expected_bytes* follows from its dimensions.

        Raises `ModelError` when the location leaves the folder or the length is not what the dimensions need.
        """
        location = entries.get("location", "")
        if location not in self._sizes_bytes:
            self._sizes_bytes[location] = self._resolve(tensor, location)
        offset, length = (self._number(tensor, entries, key) for key in ("offset", "length"))
        if length is not None and length != expected_bytes:
            raise ModelError(
                f"{self.where}: tensor {show(tensor)} needs {expected_bytes:,} bytes by its dimensions, but its external "
                f"data has length {length:,}"
            )
        size_bytes = self._sizes_bytes[location]
        if size_bytes is not None and (offset or 0) + expected_bytes > size_bytes:
            self._short.add(location)

    def notes(self) -> tuple[str, ...]:
        """What the files on disk lack. Values are not needed for an estimate, so it is not an error."""
        missing = [] if self.folder is None else [name for name, size_bytes in self._sizes_bytes.items() if size_bytes is None]
        notes = []
        for names, what in ((missing, "not there"), (sorted(self._short), "shorter than the model says")):
            if names:
                listed = ", ".join(map(show, names[:3])) + (", …" if len(names) > 3 else "")
                notes.append(f"external data is {what}: {listed} (only its declared sizes are used)")
        return tuple(notes)

    def _resolve(self, tensor: str, location: str) -> int | None:
        """The size of the file at *location*, None when it is not there."""
        if not location or "\0" in location:
            raise self._outside(tensor, location, "names no file")
        for flavour in (PurePosixPath, PureWindowsPath):
            path = flavour(location)
            if path.is_absolute() or path.anchor:
                raise self._outside(tensor, location, "is an absolute path")
            if ".." in path.parts:
                raise self._outside(tensor, location, "leads out of the model's folder")
        if self.folder is None:
            return None
        real = os.path.realpath(os.path.join(self.folder, location))
        if os.path.commonpath((real, self.folder)) != self.folder:
            raise self._outside(tensor, location, "is a link that leads out of the model's folder")
        try:
            return os.stat(real).st_size
        except OSError:
            return None

    def _number(self, tensor: str, entries: Mapping[str, str], key: str) -> int | None:
        text = entries.get(key, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ModelError(f"{self.where}: the external data of tensor {show(tensor)} has {key} {show(text)}, no size")
        return int(text)

    def _outside(self, tensor: str, location: str, what: str) -> ModelError:
        return ModelError(
            f"{self.where}: the external data of tensor {show(tensor)} is at {show(location)}, which {what}",
            hint="External data must lie beside the model file; vramplan does not follow it elsewhere.",
        )
