"""JSON from a stranger: size caps before anything is believed, then one object whose every field is asked for by type.

Whatever is wrong is a ValueError that says where and which value; the reader of a format turns it into its `ModelError`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vramplan.errors import ModelError, close_matches, show

_GZIP = b"\x1f\x8b"

MAX_TEXT_CHARS = 300
"""Names of ops and buffers are paths into a model; the longest seen have some 120 characters."""


def read_object(path: Path, *, max_bytes: int, max_lists: int = 100_000) -> dict[str, Any]:
    """The object in the file at *path*, plain or gzip: told by its first bytes. At most *max_bytes*, also when inflated.

    *max_lists* bounds the lists and objects in it: an empty one takes three bytes of text, and 64 of memory.
    Raises `ModelError` when there is no such file, ValueError for what is not one JSON object: keys that come twice, NaN and
    too deep nesting are none.
    """
    text = _inflated(_file_bytes(path, max_bytes), max_bytes)
    if text.count(b"[") + text.count(b"{") > max_lists:
        raise ValueError(f"it opens more than {max_lists:,} lists")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8: byte {error.start:,} is 0x{text[error.start]:02x}") from None
    try:
        content = json.loads(decoded, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("its lists are nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} in line {error.lineno:,}, column {error.colno:,}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it is {shown(content)}, not a JSON object")
    return content


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    if path.is_dir():
        raise ModelError(f"{show(str(path))} is a folder", hint="Name the file inside it.")
    if not path.exists():
        raise ModelError(f"no file is called {show(str(path))}", hint="Check the path.")
    if not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError((error.strerror or str(error)).lower()) from None
    if len(raw) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return raw


def _inflated(raw: bytes, max_bytes: int) -> bytes:
    """*raw*, or what it inflates to: no further than the limit."""
    if not raw.startswith(_GZIP):
        return raw
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = inflater.decompress(raw, max_bytes + 1)
    except zlib.error:
        raise ValueError("its gzip data are damaged") from None
    if len(text) > max_bytes:
        raise ValueError(f"it inflates to more than {max_bytes:,} bytes")
    if not inflater.eof:
        raise ValueError("its gzip data are cut short")
    if inflater.unused_data:
        raise ValueError("something follows its gzip data")
    return text


def deflated(text: str) -> bytes:
    """*text* as gzip; the same text gives the same bytes."""
    return gzip.compress(text.encode("utf-8"), mtime=0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {shown(twice)} is there twice")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def check_keys(found: Iterable[str], *, where: str, required: Iterable[str] = (), optional: Iterable[str] = ()) -> None:
    """ValueError for a key that is missing, and for one that nobody knows."""
    needed, present = tuple(required), set(found)
    known = (*needed, *optional)
    for key in present - set(known):
        raise ValueError(f"{where} has an unknown key {shown(key)}. {close_matches(key[:80], known)}".strip())
    for key in needed:
        if key not in present:
            raise ValueError(f"{where} has no key {key!r}")


def object_of(value: Any, where: str) -> dict[str, Any]:
    """*value*, a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {shown(value)}, not an object")
    return value


def text_of(value: Any, where: str) -> str:
    """*value*, printable text of sane length."""
    if not isinstance(value, str):
        raise ValueError(f"{where} is {shown(value)}, not text")
    if len(value) > MAX_TEXT_CHARS or not value.isprintable():
        raise ValueError(f"{where} is {shown(value)}, not printable text of at most {MAX_TEXT_CHARS} characters")
    return value


def whole_of(value: Any, where: str, *, most: int) -> int:
    """*value*, a whole number from 0 to *most*; true and 1.0 are none."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{where} is {shown(value)}, not a whole number from 0 to {most:,}")
    return value


def number_of(value: Any, where: str, *, most: float) -> float:
    """*value*, a number above 0 and at most *most*; true is none."""
    if type(value) not in (int, float) or not 0 < value <= most:
        raise ValueError(f"{where} is {shown(value)}, not a number above 0 and at most {most:,g}")
    return float(value)


def rows_of(value: Any, where: str, columns: tuple[str, ...], *, most: int) -> Iterator[tuple[int, list[Any]]]:
    """The rows of a list, numbered, each with one value for each of *columns*."""
    for index, row in enumerate(items_of(value, where, most=most)):
        if not isinstance(row, list) or len(row) != len(columns):
            raise ValueError(f"{where}[{index}] is {shown(row)}, not [{', '.join(columns)}]")
        yield index, row


def items_of(value: Any, where: str, *, most: int) -> list[Any]:
    """*value*, a list of at most *most* items."""
    if not isinstance(value, list):
        raise ValueError(f"{where} is {shown(value)}, not a list")
    if len(value) > most:
        raise ValueError(f"{where} has {len(value):,} items, more than {most:,}")
    return value


def shown(value: Any) -> str:
    """A value as it may stand in an error: short, printable, and never opened."""
    if isinstance(value, str):
        return show(value)
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return f"an object of {len(value):,}"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)[:40]
