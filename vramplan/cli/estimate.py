"""``vramplan estimate``: how much memory a model takes, a row for each precision and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.cli.page import read_page, write_page
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

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
    shape: flags.TurnShapes = None,
    dim: flags.Dims = None,
    max_shape: flags.MaxShapes = None,
    workspace: flags.Workspace = None,
    memory_format: flags.MemoryFormat = None,
    drop_outputs: flags.DropOutputs = False,
    allow_pickle: flags.AllowPickle = False,
    runtime_option: flags.RuntimeOptions = None,
    compile_module: flags.Compile = False,
    cuda_graphs: flags.CudaGraphs = False,
    peak: flags.Peak = False,
    layers: flags.Layers = False,
    explain: flags.Explain = False,
    top: flags.Top = None,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    html: flags.Html = None,
    force: flags.Force = False,
) -> int:
    """Estimate the GPU memory of MODEL, part by part, without running it: no GPU needed.

    Exit code 1 when it does not fit the --budget, the --gpu or the --vram. With --layers or --peak, CSV has those.
    """
    if not model:
        raise UsageError("no model is named", hint="Try `vramplan estimate yolov8s`, or name an .onnx file.")
    _refuse(compile_module=compile_module, cuda_graphs=cuda_graphs)
    arguments.check_sections(peak=peak, layers=layers, top=top, csv=csv)
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    page = read_page(html, target)
    budget_bytes = arguments.read_size("--budget", budget)
    card = _card(gpu, vram)

    from vramplan.choosing import usual_runtimes  # noqa: PLC0415  keeps start-up fast
    from vramplan.report.account import account_sections, fallback_sections, run_sections  # noqa: PLC0415
    from vramplan.report.content import Report  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.sweep import sweep  # noqa: PLC0415
    from vramplan.verdict import judge  # noqa: PLC0415

    runtimes = arguments.read_runtimes(runtime or (), model) or [*usual_runtimes(model)]
    if explain and "onnxruntime" not in runtimes:
        raise UsageError("--explain is for ONNX Runtime", hint="Use it with --runtime onnxruntime.")
    with progress_bar():
        cells = sweep(
            model,
            batches=arguments.read_batches(batch or ()),
            precisions=arguments.read_precisions(precision or (_default_precisions(model, runtimes),)),
            runtimes=runtimes,
            gpu=card,
            shapes=arguments.read_turns("--shape", shape or ()),
            dims=arguments.read_dims(dim or ()),
            max_shapes=arguments.read_shapes("--max-shape", max_shape or ()),
            workspace_bytes=arguments.read_size("--workspace", workspace),
            memory_format=memory_format,
            drop_outputs=drop_outputs,
            allow_pickle=allow_pickle,
            runtime_options=arguments.read_options(runtime_option or ()),
        )
        verdict = judge(cells.cells, budget_bytes=budget_bytes, gpu=card, resolve=cells.resolve)
    sections = (*run_sections(cells), *((*account_sections(cells), *fallback_sections(cells)) if explain else ()))
    report = Report(
        cells=cells.cells,
        verdict=verdict,
        shows_peak=peak,
        shows_layers=layers,
        top=top,
        sections=sections,
        notes=cells.notes,
    )
    _emit(target, page, report)
    return 1 if verdict.fits is False else 0


def _refuse(*, compile_module: bool, cuda_graphs: bool) -> None:
    if compile_module or cuda_graphs:
        name = "--compile: what torch.compile fuses" if compile_module else "--cuda-graphs: the pool of a CUDA graph"
        raise UsageError(f"{name} is not modelled yet", hint="Without it the estimate is of eager PyTorch.")


def _default_precisions(model: str, runtimes: list[str]) -> str:
    from vramplan.sources.torch_spec import is_torch_model  # noqa: PLC0415

    if runtimes == ["onnxruntime"] or ("torch" in runtimes and len(runtimes) > 1):
        return flags.DEFAULT_SESSION_PRECISIONS
    if runtimes == ["torch"]:
        has_weights_only = is_torch_model(model) and model.endswith((".safetensors",))
        return "as-is" if has_weights_only else flags.DEFAULT_TORCH_PRECISIONS
    return flags.DEFAULT_PRECISIONS


def _card(gpu: str | None, vram: str | None) -> Gpu | None:
    from vramplan.device.this_gpu import find_card  # noqa: PLC0415  keeps start-up fast
    from vramplan.gpus import custom_gpu  # noqa: PLC0415

    if gpu is not None and vram is not None:
        raise UsageError("--gpu and --vram exclude each other", hint="--vram is for a card that is not listed.")
    if vram_bytes := arguments.read_size("--vram", vram):
        return custom_gpu(vram_bytes)
    return None if gpu is None else find_card(gpu)


def _emit(target: Output, page: Path | None, report: Report) -> None:
    """The report in its format; what would disturb a file or a program goes to standard error."""
    from vramplan.report import export, html, terminal  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: export.estimate_json,
        Format.CSV: export.estimate_csv,
        Format.MARKDOWN: export.estimate_markdown,
        Format.TABLE: lambda it: terminal.estimate_text(it, width=target.width, colour=target.colour),
    }
    target.report(report, writers, lambda it: terminal.verdict_lines(it.verdict))
    write_page(page, target, lambda: html.estimate_page(report))
