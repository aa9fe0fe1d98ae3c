"""What `streams` and `gpus` say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model

from tests.docs.contract_base import MAYBE, Bytes, Count, Evidence, Format, Object, Output, ReasonedSizes, Text


class StreamModel(Object):
    name: Text
    """The file, or the name of a built-in model."""
    format: Format
    """What kind of model it is."""
    sha256: str
    """The hash of the file; empty where there is none."""
    parameters: Count | None
    """A number of elements; null where nobody knows."""


class Camera(Object):
    count: Count
    """How many of this kind; in a mix without counts, 1."""
    width_px: Count
    """Width."""
    height_px: Count
    """Height."""
    fps: float
    """Frames a second."""
    codec: Literal["h264", "hevc", "av1", "vp9", "mjpeg"]
    """How it is coded."""
    bit_depth: Literal[8, 10, 12]
    """Bits a sample."""
    infer_every: Count
    """The model sees every n-th frame."""


class Streams(Object):
    low: Count
    """When every doubt goes against you."""
    nominal: Count
    """What to plan with."""
    high: Count
    """When every doubt goes your way."""


class Limit(Object):
    streams_low: Count | None
    """Streams that this limit alone allows, when doubts go against you; null: no end."""
    streams_nominal: Count | None
    """To plan with."""
    streams_high: Count | None
    """When doubts go your way."""
    capacity: float | None
    """What the card has, in `unit`; null where it is not known."""
    capacity_low: float | None
    """The least of it."""
    capacity_high: float | None
    """The most of it."""
    demand_per_stream: float | None
    """What a stream takes, in `unit`."""
    headroom: float | None
    """What the plan's nominal streams leave."""
    unit: Text
    """`bytes`, `fps`, `GB/s`."""
    evidence: Evidence | None
    """What it rests on; null where the limit is not known."""
    sources: list[Text]
    """Where the numbers are from."""
    applies: bool
    """Whether it counts for the answer."""
    reason: str
    """Why it does not, or why it is not known; else empty."""


class CardLimits(Object):
    vram: Limit
    """Memory."""
    decode: Limit
    """The video decoders."""
    compute: Limit
    """The models."""
    pcie: Limit
    """The bus."""


LimitName = Literal["vram", "decode", "compute", "pcie"]


class Assumption(Object):
    value: str
    """What was taken for granted."""
    evidence: Evidence
    """What it rests on."""
    source: str
    """Where it is from."""
    flag: str
    """What changes it; empty where nothing does."""


class NextBinding(Object):
    limit: LimitName
    """What would end next."""
    streams_nominal: Count
    """At how many streams."""


class StreamsTry(Object):
    flags: str
    """What to type; empty where no flag does it."""
    streams_nominal: Count
    """Streams then: solved, not guessed."""
    text: Text
    """Both in words."""


class Card(Object):
    gpu: Text
    """The catalogue's name."""
    name: Text
    """The vendor's name."""
    usable_bytes: Bytes
    """What a program can allocate on an idle card."""
    fits: bool | None
    """Whether the required streams fit; null when none are."""
    streams: Streams
    """How many streams it carries."""
    binding: LimitName
    """What ends first."""
    limits: CardLimits
    """All four."""
    marginal_bytes_per_stream: Bytes | None
    """What the next stream takes; null where it is not known."""
    batch: Count
    """Frames at once."""
    contexts: Count
    """Execution contexts over all processes."""
    processes: Count | Literal["per-stream"]
    """How many share the card."""
    assumptions: dict[str, Assumption]
    """What was taken for granted, by name."""
    next_binding: NextBinding | None
    """What would end next; null where nothing does."""
    missing: list[Text]
    """Limits that could not be computed."""
    notes: list[Text]
    """Where the numbers are from, in words."""
    try_: list[StreamsTry] = Field(alias="try")
    """Changes that carry more."""


