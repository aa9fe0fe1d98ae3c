"""``vramplan replay``: a recorded run shown like an estimate, with the device's counters beside the allocator's replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.cli.page import read_page, write_page
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from vramplan.replaying import Replay
    from vramplan.report.content import Report
    from vramplan.result import Estimate
    from vramplan.verdict import Change


def replay_command(
    recording: flags.RecordingFile = None,
    *,
    gpu: flags.CardName = None,
    budget: flags.Budget = None,
    peak: flags.Peak = False,
    layers: flags.Layers = False,
    top: flags.Top = None,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    html: flags.Html = None,
    force: flags.Force = False,
) -> int:
    """Replay a recorded run of eager PyTorch: what it took, and the device's counters beside the replay's.

    It is judged on the card that it was recorded on, or on --gpu. Exit code 1 when it does not fit that, or the --budget.
    """
    if not recording:
        raise UsageError("no recording is named", hint="Name a .json or .json.gz file: docs/reference/recording.md.")
    arguments.check_sections(peak=peak, layers=layers, top=top, csv=csv)
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    page = read_page(html, target)
    budget_bytes = arguments.read_size("--budget", budget)

    from vramplan.replaying import replay  # noqa: PLC0415  keeps start-up fast
    from vramplan.report.content import Report  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.report.replaying import counters_section  # noqa: PLC0415
    from vramplan.verdict import judge  # noqa: PLC0415

    with progress_bar():
        found = replay(recording, gpu=gpu)
    cells = (found.estimate,)
    verdict = judge(cells, budget_bytes=budget_bytes, gpu=found.estimate.gpu, resolve=_resolve)
    sections = (counters_section(found),)
    report = Report(cells=cells, verdict=verdict, shows_peak=peak, shows_layers=layers, top=top, sections=sections)
    _emit(target, page, found, report)
    return 1 if verdict.fits is False else 0


def _resolve(base: Estimate, change: Change) -> Estimate:
    """There is no advice about what has run."""
    raise UsageError("a recorded run cannot be changed", hint="Estimate the model to see what a change would do.")


def _emit(target: Output, page: Path | None, found: Replay, report: Report) -> None:
    """The report in its format; what would disturb a file or a program goes to standard error."""
    from vramplan.report import export, html, terminal  # noqa: PLC0415  keeps start-up fast
    from vramplan.report.replaying import counters_sentence, replay_json  # noqa: PLC0415

    writers = {
        Format.JSON: lambda it: replay_json(found, it),
        Format.CSV: export.estimate_csv,
        Format.MARKDOWN: export.estimate_markdown,
        Format.TABLE: lambda it: terminal.estimate_text(it, width=target.width, colour=target.colour),
    }
    target.report(report, writers, lambda it: (counters_sentence(found), *terminal.verdict_lines(it.verdict)))
    write_page(page, target, lambda: html.replay_page(found, report))
