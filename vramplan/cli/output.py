"""Where a report goes and in which format; whether it may have colours; how wide it may be."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import typer

from vramplan.errors import MachineError, UsageError

T = TypeVar("T")

TABLE_WIDTH = 100
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended."""


class Format(StrEnum):
    """What a report is written as."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


SUFFIXES = {".json": Format.JSON, ".csv": Format.CSV, ".md": Format.MARKDOWN, ".markdown": Format.MARKDOWN}


def close_stdout() -> int:
    """The reader left, as ``head`` does: what is still buffered must not complain at exit. The exit code for that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A format and a place: standard output, or a file that is written whole or not at all."""

    format: Format
    path: Path | None
    force: bool

    @classmethod
    def of(cls, *, json: bool, csv: bool, markdown: bool, path: str | None, force: bool) -> Output:
        """By flag, else by the file's ending, else a table. UsageError for two flags or a file that must not be written."""
        flags = {Format.JSON: json, Format.CSV: csv, Format.MARKDOWN: markdown}
        asked = [kind for kind, is_asked in flags.items() if is_asked]
        if len(asked) > 1:
            raise UsageError(f"--{asked[0]} and --{asked[1]} exclude each other", hint="Run the command once for each.")
        if path is None:
            return cls(format=asked[0] if asked else Format.TABLE, path=None, force=force)
        from vramplan.files import check_target  # noqa: PLC0415  keeps start-up fast

        target = Path(path)
        check_target(target, force=force)
        kind = asked[0] if asked else SUFFIXES.get(target.suffix.lower(), Format.TABLE)
        return cls(format=kind, path=target, force=force)

    @property
    def colour(self) -> bool:
        """Only for a person at a terminal who did not forbid it."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return self.path is None and sys.stdout.isatty() and not plain

    @property
    def width(self) -> int:
        """The terminal's width; 100 columns for files and pipes."""
        if self.path is not None or not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
            return TABLE_WIDTH
        return shutil.get_terminal_size((TABLE_WIDTH, 24)).columns

    def report(self, result: T, writers: Mapping[Format, Callable[[T], str]], verdict: Callable[[T], Iterable[str]]) -> None:
        """Write *result* in the format; its verdict goes to standard error where it would disturb a file or a program."""
        self.emit(writers[self.format](result))
        if self.path is not None or self.format is Format.CSV:
            for line in verdict(result):
                typer.echo(line, err=True)

    def emit(self, text: str) -> None:
        """Write *text*, all of it."""
        if self.path is not None:
            from vramplan.files import write_atomically  # noqa: PLC0415  keeps start-up fast

            write_atomically(self.path, text, force=self.force)
            typer.echo(f"wrote {self.path}", err=True)
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise typer.Exit(close_stdout()) from error
        except OSError as error:
            raise MachineError(f"cannot write to standard output: {error.strerror}") from error
