"""What is asked of a card: the cameras, the models that look at them, and how the processes are arranged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vramplan.capacity.readings import Readings
from vramplan.capacity.work import FrameWork
from vramplan.errors import UsageError
from vramplan.ranges import Evidence, Range
from vramplan.units import MIB
from vramplan.video import Stream

DECODE_PATHS = ("gpu", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """What one model takes at one batch: once a process (weights), and once an execution context (everything else)."""

    weights: Range
    context: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One model as the calculator needs it. ``memory`` answers for a batch size; ``runtime`` is what runs it."""

    name: str
    precision: str
    work: FrameWork
    memory: Callable[[int], EngineMemory]
    runtime: str = "TensorRT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """What is kept free of the usable memory: a share of it, or bytes.

    Invariant: 0 <= ratio < 1 and size_bytes >= 0.
    """

    ratio: float = 0.0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise UsageError(f"margin {self.ratio:.0%} is not below 100 %", hint="Write it like 30% or 2GiB.")
        if self.size_bytes < 0:
            raise UsageError(f"margin {self.size_bytes} bytes is negative", hint="Write it like 30% or 2GiB.")

    def of(self, usable_bytes: int) -> int:
        """The bytes to keep free."""
        return round(usable_bytes * self.ratio) + self.size_bytes

    def __str__(self) -> str:
        return f"{self.ratio:.0%}" if not self.size_bytes else f"{self.size_bytes / MIB:,.0f} MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How the work is divided.

    ``processes`` share nothing: each has a CUDA context and its own weights; None is a process for each stream.
    ``contexts`` are execution contexts over all processes, each with activations of its own. ``separate_models`` gives every
    model processes of its own. ``batch`` None chooses one.

    Invariant: counts are at least 1; there are no fewer contexts than processes; a process per stream has batch 1.
    """

    processes: int | None = 1
    contexts: int = 1
    batch: int | None = None
    separate_models: bool = False

    def __post_init__(self) -> None:
        for what, count in (("processes", self.processes), ("contexts", self.contexts), ("batch", self.batch)):
            if count is not None and count < 1:
                raise UsageError(f"{what} {count} makes no sense", hint="Give at least 1.")
        if self.processes is not None and self.contexts < self.processes:
            raise UsageError(
                f"{self.processes} processes need at least as many contexts, not {self.contexts}",
                hint=f"--contexts {self.processes}, or leave it out.",
            )
        if self.processes is None and self.batch not in (None, 1):
            raise UsageError(
                f"batch {self.batch}: a process per stream sees one frame at a time", hint="Use --batch 1, or fewer processes."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user measured or knows better than the catalogue; None is not given. Rates are of the whole card.

    ``readings`` were measured for this plan; what the user gives wins over them.
    """

    nvdec_count: int | None = None
    decode_fps: float | None = None
    infer_fps: float | None = None
    vram_bytes: int | None = None
    readings: Readings = field(default_factory=Readings)

    def __post_init__(self) -> None:
        for what, value in (("nvdec", self.nvdec_count), ("decode-fps", self.decode_fps), ("infer-fps", self.infer_fps)):
            if value is not None and not 0 < value < 1e9:
                raise UsageError(f"--{what} {value:g} is not above 0", hint="Leave it out to use the catalogue.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Everything that is asked, apart from the card.

    ``streams`` are a mix: the answer scales it as a whole. ``extra`` is for each stream (tracker, queues).
    Invariant: there is a stream and a model.
    """

    streams: tuple[Stream, ...]
    engines: tuple[Engine, ...]
    topology: Topology
    margin: Margin
    extra: Range
    decode: str = "gpu"
    given: Given = Given()

    def __post_init__(self) -> None:
        if not self.streams or not self.engines:
            raise UsageError("a plan needs at least one stream and one model")
        if self.decode not in DECODE_PATHS:
            raise UsageError(f"unknown decode path {self.decode[:40]!r}", hint=f"Known: {', '.join(DECODE_PATHS)}.")
        if self.given.decode_fps is not None and len(self.streams) > 1:
            raise UsageError("--decode-fps is the rate of one kind of video, and this is a mix", hint="Leave one of them out.")

    @property
    def count(self) -> int:
        """Cameras in the mix; one for a plain question."""
        return sum(stream.count for stream in self.streams)

    @property
    def infer_fps(self) -> float:
        """Frames a second of the average camera that reach the models."""
        return self.mean(lambda stream: stream.infer_fps)

    @property
    def fastest_fps(self) -> float:
        """Frames a second of the camera whose frames are due soonest."""
        return max(stream.infer_fps for stream in self.streams)

    def mean(self, value: Callable[[Stream], float]) -> float:
        """*value* of the average camera of the mix."""
        return sum(value(stream) * stream.count for stream in self.streams) / self.count


DEFAULT_EXTRA = Range(low_bytes=0, nominal_bytes=20 * MIB, high_bytes=64 * MIB, evidence=Evidence.ASSUMED)
"""For each stream: tracker state, queues, crops. An assumption; DeepStream pipelines differ by their plug-ins."""


def names_of(engines: Sequence[Engine]) -> str:
    """The models in words: ``yolov8s + resnet50``."""
    return " + ".join(engine.name for engine in engines)
