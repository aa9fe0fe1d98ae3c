"""``vramplan streams``: how many cameras a card carries, and what stops the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.cli.page import read_page, write_page
from vramplan.cli.site_streams import site_streams
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vramplan.fleet import StreamsPlan
    from vramplan.video import Stream


_AS_GIVEN = (
    *("video", "codec", "bit_depth", "margin", "batch", "processes", "contexts", "separate_models", "infer_every"),
    *("per_stream_extra", "decode", "require", "nvdec", "decode_fps", "infer_fps", "allow_pickle", "measure"),
)
"""Flags that `vramplan.streams` takes as they are, under the same name."""


def streams_command(
    context: typer.Context,
    model: flags.StreamModels = None,
    *,
    gpu: flags.CardNames = None,
    video: flags.VideoName = "1080p30",
    codec: flags.CodecName = "h264",
    bit_depth: flags.BitDepth = 8,
    stream: flags.Cameras = None,
    mix: flags.MixFile = None,
    precision: flags.StreamPrecision = "fp16",
    margin: flags.MarginSize = "30%",
    batch: flags.FrameBatch = "auto",
    processes: flags.Processes = "1",
    contexts: flags.Contexts = None,
    separate_models: flags.SeparateModels = False,
    infer_every: flags.InferEvery = 1,
    per_stream_extra: flags.PerStreamExtra = None,
    decode: flags.DecodeBy = "gpu",
    require: flags.Require = None,
    nvdec: flags.Nvdec = None,
    decode_fps: flags.DecodeFps = None,
    infer_fps: flags.InferFps = None,
    vram: flags.AnyVram = None,
    dim: flags.Dims = None,
    shape: flags.Shapes = None,
    allow_pickle: flags.AllowPickle = False,
    measure: flags.MeasureRates = False,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    html: flags.Html = None,
    force: flags.Force = False,
) -> int:
    """How many video streams a card carries, and what stops the next one: memory, decoder, compute or PCIe.

    Without MODEL, a vramplan.toml here says what the flags leave open. Exit code 1 when --require, or the cameras named by
    --stream or --mix, do not fit.
    """
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    page = read_page(html, target)
    dims = arguments.read_dims(dim or ())
    shapes = arguments.read_shapes("--shape", shape or ())
    vram_bytes = arguments.read_size("--vram", vram)
    site = site_streams(context, has_model=bool(model), has_cameras=bool(stream or mix))
    as_given = {name: context.params[name] for name in _AS_GIVEN}
    cards = arguments.read_list("--gpu", gpu or ([site.gpu] if site.gpu else [])) or None

    from vramplan.fleet import streams  # noqa: PLC0415  keeps start-up fast
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415

    with progress_bar():
        plan = streams(
            model or site.models or "yolov8s",
            gpu=cards[0] if cards and len(cards) == 1 else cards,
            mix=_mix(stream, mix, codec, infer_every),
            precision=site.precision or precision,
            vram=vram_bytes,
            shapes=shapes or site.shapes,
            dims=dims or site.dims,
            **{**as_given, **site.options},
        )
    _emit(target, page, plan)
    return 1 if plan.fits is False else 0


def _mix(stream: Sequence[str] | None, path: str | None, codec: str, infer_every: int) -> Sequence[str | Stream]:
    if stream and path is not None:
        raise UsageError("--stream and --mix exclude each other", hint="Put all cameras into the file, or name them all.")
    if path is None:
        return stream or ()
    from vramplan.cameras import read_cameras  # noqa: PLC0415  keeps start-up fast

    return read_cameras(path, codec=codec, infer_every=infer_every)


def _emit(target: Output, page: Path | None, plan: StreamsPlan) -> None:
    """The plan in its format; what would disturb a file or a program goes to standard error."""
    from vramplan.report import html, streams_export, streams_terminal  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: streams_export.streams_json,
        Format.CSV: streams_export.streams_csv,
        Format.MARKDOWN: streams_export.streams_markdown,
        Format.TABLE: lambda it: streams_terminal.streams_text(it, width=target.width, colour=target.colour),
    }
    target.report(plan, writers, streams_terminal.verdict_lines)
    write_page(page, target, lambda: html.streams_page(plan))
