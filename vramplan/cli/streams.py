"""``vramplan streams``: how many cameras a card carries, and what stops the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vramplan.cli import arguments
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vramplan.fleet import StreamsPlan
    from vramplan.video import Stream


def streams_command(
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]…", help="Models that look at every frame. Default: yolov8s.")
    ] = None,
    *,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", metavar="NAME,…", help="The card: 3090; several: 3090,t4,l4; or all.")
    ] = None,
    video: Annotated[str, typer.Option("--video", metavar="V", help="1080p30, 4k25, 720p, 1280x720@15.")] = "1080p30",
    codec: Annotated[str, typer.Option("--codec", metavar="C", help="h264, hevc, av1, vp9 or mjpeg.")] = "h264",
    bit_depth: Annotated[int, typer.Option("--bit-depth", metavar="BITS", help="8, 10 or 12 bits a sample.")] = 8,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", metavar="S", help="Cameras of several kinds: 12x1080p30/h264, repeated.")
    ] = None,
    mix: Annotated[str | None, typer.Option("--mix", metavar="FILE", help="The same from a TOML file of [[camera]].")] = None,
    precision: Annotated[str, typer.Option("--precision", metavar="P", help="fp32, fp16, bf16, fp8, int8, as-is.")] = "fp16",
    margin: Annotated[str, typer.Option("--margin", metavar="M", help="Memory kept free: 30% or 2GiB.")] = "30%",
    batch: Annotated[str, typer.Option("-b", "--batch", metavar="N", help="Frames at once, or auto.")] = "auto",
    processes: Annotated[str, typer.Option("--processes", metavar="P", help="A number, or per-stream.")] = "1",
    contexts: Annotated[
        int | None, typer.Option("--contexts", metavar="K", help="Execution contexts. Default: one a process.")
    ] = None,
    separate_models: Annotated[
        bool, typer.Option("--separate-models", help="Several models live in processes of their own.")
    ] = False,
    infer_every: Annotated[int, typer.Option("--infer-every", metavar="K", help="Look at every K-th frame.")] = 1,
    per_stream_extra: Annotated[
        str | None, typer.Option("--per-stream-extra", metavar="SIZE", help="Tracker and queues: 20MiB.")
    ] = None,
    decode: Annotated[str, typer.Option("--decode", metavar="WHO", help="gpu or cpu.")] = "gpu",
    require: Annotated[
        int | None, typer.Option("--require", metavar="N", help="Streams that must fit. Exit 1 when they do not.")
    ] = None,
    nvdec: Annotated[int | None, typer.Option("--nvdec", metavar="N", help="Decoder engines of the card.")] = None,
    decode_fps: Annotated[
        float | None, typer.Option("--decode-fps", metavar="F", help="Measured decode rate of the whole card.")
    ] = None,
    infer_fps: Annotated[
        float | None, typer.Option("--infer-fps", metavar="F", help="Measured inference rate of the whole card.")
    ] = None,
    vram: Annotated[
        str | None, typer.Option("--vram", metavar="SIZE", help="Memory that CUDA can allocate; needs no --gpu: 24GiB.")
    ] = None,
    dim: Annotated[list[str] | None, typer.Option("--dim", metavar="NAME=N", help="A dynamic dimension: height=640.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="INPUT:SHAPE", help="An input's shape: images:1x3x640x640.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line for each card and limit.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there; .json .csv .md .txt.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of -o if it exists.")] = False,
) -> int:
    """How many video streams a card carries, and what stops the next one: memory, decoder, compute or PCIe.

    Exit code 1 when --require, or the cameras named by --stream or --mix, do not fit.
    """
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    dims = arguments.read_dims(dim or ())
    shapes = arguments.read_shapes("--shape", shape or ())
    vram_bytes = arguments.read_size("--vram", vram)
    cards = arguments.read_list("--gpu", gpu) if gpu else None

    from vramplan.fleet import streams  # noqa: PLC0415  keeps start-up fast

    plan = streams(
        model or "yolov8s",
        gpu=cards[0] if cards and len(cards) == 1 else cards,
        video=video,
        codec=codec,
        bit_depth=bit_depth,
        mix=_mix(stream, mix, codec, infer_every),
        precision=precision,
        margin=margin,
        batch=batch,
        processes=processes,
        contexts=contexts,
        separate_models=separate_models,
        infer_every=infer_every,
        per_stream_extra=per_stream_extra,
        decode=decode,
        require=require,
        nvdec=nvdec,
        decode_fps=decode_fps,
        infer_fps=infer_fps,
        vram=vram_bytes,
        shapes=shapes,
        dims=dims,
    )
    _emit(target, plan)
    return 1 if plan.fits is False else 0


def _mix(stream: Sequence[str] | None, path: str | None, codec: str, infer_every: int) -> Sequence[str | Stream]:
    if stream and path is not None:
        raise UsageError("--stream and --mix exclude each other", hint="Put all cameras into the file, or name them all.")
    if path is None:
        return stream or ()
    from vramplan.cameras import read_cameras  # noqa: PLC0415  keeps start-up fast

    return read_cameras(path, codec=codec, infer_every=infer_every)


def _emit(target: Output, plan: StreamsPlan) -> None:
    """The plan in its format; what would disturb a file or a program goes to standard error."""
    from vramplan.report import streams_export, streams_terminal  # noqa: PLC0415  keeps start-up fast

    match target.format:
        case Format.JSON:
            target.emit(streams_export.streams_json(plan))
        case Format.CSV:
            target.emit(streams_export.streams_csv(plan))
        case Format.MARKDOWN:
            target.emit(streams_export.streams_markdown(plan))
        case Format.TABLE:
            target.emit(streams_terminal.streams_text(plan, width=target.width, colour=target.colour))
    if target.path is not None or target.format is Format.CSV:
        for line in streams_terminal.verdict_lines(plan):
            typer.echo(line, err=True)
