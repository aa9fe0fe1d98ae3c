"""What a process takes on the GPU before it allocates anything: the CUDA context and the libraries' kernels.

Readings are in ``context.csv``, and in calibrations, which come first: `vramplan calibrate` measures PyTorch's context on the
user's own card and driver. Of the file, only those of the H200 and the H100 are measured by us. For other cards there is one
rule, read off them: the driver reserves memory for every thread that can be resident (stack and local memory; a stack is 1
KiB by default), and 2 KiB a thread gives the bare contexts to 4 % on the three cards with a current driver:

    H200          132 SM x 2048 threads x 2 KiB = 528 MiB   read 526.8
    RTX 6000 Ada  142 SM x 1536 threads x 2 KiB = 426 MiB   read 426
    RTX 3090       82 SM x 1536 threads x 2 KiB = 246 MiB   read 256

What libraries add is the rest: 92 MiB for the first tensor of PyTorch on the H200, 10 for the first convolution, 64
for the first matrix product; -23 to 120 MiB in the out-of-memory messages of PyTorch processes on other cards.

Known limits: CUDA before 11.7 loaded every kernel at the start and took more than 1 GiB (pytorch/pytorch issue
107667); Windows is not covered; a handle of cuBLAS or cuDNN may take workspace of its own.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vramplan.errors import UsageError, close_matches
from vramplan.gpus.calibration import Calibration
from vramplan.gpus.calibration_store import calibrations_of, shipped_calibrations
from vramplan.gpus.catalogue import Gpu, all_gpus
from vramplan.gpus.medians import lower_median
from vramplan.ranges import Evidence, Range
from vramplan.units import KIB, MIB

RUNTIMES = ("onnxruntime", "tensorrt", "torch")

_BYTES_PER_THREAD = 2 * KIB

_THREADS_PER_SM = {
    "5.3": 2048, "6.0": 2048, "6.1": 2048, "6.2": 2048, "7.0": 2048, "7.2": 2048, "7.5": 1024, "8.0": 2048,
    "8.6": 1536, "8.7": 1536, "8.9": 1536, "9.0": 2048, "10.0": 2048, "11.0": 1536, "12.0": 1536, "12.1": 1536,
}  # fmt: skip
"""Resident threads of one SM at most, by compute capability (CUDA C++ Programming Guide, technical specifications)."""

_JETSON_LIBRARIES_BYTES = (182 + 241) * MIB
"""cuBLAS and cuDNN handles of one TensorRT 8 process on a Jetson (NVIDIA/TensorRT issue 2217)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReading:
    """One reading: the bytes of a process that are not its allocations, at a *stage* of its life.

    ``evidence`` is ``measured`` for ours and ``catalogue`` for a published one; ``versions`` is "" where not told.
    Invariant: context_bytes > 0.
    """

    gpu_key: str
    runtime: str
    stage: str
    context_bytes: int
    evidence: Evidence
    versions: str
    source: str

    def __post_init__(self) -> None:
        if self.context_bytes <= 0:
            raise ValueError(f"not a reading: {self.context_bytes}")


def context_readings() -> tuple[ContextReading, ...]:
    """Every reading of ``context.csv`` and of the calibrations that came with vramplan."""
    return (*_read_file(), *(reading for each in shipped_calibrations() for reading in _readings_of(each)))


def _readings_of(calibration: Calibration) -> Iterator[ContextReading]:
    for item in calibration.context:
        yield ContextReading(
            gpu_key=calibration.gpu.key,
            runtime=item.runtime,
            stage=item.stage,
            context_bytes=item.context_bytes,
            evidence=Evidence.MEASURED,
            versions=", ".join(f"{name} {calibration.environment[name]}" for name in ("driver", "torch")),
            source=calibration.source,
        )


