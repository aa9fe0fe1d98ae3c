"""Which models may be named: the built-in ones, ONNX files of one folder, and files that were uploaded. Nothing else.

A name comes from a browser. It is never a path of its own: it is looked up below the folder, links resolved, and a file that
lies elsewhere is as unknown as one that does not exist.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from vramplan.errors import ModelError, UsageError, close_matches, show
from vramplan.serve.questions import Named
from vramplan.sources.zoo import find_zoo_model, zoo
from vramplan.units import MIB, format_bytes

MAX_UPLOAD_BYTES = 1024 * MIB
MOST_UPLOADS = 8
MOST_KEPT_BYTES = 4096 * MIB
MOST_LISTED = 200
_DEEPEST = 3
_MOST_LOOKED_AT = 20_000
UPLOAD = "upload:"
_SUFFIX = ".onnx"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class TooLargeError(Exception):
    """An upload has more bytes than are taken."""


@dataclass(slots=True, kw_only=True)
class Shelf:
    """The models of one server. *folder* is where files are looked up, *uploads* an empty folder of the server's own."""

    folder: Path
    uploads: Path
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    _uploaded: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    def find(self, name: str) -> Named:
        """The model called *name*. `ModelError` when there is none here."""
        if entry := find_zoo_model(name):
            return Named(name=entry.name)
        path = self._uploaded.get(name) if name.startswith(UPLOAD) else self._inside(name)
        status = _status(path) if path else None
        if path is None or status is None:
            near = close_matches(name, [*zoo(), *self.listed()])
            hint = near or "Name a built-in model, or an .onnx file in the folder that the board was started in."
            raise ModelError(f"no built-in model and no .onnx file here is called {show(name)}", hint=hint)
        return Named(name=name, path=str(path), stamp=(status.st_size, status.st_mtime_ns))

    def _inside(self, name: str) -> Path | None:
        """The file below the folder, links resolved; None for what lies elsewhere, and for what is no ONNX file."""
        if "\0" in name or not name.lower().endswith(_SUFFIX):
            return None
        try:
            path = (self.folder / name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return path if path.is_relative_to(self.folder) and path.suffix.lower() == _SUFFIX else None

    def listed(self) -> list[str]:
        """The ONNX files of the folder, three levels deep, by name; no links to other places, nothing hidden."""
        found, seen = list[str](), 0
        for place, folders, files in os.walk(self.folder):
            depth = len(Path(place).relative_to(self.folder).parts)
            folders[:] = sorted(each for each in folders if not each.startswith(".")) if depth < _DEEPEST else []
            seen += len(files) + len(folders)
            names = (Path(place, each).relative_to(self.folder).as_posix() for each in sorted(files) if each[:1] != ".")
            found += (name for name in names if name.isprintable() and (path := self._inside(name)) and _status(path))
            if seen > _MOST_LOOKED_AT or len(found) >= MOST_LISTED:
                break
        return found[:MOST_LISTED]

    @property
    def uploaded(self) -> dict[str, str]:
        """Uploaded models: the file's name by the name to ask with."""
        return {key: path.name for key, path in self._uploaded.items()}

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> Named:
        """Keep what is sent as a model of its own. `TooLargeError` beyond the limit, which is checked while it arrives."""
        key = UPLOAD + secrets.token_urlsafe(9)
        place = self.uploads / secrets.token_hex(8)
        place.mkdir(mode=0o700)
        path = place / _file_name(name)
        try:
            await self._write(path, chunks)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        self._uploaded[key] = path
        while len(self._uploaded) > MOST_UPLOADS or self._kept_bytes() > max(MOST_KEPT_BYTES, self.max_upload_bytes):
            self.drop(next(iter(self._uploaded)))
        return self.find(key)

    def _kept_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._uploaded.values())

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> None:
        size_bytes = 0
        with path.open("xb") as file:
            async for chunk in chunks:
                size_bytes += len(chunk)
                self.check_size(size_bytes)
                file.write(chunk)
        if not size_bytes:
            raise UsageError("the upload is empty", hint="Send the bytes of an .onnx file as the body.")

    def check_size(self, size_bytes: int) -> None:
        """`TooLargeError` for more than is taken."""
        if size_bytes > self.max_upload_bytes:
            raise TooLargeError(f"the file is larger than {format_bytes(self.max_upload_bytes)}")

    def drop(self, key: str) -> None:
        """Forget an uploaded model, and remove its file."""
        if path := self._uploaded.pop(key, None):
            shutil.rmtree(path.parent, ignore_errors=True)


def _status(path: Path) -> os.stat_result | None:
    """None for what is not a regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _file_name(name: str) -> str:
    """A harmless name for a file, near the one it had."""
    stem = _UNSAFE.sub("_", Path(name.replace("\\", "/")).name[:80]).strip("._") or "model"
    return f"{stem.removesuffix(_SUFFIX)}{_SUFFIX}"
