"""What was measured: counters of the allocator and of the driver, phase by phase, and where they were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vramplan.device.probe import GpuProcess
from vramplan.showing import Shown


class Outcome(StrEnum):
    """How a measurement ended. Running out of memory is an answer, not a failure."""

    FINISHED = "finished"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReading:
    """One phase, read at its end: bytes requested, allocated and reserved by the runtime's allocator, now and at their peaks
    within the phase; ``process_bytes`` is what the card has less than before the process, by the driver. Counters are None
    where the runtime has none that a program can read (ONNX Runtime).

    ``retry_count`` and ``device_alloc_count`` count since the process began: allocations that first had to give memory back,
    and those that went to the driver.

    Invariant: no count is negative, and no peak is below its end.
    """

    process_bytes: int
    requested_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    requested_peak_bytes: int | None = None
    allocated_peak_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    retry_count: int = 0
    device_alloc_count: int = 0

    def __post_init__(self) -> None:
        pairs = (
            (self.requested_bytes, self.requested_peak_bytes),
            (self.allocated_bytes, self.allocated_peak_bytes),
            (self.reserved_bytes, self.reserved_peak_bytes),
        )
        known = [(now, peak) for now, peak in pairs if now is not None and peak is not None]
        if any(now < 0 or peak < now for now, peak in known):
            raise ValueError(f"counters that cannot be: {self}")

    @property
    def context_bytes(self) -> int | None:
        """What the process holds beyond the allocator: the context, kernels, handles of libraries. None without counters."""
        return None if self.reserved_bytes is None else self.process_bytes - self.reserved_bytes

    @property
    def process_peak_bytes(self) -> int:
        """The most the process took: when the allocator reserved most, with everything loaded that is loaded at the end."""
        if self.reserved_peak_bytes is None or self.reserved_bytes is None:
            return self.process_bytes
        return self.process_bytes + self.reserved_peak_bytes - self.reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextStep:
    """What the process held beyond its allocator after a step; ``where`` is the module that took it."""

    name: str
    context_bytes: int
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One forward on an idle GPU, in milliseconds by CUDA events, over ``run_count`` forwards after a warm-up.

    Invariant: 0 < low_ms <= median_ms <= high_ms.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    run_count: int
    batch: int

    def __post_init__(self) -> None:
        if not 0 < self.low_ms <= self.median_ms <= self.high_ms or self.run_count < 1:
            raise ValueError(f"not a latency: {self}")

    @property
    def throughput_per_s(self) -> float:
        """Items a second, one forward after the other."""
        return self.batch * 1000 / self.median_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """What one node of a session asked for, by ONNX Runtime's own statistics, in bytes: inputs of the model and weights that it
    was the first to read, buffers for its results (none where it took one over), and scratch.
    """

    name: str
    input_bytes: int
    initializer_bytes: int
    result_bytes: int
    scratch_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Shown):
    """A model that ran.

    phases       by name, those that were reached: weights, load (weights and inputs), first_run and steady of PyTorch;
                 session, run1, run2 and steady (run 4) of ONNX Runtime
    steps        of the context: init, first_kernel, first_convolution, first_gemm; those that were reached
    limit_bytes  what its allocator was allowed to reserve
    others       other processes that held memory of the card before it
    nodes        of an ONNX Runtime session, from a further session without a memory pattern; empty where it kept no statistics
    environment  gpu, driver, cuda, torch, cudnn, python, platform, date

    Invariant: a finished measurement has the phase steady.
    """

    model: str
    runtime: str
    precision: str
    batch: int | None
    memory_format: str
    outcome: Outcome
    failure: str
    environment: Mapping[str, str]
    phases: Mapping[str, PhaseReading]
    steps: tuple[ContextStep, ...]
    latency: Latency | None
    limit_bytes: int
    others: tuple[GpuProcess, ...]
    notes: tuple[str, ...]
    nodes: tuple[NodeReading, ...] = ()

    def __post_init__(self) -> None:
        if self.outcome is Outcome.FINISHED and "steady" not in self.phases:
            raise ValueError(f"finished, with phases {list(self.phases)}")

    @property
    def total_bytes(self) -> int:
        """The most that the process took of the card; of what was reached when memory ran out."""
        return max((phase.process_peak_bytes for phase in self.phases.values()), default=0)

    @property
    def context_bytes(self) -> int | None:
        """What it held beyond its allocator in the end; None where nobody can tell."""
        readings = [phase.context_bytes for phase in self.phases.values()] or [step.context_bytes for step in self.steps]
        return readings[-1] if readings else None
