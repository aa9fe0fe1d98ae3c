"""``vramplan doctor``: what this machine has, what is missing, and what to type."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vramplan.cli import flags
from vramplan.cli.output import Format, Output
from vramplan.errors import MachineError, UsageError

ReportFile = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there: .json, .txt.")]


def doctor_command(
    *,
    json: flags.Json = False,
    output: ReportFile = None,
    force: flags.Force = False,
) -> int:
    """Examine this machine: driver, GPUs, runtimes, settings, and what is missing, ready for an issue.

    Exit code 4 when something is missing that a measurement needs; the report is printed all the same.
    """
    target = Output.of(json=json, csv=False, markdown=False, path=output, force=force)
    if target.format not in (Format.TABLE, Format.JSON):
        raise UsageError(f"-o {output}: a diagnosis is text or JSON", hint="Name a file that ends in .txt or .json.")

    from vramplan import __version__  # noqa: PLC0415  keeps start-up fast
    from vramplan.doctor import examine_here  # noqa: PLC0415
    from vramplan.report.doctor_text import doctor_json, doctor_text, sentence  # noqa: PLC0415

    if sys.stderr.isatty():
        typer.echo("asking the driver and the runtimes, which may take a while …", err=True)
    diagnosis = examine_here(os.environ, version=__version__)
    if target.format is Format.JSON:
        target.emit(doctor_json(diagnosis))
    else:
        target.emit(doctor_text(diagnosis, width=target.width, colour=target.colour))
    if target.path is not None:
        typer.echo(sentence(diagnosis), err=True)
    return 0 if diagnosis.can_measure else MachineError.exit_code
