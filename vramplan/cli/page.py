"""Where a web page of the results goes: a file of its own, beside what the command prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from vramplan.cli.output import Output
from vramplan.errors import UsageError


def read_page(html: str | None, target: Output) -> Path | None:
    """The file of ``--html``, checked before any work is done. `UsageError` where it must not be written."""
    if html is None:
        return None
    from vramplan.files import check_target  # noqa: PLC0415  keeps start-up fast

    path = Path(html)
    check_target(path, force=target.force, what="--html")
    if target.path is not None and target.path.resolve() == path.resolve():
        raise UsageError("--html and -o name the same file", hint="Name another one, such as report.html.")
    return path


def write_page(path: Path | None, target: Output, draw: Callable[[], str]) -> None:
    """Write what *draw* gives to *path*, whole or not at all; nothing where no page was asked for."""
    if path is None:
        return
    from vramplan.files import write_atomically  # noqa: PLC0415  keeps start-up fast

    write_atomically(path, draw(), force=target.force, what="--html")
    typer.echo(f"wrote {path}", err=True)