@functools.cache
def _read_file() -> tuple[ContextReading, ...]:
    text = Path(__file__).with_name("context.csv").read_text(encoding="utf-8")
    return tuple(
        ContextReading(
            gpu_key=row["gpu_key"],
            runtime=row["runtime"],
            stage=row["stage"],
            context_bytes=int(row["context_bytes"]),
            evidence=Evidence(row["evidence"]),
            versions=row["versions"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines(), strict=True)
    )


def context_bytes(gpu: Gpu | None, runtime: str, *, uses_gemm: bool | None = None) -> Range:
    """The bytes of one process's CUDA context and loaded kernels on *gpu* under *runtime* (one of `RUNTIMES`).

    *uses_gemm* says whether the model multiplies matrices, which loads cuBLAS kernels in PyTorch; ``None`` is unknown.
    Without a card it is the range over all cards.
    Raises `UsageError` for another runtime.
    """
    return _context(gpu, runtime, uses_gemm)[0]


def session_contexts(gpu: Gpu | None, *, is_exhaustive: bool = True) -> tuple[Range, Range]:
    """The context of an ONNX Runtime process: when its session is made, and after its first runs.

    On the H200 nominal is the smallest of the measured sessions less their initializers: the others have more pages that
    their initializers fill in part, which are counted where they are held. Runs load the kernels of convolutions and matrix
    products: what 443 processes took beside their arenas, by whether the search for convolutions was exhaustive. On other
    cards no reading tells the two apart.
    """
    whole = context_bytes(gpu, "onnxruntime")
    if gpu is None or gpu.key != _H200 or not (sessions := _measured(_H200, "onnxruntime", "session")):
        return whole, whole
    runs, exhaustive = (_measured(_H200, "onnxruntime", stage) for stage in ("run", "run_exhaustive"))
    session = replace(whole, nominal_bytes=sessions[0], high_bytes=sessions[-1])
    nominal = exhaustive[0] if is_exhaustive else runs[-1]
    return session, replace(whole, low_bytes=runs[0], nominal_bytes=nominal, high_bytes=exhaustive[-1])


def context_reason(gpu: Gpu | None, runtime: str, *, uses_gemm: bool | None = None) -> str:
    """One sentence: the rule and the readings behind `context_bytes`."""
    return _context(gpu, runtime, uses_gemm)[1]


def _context(gpu: Gpu | None, runtime: str, uses_gemm: bool | None) -> tuple[Range, str]:
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime[:80]!r}", hint=close_matches(runtime, RUNTIMES))
    if gpu is None:
        return _of_any_card(runtime)
    if runtime == "torch" and (own := _calibration(gpu.key, "first_tensor", "first_gemm")):
        return _calibrated_torch(own, uses_gemm)
    if gpu.key == _H200 and _measured(_H200, "torch", "first_gemm"):
        return _measured_onnxruntime() if runtime == "onnxruntime" else _between_measured()
    if calibration := _calibration(gpu.key, "context", "first_gemm"):
        return _between_calibrated(calibration)
    bare = bare_context_bytes(gpu)
    if bare is None:
        return _of_any_card(runtime)
    return _shared(bare) if gpu.unified_memory else _scaled(bare)


_H200 = "h200-sxm"
_MEASURED_ON = "on an H200 (driver 580.159.04)"


def _measured(gpu_key: str, runtime: str, stage: str) -> list[int]:
    """Our own readings of a card, ascending."""
    own = (reading for reading in context_readings() if reading.evidence is Evidence.MEASURED)
    wanted = (gpu_key, runtime, stage)
    return sorted(reading.context_bytes for reading in own if (reading.gpu_key, reading.runtime, reading.stage) == wanted)


def _calibration(gpu_key: str, *stages: str) -> Calibration | None:
    """The first calibration of a card that has PyTorch's context at all of *stages*."""
    found = (each for each in calibrations_of(gpu_key) if all(each.context_at("torch", stage) for stage in stages))
    return next(found, None)


def _calibrated_torch(calibration: Calibration, uses_gemm: bool | None) -> tuple[Range, str]:
    """A reading of one process each: what a model loads beyond the first convolution and matrix product is not in it."""
    stages = {
        stage: calibration.context_at("torch", stage) or 0 for stage in ("first_tensor", "first_convolution", "first_gemm")
    }
    with_gemm = stages["first_gemm"]
    without = min(stages["first_convolution"] or stages["first_tensor"], with_gemm)
    low = with_gemm if uses_gemm else without
    high = without if uses_gemm is False else with_gemm
    reason = f"Measured: {calibration.source}; the first matrix product adds {(with_gemm - without) / MIB:.0f} MiB."
    return Range(low_bytes=low, nominal_bytes=high, high_bytes=high, evidence=Evidence.MEASURED), reason


def _between_calibrated(calibration: Calibration) -> tuple[Range, str]:
    """A runtime that was not measured: it needs a context, and is taken to load no more kernels than PyTorch does."""
    bare, with_gemm = sorted(calibration.context_at("torch", stage) or 0 for stage in ("context", "first_gemm"))
    nominal = min(bare + _spread()[2], with_gemm)
    reason = (
        f"Not measured with this runtime: low is a bare CUDA context, high PyTorch with its kernels ({calibration.source}),"
        " nominal the context and what libraries add on other cards."
    )
    return Range(low_bytes=bare, nominal_bytes=nominal, high_bytes=with_gemm, evidence=Evidence.BOUNDED), reason


