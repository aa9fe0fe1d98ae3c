"""Names, counts and shapes as they stand in a report: printable, short, and cut in the middle."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from unicodedata import combining, east_asian_width


def printable(text: str) -> str:
    """*text* on one line without control characters: names come from model files, and a terminal obeys escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def columns(text: str) -> int:
    """The columns that *text* takes in a terminal: two for East Asian characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def padded(text: str, width: int, *, left: bool) -> str:
    """*text* with blanks to *width* columns, behind it or before it."""
    blanks = " " * (width - columns(text))
    return text + blanks if left else blanks + text


def shorten(text: str, width: int) -> str:
    """*text*, printable, in at most *width* columns: cut in the middle, because names differ at their ends."""
    text = printable(text)
    if columns(text) <= width:
        return text
    head = _prefix(text, (width - 1) // 3)
    tail = _prefix(text[::-1], width - 1 - columns(head))
    return f"{head}…{tail[::-1]}"


def _prefix(text: str, width: int) -> str:
    """The longest start of *text* that takes at most *width* columns."""
    taken = accumulate(columns(char) for char in text)
    return text[: next((index for index, used in enumerate(taken) if used > width), len(text))]


def count_text(count: int) -> str:
    """``11.16 M``, ``865 k`` or ``999``: four digits at most."""
    for size, letter in ((10**9, "G"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.2f} {letter}"
    return f"{count / 1000:.1f} k" if count >= 1000 else str(count)


def shape_text(shape: Iterable[int | str] | None) -> str:
    """``1×3×640×640``; ``?`` for a shape that is not known, ``scalar`` for one without axes."""
    if shape is None:
        return "?"
    return "×".join(map(str, shape)) or "scalar"


def listed(items: Iterable[str], limit: int) -> str:
    """The first *limit* of *items*, and how many more there are."""
    words = list(items)
    more = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {more} more" if more > 0 else "")
