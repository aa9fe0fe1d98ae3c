"""What an installed ONNX Runtime makes of a graph, or why it refuses it: asked in a child process, remembered on disk.

The answer to a model depends on its structure, the version and the level, and on nothing else. Whatever goes wrong on the way
is no answer (None): the estimate then has rules of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.device.child import Child, OutOfMemoryResult, child_environment, module_command
from vramplan.errors import ModelError, VramplanError
from vramplan.files import write_atomically
from vramplan.folders import cache_folder

CHILD = "vramplan.device.ort_graph_child"
PACKAGES = ("onnxruntime-gpu", "onnxruntime")

MOST_WEIGHTS_BYTES = 4 << 30
"""Fusions compute with weights, if zeros: beyond this, time and memory are better spent otherwise."""

_TIME_S = 60
_FORMAT = b"vramplan session graph 4\n"
"""Its number goes up when something else is asked: hollow models of another kind, other fusions switched off."""

_MOST_FILES = 200
_REASON_CHARS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionGraph:
    """The optimised model, serialized, by which version of ONNX Runtime. Its weights are not there."""

    model_bytes: bytes
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why that version does not load the model, in its own words."""

    reason: str
    version: str


Answer = SessionGraph | Refusal


@functools.cache
def installed_version() -> str | None:
    """Of ONNX Runtime, by its metadata; None where it is not installed."""
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def ask(
    structure: bytes,
    level: str,
    *,
    version: str | None = None,
    folder: Path | None = None,
    command: Sequence[str] | None = None,
) -> Answer | None:
    """What the installed version makes of the model of *structure* (see `vramplan.sources.onnx_hollow`) at *level*.

    None when there is none to ask, or it gave no answer. *folder* is the cache, *command* starts the child.
    """
    version = version or installed_version()
    if version is None or not hasattr(os, "symlink"):
        return None
    cache = (folder or cache_folder()) / "onnxruntime"
    path = cache / f"{_key(structure, level, version)}.bin"
    answer = _read(path, version)
    if answer is None:
        answer = _asked(structure, level, version, command or module_command(CHILD))
        if answer is not None:
            _write(path, answer)
    return answer


def _asked(structure: bytes, level: str, version: str, command: Sequence[str]) -> Answer | None:
    from vramplan.sources.onnx_hollow import ZEROS, hollow  # noqa: PLC0415  imports onnx

    model = hollow(structure)
    if model is None or model.total_bytes > MOST_WEIGHTS_BYTES:
        return None
    from vramplan.device.ort_graph_child import MODEL, RESULT, WEIGHTS  # noqa: PLC0415  with its only use

    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="vramplan-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(model.model_bytes)
        with (folder / ZEROS).open("wb") as zeros:
            zeros.truncate(model.zeros_bytes)
        (folder / WEIGHTS).symlink_to(os.devnull)
        request = {"folder": name, "level": level, "time_s": _TIME_S}
        try:
            with Child(command, request, timeout_s=_TIME_S, environment=child_environment(os.environ)) as child:
                for _ in child.messages():
                    pass
        except ModelError as error:
            return None if model.is_altered else Refusal(reason=in_one_line(error.message), version=version)
        except (VramplanError, OutOfMemoryResult):
            return None
        return SessionGraph(model_bytes=(folder / RESULT).read_bytes(), version=version)
    return None


def in_one_line(text: str) -> str:
    """ONNX Runtime's message without its number, the path of the file, and the place in its source."""
    text = " ".join(text.split()).rpartition("failed:")[2].removeprefix("This is an invalid model. ")
    if text.startswith("/") and "(" in text:
        text = _after_signature(text)
    text = "".join(char for char in text if char.isprintable()).strip()
    return text if len(text) <= _REASON_CHARS else f"{text[: _REASON_CHARS - 1]}…"


def _after_signature(text: str) -> str:
    """What stands behind ``file.cc:12 void f(const T&)``."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == ")" and depth == 0:
            return text[index + 1 :]
    return text


def _key(structure: bytes, level: str, version: str) -> str:
    digest = hashlib.sha256(_FORMAT + structure)
    digest.update(f"\0{level}\0{version}".encode())
    return digest.hexdigest()[:32]


def _read(path: Path, version: str) -> Answer | None:
    """A file that is not as it was written is no answer."""
    try:
        head, _, content = path.read_bytes().partition(b"\n\n")
    except OSError:
        return None
    kind, digest = head.removeprefix(_FORMAT)[:1], head[-64:]
    if not head.startswith(_FORMAT) or hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    if kind == b"R":
        return Refusal(reason=content.decode("utf-8", errors="replace"), version=version)
    return SessionGraph(model_bytes=content, version=version)


def _write(path: Path, answer: Answer) -> None:
    """Remember *answer*; the oldest files go. A cache that cannot be written costs time, not the estimate."""
    is_refusal = isinstance(answer, Refusal)
    content = answer.reason.encode() if isinstance(answer, Refusal) else answer.model_bytes
    head = _FORMAT + (b"R" if is_refusal else b"G") + hashlib.sha256(content).hexdigest().encode()
    with contextlib.suppress(OSError, VramplanError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, head + b"\n\n" + content, force=True)
        files = sorted(path.parent.glob("*.bin"), key=lambda file: file.stat().st_mtime_ns)
        for old in files[:-_MOST_FILES]:
            old.unlink(missing_ok=True)