def _measured_onnxruntime() -> tuple[Range, str]:
    """Sessions of six models, their initializers subtracted; the first run may still load kernels."""
    sessions = _measured(_H200, "onnxruntime", "session")
    kernels = _measured(_H200, "torch", "first_gemm")[0] - _measured(_H200, "torch", "first_tensor")[0]
    reason = (
        f"Measured {_MEASURED_ON} with ONNX Runtime 1.30: six sessions less their initializers; the high end adds what"
        " convolution and matrix kernels took in PyTorch, as the first run loads them."
    )
    return Range(
        low_bytes=sessions[0],
        nominal_bytes=lower_median(sessions),
        high_bytes=sessions[-1] + kernels,
        evidence=Evidence.MEASURED,
    ), reason


def _between_measured() -> tuple[Range, str]:
    """TensorRT was not measured: it needs a context, and is taken to load no more kernels than PyTorch does."""
    (bare,) = _measured(_H200, "cuda", "context")
    (torch_with_gemm,) = _measured(_H200, "torch", "first_gemm")
    reason = (
        f"Not measured with TensorRT; {_MEASURED_ON} low is a bare CUDA context, nominal is ONNX Runtime (the other runtime"
        " without PyTorch), high is PyTorch with its kernels loaded."
    )
    nominal = lower_median(_measured(_H200, "onnxruntime", "session"))
    return Range(low_bytes=bare, nominal_bytes=nominal, high_bytes=torch_with_gemm, evidence=Evidence.BOUNDED), reason


def bare_context_bytes(gpu: Gpu) -> int | None:
    """The rule of this module's docstring: 2 KiB for each thread that can be resident; ``None`` where that is unknown."""
    threads_per_sm = _THREADS_PER_SM.get(gpu.compute_capability or "")
    if threads_per_sm is None or gpu.sm_count is None:
        return None
    return gpu.sm_count * threads_per_sm * _BYTES_PER_THREAD


def _scaled(bare: int) -> tuple[Range, str]:
    """The rule, widened by how far any reading lies from it. No reading tells the runtimes apart off the H200."""
    lowest_ratio, highest_ratio, typical_libraries, most_libraries = _spread()
    reason = (
        f"2 KiB for each thread that can be resident ({bare // MIB} MiB), which fits an H200, an RTX 6000 Ada and an RTX 3090"
        f" to 4 %, plus {typical_libraries // MIB} MiB for libraries (0 to {most_libraries // MIB}, from PyTorch processes on"
        " other cards and the H200). Not measured on this card."
    )
    return Range(
        low_bytes=int(bare * lowest_ratio),
        nominal_bytes=bare + typical_libraries,
        high_bytes=int(bare * highest_ratio) + most_libraries,
        evidence=Evidence.BOUNDED,
    ), reason


def _shared(bare: int) -> tuple[Range, str]:
    scaled, _ = _scaled(bare)
    reason = (
        f"2 KiB for each thread that can be resident ({bare // MIB} MiB) and libraries as on other cards; the high end adds the"
        " 423 MiB that cuBLAS and cuDNN took in one TensorRT 8 process on a Jetson."
    )
    return Range(
        low_bytes=scaled.low_bytes,
        nominal_bytes=scaled.nominal_bytes,
        high_bytes=scaled.high_bytes + _JETSON_LIBRARIES_BYTES,
        evidence=Evidence.ASSUMED,
    ), reason


@functools.cache
def _spread() -> tuple[float, float, int, int]:
    """How readings lie around the rule: lowest and highest ratio of a context to it, typical and most library bytes."""
    bare_of = {gpu.key: bare_context_bytes(gpu) or 0 for gpu in all_gpus()}
    readings = [(reading, bare_of[reading.gpu_key]) for reading in context_readings()]
    contexts = [reading.context_bytes / bare for reading, bare in readings if reading.stage == "context"]
    processes = [(reading.context_bytes, bare) for reading, bare in readings if reading.stage == "process"]
    lowest = min(contexts + [size / bare for size, bare in processes])
    typical = lower_median(size - bare for size, bare in processes)
    most = max(reading.context_bytes - bare for reading, bare in readings)
    return lowest, max(contexts), typical, most


@functools.cache
def _of_any_card(runtime: str) -> tuple[Range, str]:
    """For a card of which only the memory is known: the span over the catalogue's cards with memory of their own."""
    ranges = [_context(gpu, runtime, None)[0] for gpu in all_gpus() if not gpu.unified_memory]
    reason = "The card is not known: from the smallest to the largest context of the catalogue's cards, nominal the median."
    return Range(
        low_bytes=min(each.low_bytes for each in ranges),
        nominal_bytes=lower_median(each.nominal_bytes for each in ranges),
        high_bytes=max(each.high_bytes for each in ranges),
        evidence=Evidence.ASSUMED,
    ), reason
