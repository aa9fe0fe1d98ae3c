"""What an estimate says, as plain frozen data that reports print and programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vramplan.budget import Budget
from vramplan.gpus import Gpu
from vramplan.precision import Kept
from vramplan.program import MemoryProgram
from vramplan.runtimes.onnxruntime.fallbacks import Fallback
from vramplan.runtimes.plan import Layer, PhasePeak
from vramplan.showing import Shown
from vramplan.workspace.convolution import ConvCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A tensor the caller provides or receives: as declared, and as bound in this estimate."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    shape: tuple[int, ...] | None
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Which model was read; ``parameters`` counts elements, not bytes, and is None where nobody knows (a recorded run)."""

    name: str
    format: str
    parameters: int | None
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    digest: Callable[[], str] = field(repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """The hash of the file, computed when somebody asks: a large file takes a while."""
        return self.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBuffer:
    """A buffer alive at the peak; ``until`` is the op that lets it go, empty when nothing does."""

    name: str
    role: str
    size_bytes: int
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMoment:
    """Where the peak is: the op, its index in execution order (0 is loading), and all that is alive, largest first."""

    op: str
    index: int
    live: tuple[LiveBuffer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many ops were modelled, and how well.

    Invariant: exact + measured + bounded + the ops behind ``unmodelled`` are all ``ops``.
    """

    ops: int
    exact: int
    measured: int
    bounded: int
    unmodelled: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An engine built for larger shapes than it is given: what it holds, and how much of that idles."""

    max_shapes: Mapping[str, tuple[int, ...]]
    context_bytes: int
    needed_bytes: int

    @property
    def idle_ratio(self) -> float:
        """The share of the context's memory that the actual shapes do not need."""
        return 1 - self.needed_bytes / self.context_bytes if self.context_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a session whose shapes change between runs: its peaks, and what the process takes after it."""

    shapes: Mapping[str, tuple[int, ...]]
    phase: PhasePeak


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Shown):
    """One cell: a model on one runtime, at one precision, batch and memory format. Every size is in bytes.

    ``flops`` are operations of one forward, two a multiply-add, where the trace counted them (PyTorch). ``account`` says
    where the bytes of the total go, line by line, for runtimes that can tell (ONNX Runtime). ``convolutions`` are
    the calls of cuDNN by their op's index in the program. ``runtime_options`` are those the user gave (ONNX Runtime), ``runs``
    those of a session whose shapes change, in order, ``fallbacks`` its nodes on the CPU.
    """

    model: ModelFacts
    runtime: str
    precision: str
    batch: int | None
    memory_format: str
    gpu: Gpu | None
    budget: Budget
    phases: Mapping[str, PhasePeak]
    lower_bound_bytes: int
    sum_of_outputs_bytes: int
    peak: PeakMoment
    coverage: Coverage
    kept: tuple[Kept, ...]
    layers: tuple[Layer, ...]
    profile: Profile | None
    notes: tuple[str, ...]
    program: MemoryProgram
    flops: int | None = None
    account: tuple[tuple[str, int], ...] = ()
    runs: tuple[Run, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    runtime_options: Mapping[str, str] = field(default_factory=dict)
    convolutions: Mapping[int, ConvCall] = field(default_factory=dict, repr=False)

    @property
    def total_bytes(self) -> int:
        """Nominal total: what NVML would show for the process."""
        return self.budget.total.nominal_bytes

    @property
    def total_low_bytes(self) -> int:
        """The least the process can take."""
        return self.budget.total.low_bytes

    @property
    def total_high_bytes(self) -> int:
        """The most the process may take."""
        return self.budget.total.high_bytes
