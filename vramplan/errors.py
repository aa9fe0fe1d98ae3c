"""Every error a user can meet, as one tree.

::

    VramplanError          exit code
    ├── UsageError         2   the command or call is wrong
    ├── ModelError         3   the model cannot be read
    │   └── RefusedError   3   a runtime that is installed here does not take it
    ├── MachineError       4   this machine lacks a library, a GPU or a driver
    ├── MeasurementError   5   a measurement was tried and failed
    └── InternalError      70  our bug

Doubts about a result are notes on the result, and "does not fit" is an answer; neither is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN_CHARS = 80


class VramplanError(Exception):
    """What went wrong, and what to do next.

    ``message`` says what, where and the offending value; ``hint`` is the command or change to try next.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(VramplanError):
    """A flag or argument is wrong (exit code 2)."""

    exit_code = 2


class ModelError(VramplanError):
    """The model file cannot be read or makes no sense (exit code 3)."""

    exit_code = 3


class RefusedError(ModelError):
    """A runtime that is installed here says that it would not run the model (exit code 3)."""


class MachineError(VramplanError):
    """A library, a GPU or a driver is missing on this machine (exit code 4)."""

    exit_code = 4


class MeasurementError(VramplanError):
    """A measurement was started and failed (exit code 5)."""

    exit_code = 5


class InternalError(VramplanError):
    """An invariant of vramplan's own broke (exit code 70)."""

    exit_code = 70


def close_matches(word: str, known: Iterable[str], *, limit: int = 5) -> str:
    """A hint that names the entries of *known* nearest to *word*, or all of them when they are few."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=limit, cutoff=0.5)
    if near:
        return "Did you mean: " + ", ".join(near) + "?"
    if len(choices) <= 12:
        return "Known: " + ", ".join(choices) + "."
    return ""


def show(name: str) -> str:
    """A name from a file as it may stand in an error: quoted, printable, not too long."""
    text = printable(name)
    return f"'{text}'" if len(text) <= _SHOWN_CHARS else f"'{text[: _SHOWN_CHARS - 20]}…{text[-19:]}'"


def printable(name: str | bytes) -> str:
    """*name* with control characters and the like written as escapes, so that a file cannot steer a terminal.

    Protobuf hands out bytes when a name is not text; UnicodeDecodeError then.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8")
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")
