"""``vramplan estimate``: how much memory a model takes, a row for each precision and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from vramplan.gpus import Gpu
    from vramplan.report.content import Report


def estimate_command(
    model: flags.Model = None,
    *,
    batch: flags.Batches = None,
    precision: flags.Precisions = None,
    runtime: flags.Runtimes = None,
    gpu: flags.CardName = None,
    vram: flags.Vram = None,
    budget: flags.Budget = None,
    shape: flags.Shapes = None,
    dim: flags.Dims = None,
    max_shape: flags.MaxShapes = None,
    workspace: flags.Workspace = None,
    peak: flags.Peak = False,
    layers: flags.Layers = False,
    top: flags.Top = None,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    force: flags.Force = False,
) -> int:
    """Estimate the GPU memory of MODEL, part by part, without running it: no GPU needed.

    Exit code 1 when it does not fit the --budget, the --gpu or the --vram. With --layers or --peak, CSV has those.
    """
    if not model:
        raise UsageError("no model is named", hint="Try `vramplan estimate yolov8s`, or name an .onnx file.")
    _check_sections(peak=peak, layers=layers, top=top, csv=csv)
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    budget_bytes = arguments.read_size("--budget", budget)
    card = _card(gpu, vram)

    from vramplan.report.content import Report  # noqa: PLC0415  keeps start-up fast
    from vramplan.sweep import sweep  # noqa: PLC0415
    from vramplan.verdict import judge  # noqa: PLC0415

    cells = sweep(
        model,
        batches=arguments.read_batches(batch or ()),
        precisions=arguments.read_precisions(precision or (flags.DEFAULT_PRECISIONS,)),
        runtimes=arguments.read_runtimes(runtime or ("tensorrt",)),
        gpu=card,
        shapes=arguments.read_shapes("--shape", shape or ()),
        dims=arguments.read_dims(dim or ()),
        max_shapes=arguments.read_shapes("--max-shape", max_shape or ()),
        workspace_bytes=arguments.read_size("--workspace", workspace),
    )
    verdict = judge(cells.cells, budget_bytes=budget_bytes, gpu=card, resolve=cells.resolve)
    _emit(target, Report(cells=cells.cells, verdict=verdict, shows_peak=peak, shows_layers=layers, top=top))
    return 1 if verdict.fits is False else 0


def _check_sections(*, peak: bool, layers: bool, top: int | None, csv: bool) -> None:
    if top is not None and top < 1:
        raise UsageError(f"--top: {top} is not a whole number from 1", hint="Write it like --top 10")
    if top is not None and not (peak or layers):
        raise UsageError("--top needs --peak or --layers", hint="Add the one whose rows it limits.")
    if csv and peak and layers:
        raise UsageError("--csv has one table: --peak and --layers exclude each other", hint="Run the command once for each.")


def _card(gpu: str | None, vram: str | None) -> Gpu | None:
    from vramplan.gpus import custom_gpu, find_gpu  # noqa: PLC0415  keeps start-up fast

    if gpu is not None and vram is not None:
        raise UsageError("--gpu and --vram exclude each other", hint="--vram is for a card that is not listed.")
    if vram_bytes := arguments.read_size("--vram", vram):
        return custom_gpu(vram_bytes)
    return None if gpu is None else find_gpu(gpu)


def _emit(target: Output, report: Report) -> None:
    """The report in its format; what would disturb a file or a program goes to standard error."""
    from vramplan.report import export, terminal  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: export.estimate_json,
        Format.CSV: export.estimate_csv,
        Format.MARKDOWN: export.estimate_markdown,
        Format.TABLE: lambda it: terminal.estimate_text(it, width=target.width, colour=target.colour),
    }
    target.report(report, writers, lambda it: terminal.verdict_lines(it.verdict))
