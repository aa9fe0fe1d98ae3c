"""Answers of cuDNN on disk, so that a second estimate of a model need not ask again.

One JSON file for each cuDNN version and device description in `vramplan.folders.cache_folder`. A file is
replaced whole, so readers never meet half of one; two writers at once may lose answers of one of them, which are then asked
again. A file that cannot be read is no cache; one that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FORMAT = 3
_MOST_ENTRIES = 20_000
"""About 3 MB; the oldest go first."""

Reply = dict[str, Any]


class CudnnCache:
    """Replies by a digest of the request, for one cuDNN version and one device."""

    def __init__(self, folder: Path, *, version: int, device: str) -> None:
        digest = hashlib.sha256(device.encode()).hexdigest()[:16]
        self.path = folder / f"cudnn-{version}-{digest}.json"
        self._entries: dict[str, Reply] = _read(self.path)
        self._new: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """The reply to *key*, if known."""
        return self._entries.get(key)

    def add(self, replies: Mapping[str, Reply]) -> None:
        """Remember *replies*; the file learns of them when they are saved."""
        self._entries.update(replies)
        self._new.update(replies)

    def save(self) -> None:
        """Write what was added, together with what others have written since."""
        if not self._new:
            return
        entries = _read(self.path) | self._entries | self._new
        self._new = {}
        self._entries = dict(list(entries.items())[-_MOST_ENTRIES:])
        with contextlib.suppress(OSError):  # a full disk or a read-only home costs time, not the estimate
            _write(self.path, self._entries)


def _read(path: Path) -> dict[str, Reply]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("replies"), dict):
        return {}
    return {key: reply for key, reply in content["replies"].items() if is_reply(reply)}


def is_reply(reply: object) -> bool:
    """Whether *reply* has the shape of the child's answers: bytes that are a count or none, knobs that are numbers."""
    if not isinstance(reply, dict) or "bytes" not in reply:
        return False
    sizes = (*(reply.get(key) for key in ("bytes", "unshared_bytes", "least_bytes", "largest_bytes")), reply.get("engine"))
    knobs = reply.get("knobs", {})
    if not isinstance(knobs, dict) or not all(str(key).isdecimal() and type(value) is int for key, value in knobs.items()):
        return False
    return all(size is None or (type(size) is int and size >= 0) for size in sizes)


def _write(path: Path, entries: Mapping[str, Reply]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, "replies": entries}, file, separators=(",", ":"))
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
