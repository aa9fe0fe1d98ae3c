"""The flags of the commands: how each is typed, and its line of help. Commands that share a flag share it here."""

from __future__ import annotations

from typing import Annotated

import typer

from vramplan.cli import completion

DEFAULT_PRECISIONS = "fp32,fp16,int8"
DEFAULT_TORCH_PRECISIONS = "fp32,fp16,bf16"
DEFAULT_SESSION_PRECISIONS = "fp32,fp16"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="An .onnx file, a built-in model (yolov8s), or a PyTorch model: file.py:factory.",
        autocompletion=completion.models,
    ),
]
RecordingFile = Annotated[str | None, typer.Argument(metavar="FILE", help="A recorded run: a .json or .json.gz file.")]
GpuName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="One card: 3090, t4, 'agx orin 64'.", autocompletion=completion.cards)
]

Batches = Annotated[list[str] | None, typer.Option("-b", "--batch", metavar="N,…", help="Batch sizes, such as 1,4,8.")]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="P,…",
        help=f"fp32, fp16, bf16, fp8, int8, int4, as-is, autocast-fp16. Default: {DEFAULT_PRECISIONS}.",
        autocompletion=completion.precisions,
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="R,…",
        help="What runs the model: tensorrt, torch, onnxruntime; or all. Default: what fits it; both for an .onnx file.",
        autocompletion=completion.runtimes,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT:SHAPE", help="An input's shape: images:1x3x640x640."),
]
TurnShapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT:SHAPE", help="An input's shape: images:1x3x640x640; several are run in turn."),
]
Dims = Annotated[list[str] | None, typer.Option("--dim", metavar="NAME=N", help="A dynamic dimension: height=640.")]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option("--max-shape", metavar="INPUT:SHAPE", help="The largest shape the engine is built for; it pays for it."),
]
MemoryFormat = Annotated[
    str | None,
    typer.Option(
        "--memory-format",
        metavar="F",
        help="PyTorch: contiguous or channels_last.",
        autocompletion=completion.words("contiguous", "channels_last"),
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="ONNX Runtime: also where the bytes beyond the weights go.")]
DropOutputs = Annotated[bool, typer.Option("--drop-outputs", help="PyTorch: the last results go before the next run.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load a pickled .pt, which runs code from the file.")]
Compile = Annotated[bool, typer.Option("--compile", help="PyTorch: torch.compile is not modelled yet.", hidden=True)]
CudaGraphs = Annotated[bool, typer.Option("--cuda-graphs", help="PyTorch: CUDA graphs are not modelled yet.", hidden=True)]
Workspace = Annotated[str | None, typer.Option("--workspace", metavar="SIZE", help="The builder's workspace limit: 1GiB.")]

CardName = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="The card: 3090, t4, a100-40gb; auto: this machine's.", autocompletion=completion.cards
    ),
]
Vram = Annotated[str | None, typer.Option("--vram", metavar="SIZE", help="Memory of a card that is not listed: 24GiB.")]
Budget = Annotated[str | None, typer.Option("--budget", metavar="SIZE", help="What it may take: 8GiB. Exit 1 when over.")]

Peak = Annotated[bool, typer.Option("--peak", help="Also who is alive at the peak, and until when.")]
Layers = Annotated[bool, typer.Option("--layers", help="Also every layer: result, weights, workspace, live.")]
Top = Annotated[int | None, typer.Option("--top", metavar="N", help="Rows of --peak (default 10) and --layers (all).")]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, sizes in bytes.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]
OutputFile = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there: .json, .csv, .md, .txt.")]
Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Also write a web page with pictures, for offline use.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the files of -o and --html if they exist.")]

RuntimeOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime-option",
        metavar="K=V",
        help="ONNX Runtime: arena_extend_strategy=kSameAsRequested.",
        autocompletion=completion.runtime_options,
    ),
]
OneBatch = Annotated[str | None, typer.Option("-b", "--batch", metavar="N", help="The batch size.")]
OnePrecision = Annotated[
    str,
    typer.Option(
        "--precision", metavar="P", help="as-is, fp32, fp16, bf16, autocast-fp16.", autocompletion=completion.precisions
    ),
]
OneRuntime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="R",
        help="What runs the model: torch, or onnxruntime for a file.",
        autocompletion=completion.words("torch", "onnxruntime"),
    ),
]
GpuIndex = Annotated[int | None, typer.Option("--gpu-index", metavar="N", help="Which GPU, as nvidia-smi counts.")]
MemoryLimit = Annotated[str | None, typer.Option("--memory-limit", metavar="SIZE", help="What the run may take: 8GiB.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds after which the run is ended.")]
Wait = Annotated[float, typer.Option("--wait", metavar="S", help="Seconds to wait for another measurement on the GPU.")]
RecordFile = Annotated[
    str | None, typer.Option("--record", metavar="FILE", help="Save the allocator's events: run.json.gz, for `replay`.")
]
FindMaxBatch = Annotated[bool, typer.Option("--find-max-batch", help="Search the largest batch that runs.")]
Learn = Annotated[bool, typer.Option("--learn", help="Keep measured workspaces of convolutions for later estimates.")]
Tolerance = Annotated[str, typer.Option("--tolerance", metavar="T", help="How far the total may be off: 5%.")]
ForceRun = Annotated[bool, typer.Option("--force", help="Run although it may not fit; replace files that exist.")]

