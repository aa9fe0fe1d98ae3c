"""``vramplan verify``: estimate and measurement side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vramplan.cli import flags, measured
from vramplan.cli.output import Format, Output
from vramplan.cli.page import read_page, write_page
from vramplan.units import parse_share

if TYPE_CHECKING:
    from pathlib import Path

    from vramplan.verification import Verification


def verify_command(
    model: flags.Model = None,
    *,
    batch: flags.OneBatch = None,
    precision: flags.OnePrecision = "as-is",
    runtime: flags.OneRuntime = None,
    runtime_option: flags.RuntimeOptions = None,
    memory_format: flags.MemoryFormat = None,
    shape: flags.Shapes = None,
    dim: flags.Dims = None,
    allow_pickle: flags.AllowPickle = False,
    tolerance: flags.Tolerance = "5%",
    learn: flags.Learn = False,
    gpu_index: flags.GpuIndex = None,
    memory_limit: flags.MemoryLimit = None,
    timeout: flags.Timeout = 600.0,
    wait: flags.Wait = 0.0,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    html: flags.Html = None,
    force: flags.ForceRun = False,
) -> int:
    """Estimate MODEL for this machine's GPU, run it there, and compare part by part. This runs the model's code.

    Exit code 1 when the total is off by more than --tolerance, or when it ran out of memory.
    """
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    page = read_page(html, target)
    ratio = parse_share(tolerance, what="--tolerance")
    cell = measured.read_cell(
        "verify",
        model,
        batch=batch,
        precision=precision,
        runtime=runtime,
        runtime_option=runtime_option,
        memory_format=memory_format,
        shape=shape,
        dim=dim,
        allow_pickle=allow_pickle,
    )
    guard = measured.read_guard(memory_limit=memory_limit, timeout=timeout, wait=wait, force=force)

    from vramplan.measuring import open_machine  # noqa: PLC0415  keeps start-up fast
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.verification import verify_cell  # noqa: PLC0415

    with progress_bar():
        found = verify_cell(cell, open_machine(gpu_index=gpu_index), guard, tolerance=ratio)
    _emit(target, page, found)
    if learn:
        _learn(found)
    return 0 if found.within_tolerance else 1


def _learn(found: Verification) -> None:
    from vramplan.verification import learn  # noqa: PLC0415  keeps start-up fast

    count = learn(found)
    typer.echo(f"learned the workspace of {count} convolutions for later estimates on this card", err=True)


def _emit(target: Output, page: Path | None, found: Verification) -> None:
    from vramplan.report import html, measured_export, verified_text  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: measured_export.verification_json,
        Format.CSV: measured_export.verification_csv,
        Format.MARKDOWN: verified_text.verification_markdown,
        Format.TABLE: lambda it: verified_text.verification_text(it, width=target.width, colour=target.colour),
    }
    target.report(found, writers, verified_text.verification_lines)
    write_page(page, target, lambda: html.verification_page(found))
