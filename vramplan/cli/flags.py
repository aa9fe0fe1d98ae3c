"""The flags of the commands: how each is typed, and its line of help. Commands that share a flag share it here."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_PRECISIONS = "fp32,fp16,int8"

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="An .onnx file, or a built-in model: yolov8s.")]
GpuName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One card: 3090, t4, 'agx orin 64'.")]

Batches = Annotated[list[str] | None, typer.Option("-b", "--batch", metavar="N,…", help="Batch sizes, such as 1,4,8.")]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", metavar="P,…", help=f"fp32, fp16, bf16, fp8, int8, int4, as-is. Default: {DEFAULT_PRECISIONS}."
    ),
]
Runtimes = Annotated[list[str] | None, typer.Option("--runtime", metavar="R,…", help="What runs the model: tensorrt.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", metavar="INPUT:SHAPE", help="An input's shape: images:1x3x640x640.")
]
Dims = Annotated[list[str] | None, typer.Option("--dim", metavar="NAME=N", help="A dynamic dimension: height=640.")]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option("--max-shape", metavar="INPUT:SHAPE", help="The largest shape the engine is built for; it pays for it."),
]
Workspace = Annotated[str | None, typer.Option("--workspace", metavar="SIZE", help="The builder's workspace limit: 1GiB.")]

CardName = Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="The card: 3090, t4, a100-40gb.")]
Vram = Annotated[str | None, typer.Option("--vram", metavar="SIZE", help="Memory of a card that is not listed: 24GiB.")]
Budget = Annotated[str | None, typer.Option("--budget", metavar="SIZE", help="What it may take: 8GiB. Exit 1 when over.")]

Peak = Annotated[bool, typer.Option("--peak", help="Also who is alive at the peak, and until when.")]
Layers = Annotated[bool, typer.Option("--layers", help="Also every layer: result, weights, workspace, live.")]
Top = Annotated[int | None, typer.Option("--top", metavar="N", help="Rows of --peak (default 10) and --layers (all).")]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, sizes in bytes.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]
OutputFile = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there: .json, .csv, .md, .txt.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of -o if it exists.")]