ShowCalibrations = Annotated[bool, typer.Option("--show", help="Measure nothing: show what is stored.")]
ExportCalibration = Annotated[
    str | None, typer.Option("--export", metavar="FILE", help="Measure nothing: write the newest stored calibration there.")
]
ImportCalibration = Annotated[
    str | None, typer.Option("--import", metavar="FILE", help="Measure nothing: store a calibration of another machine.")
]
StoredCard = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="With --show and --export: only calibrations of this card.",
        autocompletion=completion.cards,
    ),
]
ForceCalibration = Annotated[bool, typer.Option("--force", help="Measure with less than 4 GiB free; replace files that exist.")]

StreamModels = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]…", help="Models that look at every frame. Default: yolov8s.", autocompletion=completion.models
    ),
]
CardNames = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu", metavar="NAME,…", help="The card: 3090; several: 3090,t4,l4; auto; or all.", autocompletion=completion.cards
    ),
]
VideoName = Annotated[str, typer.Option("--video", metavar="V", help="1080p30, 4k25, 720p, 1280x720@15.")]
CodecName = Annotated[
    str,
    typer.Option(
        "--codec",
        metavar="C",
        help="h264, hevc, av1, vp9 or mjpeg.",
        autocompletion=completion.words("h264", "hevc", "av1", "vp9", "mjpeg"),
    ),
]
BitDepth = Annotated[int, typer.Option("--bit-depth", metavar="BITS", help="8, 10 or 12 bits a sample.")]
Cameras = Annotated[
    list[str] | None, typer.Option("--stream", metavar="S", help="Cameras of several kinds: 12x1080p30/h264, repeated.")
]
MixFile = Annotated[str | None, typer.Option("--mix", metavar="FILE", help="The same from a TOML file of [[camera]].")]
StreamPrecision = Annotated[
    str,
    typer.Option("--precision", metavar="P", help="fp32, fp16, bf16, fp8, int8, as-is.", autocompletion=completion.precisions),
]
MarginSize = Annotated[str, typer.Option("--margin", metavar="M", help="Memory kept free: 30% or 2GiB.")]
FrameBatch = Annotated[str, typer.Option("-b", "--batch", metavar="N", help="Frames at once, or auto.")]
Processes = Annotated[str, typer.Option("--processes", metavar="P", help="A number, or per-stream.")]
Contexts = Annotated[int | None, typer.Option("--contexts", metavar="K", help="Execution contexts. Default: one a process.")]
SeparateModels = Annotated[bool, typer.Option("--separate-models", help="Several models live in processes of their own.")]
InferEvery = Annotated[int, typer.Option("--infer-every", metavar="K", help="Look at every K-th frame.")]
PerStreamExtra = Annotated[str | None, typer.Option("--per-stream-extra", metavar="SIZE", help="Tracker and queues: 20MiB.")]
DecodeBy = Annotated[
    str, typer.Option("--decode", metavar="WHO", help="gpu or cpu.", autocompletion=completion.words("gpu", "cpu"))
]
Require = Annotated[int | None, typer.Option("--require", metavar="N", help="Streams that must fit. Exit 1 when they do not.")]
Nvdec = Annotated[int | None, typer.Option("--nvdec", metavar="N", help="Decoder engines of the card.")]
DecodeFps = Annotated[float | None, typer.Option("--decode-fps", metavar="F", help="Measured decode rate of the whole card.")]
InferFps = Annotated[float | None, typer.Option("--infer-fps", metavar="F", help="Measured inference rate of the whole card.")]
MeasureRates = Annotated[
    bool,
    typer.Option(
        "--measure", help="Decode clips and run the models on this machine's GPU first: their rates are used. Runs their code."
    ),
]
AnyVram = Annotated[
    str | None, typer.Option("--vram", metavar="SIZE", help="Memory that CUDA can allocate; needs no --gpu: 24GiB.")
]

LockModels = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]…",
        help="Models. Default: those of vramplan.toml, else of the lock file.",
        autocompletion=completion.models,
    ),
]
LockPrecisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="P,…",
        help="fp32, fp16, bf16, fp8, int8, int4, autocast-fp16. Default: as-is.",
        autocompletion=completion.precisions,
    ),
]
LockTolerance = Annotated[str | None, typer.Option("--tolerance", metavar="T", help="How far a total may grow. Default: 5%.")]
LockTarget = Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The lock file to write, or to update.")]
ForceLock = Annotated[bool, typer.Option("--force", help="Replace the file of -o although it is no lock file.")]
LockedFile = Annotated[str, typer.Option("--lock", metavar="FILE", help="The lock file.")]
GitHub = Annotated[bool, typer.Option("--github", help="Print annotations for a GitHub workflow, and nothing else.")]
DiffSides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="A [B]",
        help="Two models, or two lock files (.json); one model with two values.",
        autocompletion=completion.locks_and_models,
    ),
]
DiffTop = Annotated[int | None, typer.Option("--top", metavar="N", help="Tensors and layers to list. Default: 10.")]