class Plan(Output):
    """What `vramplan streams --json` prints."""

    model: StreamModel
    """The first model."""
    models: list[StreamModel] = MAYBE
    """All of them, where there are several."""
    video: Camera = MAYBE
    """The camera, where there is one kind."""
    mix: list[Camera] = MAYBE
    """The cameras, where `--stream` or `--mix` named several or how many."""
    required: Count | None
    """Streams that must fit; null when just asking."""
    cards: list[Card]
    """In the order they were asked for; all cards by streams."""


class Contexts(Object):
    torch: ReasonedSizes
    """Of a PyTorch process."""
    onnxruntime: ReasonedSizes
    """Of an ONNX Runtime process."""
    tensorrt: ReasonedSizes
    """Of a TensorRT process."""


_COLUMNS: dict[str, tuple[Any, str]] = {
    "key": (Text, "What to type after `--gpu`."),
    "name": (Text, "The vendor's name."),
    "family": (Text, "The product line."),
    "architecture": (Text | None, "The chip's generation."),
    "compute_capability": (Text | None, "CUDA's version of the chip."),
    "sm_count": (Count | None, "Streaming multiprocessors."),
    "boost_mhz": (float | None, "The boost clock."),
    "memory_type": (Text | None, "Such as GDDR6X or HBM3e."),
    "vram_marketed_bytes": (Bytes, "The size on the box."),
    "nvidia_smi_total_bytes": (Bytes | None, "What nvidia-smi calls total."),
    "nvidia_smi_confidence": (Literal["high", "medium", "low"] | None, "How sure that is."),
    "cuda_visible_total_bytes": (Bytes | None, "What `cudaMemGetInfo` calls total, on Linux."),
    "unified_memory": (bool, "Whether the CPU shares it."),
    "memory_bandwidth_gb_s": (float | None, "10^9 bytes a second."),
    "fp32_tflops": (float | None, "10^12 operations a second without tensor cores."),
    "fp16_dense_tflops": (float | None, "10^12 dense operations a second, at the faster accumulation."),
    "fp16_fp32acc_dense_tflops": (float | None, "The same with accumulation in FP32."),
    "int8_dense_tops": (float | None, "10^12 dense operations a second."),
    "fp8_dense_tflops": (float | None, "10^12 dense operations a second."),
    "tensor_basis": (Text | None, "What the tensor rates are from."),
    "pcie_generation": (Count | None, "PCIe generation."),
    "pcie_lane_count": (Count | None, "PCIe lanes."),
    "nvdec_generation": (Text | None, "Generation of the decoders."),
    "nvdec_count": (Count | None, "How many decoders."),
    "nvdec_confidence": (Literal["high", "medium", "low"] | None, "How sure that is."),
    "nvdec_table_row": (Text | None, "The row of NVIDIA's decoder note that holds."),
    "video_clock_max_mhz": (float | None, "The decoders' highest clock."),
    "h264_1080p30_stream_count": (Count | None, "A vendor's streams for the whole device."),
    "h265_1080p30_stream_count": (Count | None, "A vendor's streams for the whole device."),
    "notes": (Text | None, "What to know of the row."),
    "source": (Text, "Where the cells are from, part by part."),
    "usable": (ReasonedSizes, "What a program can allocate on an idle card."),
    "context": (Contexts, "What a process takes beside its tensors."),
    "evidence": (dict[str, Evidence], "What each known column rests on."),
    "sources": (list[Text], "`source`, one an item."),
}

CatalogueCard = create_model(
    "CatalogueCard",
    __base__=Object,
    **{name: (kind, Field(description=text)) for name, (kind, text) in _COLUMNS.items()},  # type: ignore[call-overload]
)


class Gpus(Output):
    """What `vramplan gpus --json` prints: every column of the catalogue, null where a fact is not known."""

    gpus: list[CatalogueCard]  # type: ignore[valid-type]
    """The cards, in the catalogue's order."""
