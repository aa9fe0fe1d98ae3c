"""One error out of an exception in the user's code: what failed, their own line, the shapes that were fed."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from vramplan.errors import ModelError, VramplanError
from vramplan.sources.onnx_types import printable

_INSTALLED = ("site-packages", "dist-packages")
_STANDARD_LIBRARY = tuple(
    os.path.realpath(path) + os.sep for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))
)
_NETWORK_PACKAGES = frozenset(
    {"huggingface_hub", "requests", "urllib", "urllib3", "httpx", "httpcore", "aiohttp", "http", "socket", "ssl"}
)
_NETWORK_WORDS = re.compile(r"huggingface\.co|offline mode|the internet|failed to resolve|name resolution|https?://", re.I)
_MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*)")
_MISSING_IN_SCRIPT = re.compile(r"missing value for argument '(\w+)'")

_MAX_CHARS = 300


def user_error(exception: BaseException, what: str, shapes: Mapping[str, Sequence[int]] | None = None) -> ModelError:
    """The one error for *exception*, raised in code that belongs to the user while *what* went on.

    *what* reads like "forward of Net failed" or "net.py:build failed"; *shapes* are those of the inputs that were fed,
    by name. KeyboardInterrupt and our own errors are raised again as they are: they are nobody's bug.
    """
    if isinstance(exception, (KeyboardInterrupt, VramplanError)):
        raise exception
    parts = [f"{what}: {_said(exception)}"]
    if line := _own_line(exception):
        parts.append(f"at {line}")
    if shapes:
        parts.append("fed " + ", ".join(f"{printable(name)}: {_shape(shape)}" for name, shape in shapes.items()))
    return ModelError("; ".join(parts), hint=_hint(exception, bool(shapes)))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _said(exception: BaseException) -> str:
    """Type and first line. TorchScript wraps its own traceback around the message; the last line is the message."""
    lines = [line.strip() for line in str(exception).splitlines() if line.strip()]
    if not lines:
        return type(exception).__name__
    wrapped = any("Traceback of TorchScript" in line for line in lines)
    text = printable(lines[-1].partition(": ")[2] or lines[-1] if wrapped else lines[0])
    return f"{type(exception).__name__}: {text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + '…'}"


def _own_line(exception: BaseException) -> str:
    """``file:line `source```: the innermost line the user wrote, else the innermost of a library that is not torch."""
    if isinstance(exception, SyntaxError) and exception.filename:
        return _shown(exception.filename, exception.lineno or 0, exception.text or "")
    own = [(frame, line) for frame, line in traceback.walk_tb(exception.__traceback__) if _is_foreign(frame)]
    written = [found for found in own if not _is_installed(found[0])] or own
    if not written:
        return ""
    frame, line = written[-1]
    return _shown(frame.f_code.co_filename, line, linecache.getline(frame.f_code.co_filename, line, frame.f_globals))


def _shown(filename: str, line: int, source: str) -> str:
    text = printable(source.strip())
    text = text if len(text) <= 120 else text[:119] + "…"
    return f"{printable(filename)}:{line}" + (f" `{text}`" if text else "")


def _is_foreign(frame: FrameType) -> bool:
    """Neither torch nor vramplan nor the standard library, and a real file."""
    filename = frame.f_code.co_filename
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if package in {"torch", "vramplan"} or filename.startswith("<"):
        return False
    return _is_installed(frame) or not os.path.realpath(filename).startswith(_STANDARD_LIBRARY)


def _is_installed(frame: FrameType) -> bool:
    parts = frame.f_code.co_filename.replace("\\", "/").split("/")
    return any(name in parts for name in _INSTALLED)


def _hint(exception: BaseException, fed: bool) -> str:
    if any(_is_network(link) for link in _chain(exception)):
        return "Build it without pretrained weights (weights=None, pretrained=False, or from a config): values are not needed."
    text = str(exception)
    if missing := _missing_names(text):
        example = " ".join(f"--shape {name}:1x3x640x640" for name in missing)
        return f"Give every input its own shape: {example}; or args=… and kwargs=… in the API."
    if _MISSING.search(text) and not _own_line(exception):
        return "It is called without arguments; wrap it in a function of your own that gives them, and name that one."
    return _hint_by_type(exception, fed)


def _hint_by_type(exception: BaseException, fed: bool) -> str:
    if isinstance(exception, ModuleNotFoundError):
        return f"Install it here, or run where it can be imported: {printable(exception.name or 'the module')}."
    if isinstance(exception, MemoryError):
        return "Build the module on the meta device: with torch.device('meta'): …"
    if fed:
        return "Check the shapes of the inputs: --shape NAME:1x3x640x640, or args=… in the API."
    return "Run that code on its own, with plain Python, until it works."


def _missing_names(text: str) -> list[str]:
    found = _MISSING.search(text)
    names = re.findall(r"'(\w+)'", found[1]) if found and "forward" in text else []
    return names or _MISSING_IN_SCRIPT.findall(text)


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """The exception and those it came from, ten at most."""
    link: BaseException | None = exception
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _is_network(exception: BaseException) -> bool:
    if type(exception).__module__.partition(".")[0] in _NETWORK_PACKAGES or isinstance(exception, ConnectionError):
        return True
    return isinstance(exception, (OSError, RuntimeError, ValueError)) and bool(_NETWORK_WORDS.search(str(exception)))
