"""Three signs of a GPU that could do better, told from samples of a running program: memory that nobody uses, allocation that
makes kernels wait, copies that fill the bus.

A sign that cannot be told from what is known is unknown, with what would make it known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from vramplan.device.probe import Activity
from vramplan.device.reporter import TorchCounters
from vramplan.units import MIB, format_bytes

LIVE_WINDOW_S = 60.0
"""The live verdict looks at the last minute: long enough for slow loops, short enough to follow a change."""

WARM_UP_S = 10.0
"""Allocations of the first seconds are no sign: a loop reaches its steady state with its first batches."""

CACHED_RATIO, CACHED_BYTES = 0.25, 256 * MIB
"""Reserved memory without a tensor in it is normal in some measure (a peak has passed); beyond both, it is worth a look."""

GROWN_RATIO = 0.25
"""Growth over the lowest reading of the window that is more than the noise of one batch."""

PEAK_RATIO = 0.9
"""When tensors once took this share of what is reserved, the rest is cache of a peak, not fragmentation."""

STEADY_ALLOC_COUNT = 3
"""Calls of cudaMalloc after the warm-up that are no longer a new shape or two: each makes the GPU wait."""

BUSY_RATIO, STALLED_RATIO = 0.3, 0.05
"""SM utilisation between which a GPU that worked has stopped."""

STALL_COUNT = 3
"""Falls from busy to stalled that are no chance."""

CHANGE_BYTES = 2 * MIB
"""The smallest segment that PyTorch takes from the driver: smaller changes of a process are none of its allocator."""

FULL_LINK_RATIO = 0.8
"""Pinned copies reach 80 to 88 % of the link's raw rate: what is above it is as good as full."""

FULL_SHARE_RATIO = 0.25
"""Share of the samples with a full link from which copies bind: NVML looks at 20 ms only, and copies come in bursts."""

_LEAST_SAMPLES = 3


class Level(StrEnum):
    """Whether a sign is there."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the GPU, ``time_s`` after the watch began.

    ``process_bytes`` is None without a process, or where the driver is silent.
    ``link_bytes_per_s`` is the most that the PCIe link carries in one direction. ``torch`` is None where the process does not
    report.
    """

    time_s: float
    used_bytes: int
    activity: Activity
    process_bytes: int | None = None
    link_bytes_per_s: int | None = None
    torch: TorchCounters | None = None

    @property
    def watched_bytes(self) -> int:
        """The process's memory, or the card's used one."""
        return self.used_bytes if self.process_bytes is None else self.process_bytes

    @property
    def link_ratio(self) -> float | None:
        """The busier direction of the link against what it carries."""
        rates = [self.activity.pcie_to_gpu_bytes_per_s, self.activity.pcie_from_gpu_bytes_per_s]
        known = [rate for rate in rates if rate is not None]
        return max(known) / self.link_bytes_per_s if known and self.link_bytes_per_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One of the three: ``memory``, ``allocation``, ``pcie``; whether it is there, the number, and what helps."""

    name: str
    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a watch came to. Ratios are means of the samples that had one.

    Invariant: at least one sample was taken.
    """

    sample_count: int
    duration_s: float
    peak_bytes: int
    sm_ratio: float | None
    link_ratio: float | None
    throttle: tuple[str, ...]
    signs: tuple[Sign, ...]

    def __post_init__(self) -> None:
        if self.sample_count < 1:
            raise ValueError("a verdict needs a sample")


def recent(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those of the last `LIVE_WINDOW_S` seconds."""
    start_s = samples[-1].time_s - LIVE_WINDOW_S if samples else 0.0
    first = next((index for index, sample in enumerate(samples) if sample.time_s >= start_s), 0)
    return samples[first:]


def sum_up(samples: Sequence[Sample]) -> Verdict:
    """The verdict over all *samples*, of which there must be one."""
    return Verdict(
        sample_count=len(samples),
        duration_s=samples[-1].time_s - samples[0].time_s,
        peak_bytes=max(sample.watched_bytes for sample in samples),
        sm_ratio=_mean([sample.activity.sm_ratio for sample in samples]),
        link_ratio=_mean([sample.link_ratio for sample in samples]),
        throttle=tuple(dict.fromkeys(reason for sample in samples for reason in sample.activity.throttle)),
        signs=judge(samples),
    )


def judge(samples: Sequence[Sample]) -> tuple[Sign, ...]:
    """The three signs, in a fixed order."""
    return (_memory(samples), _allocation(samples), _pcie(samples))


def _memory(samples: Sequence[Sample]) -> Sign:
    """Much more is held than tensors take."""
    counted = [sample for sample in samples if sample.torch is not None]
    if not counted:
        return _growth(samples)
    last = counted[-1].torch
    assert last is not None  # noqa: S101  chosen above
    most_bytes = max(sample.torch.allocated_bytes for sample in counted if sample.torch)
    cached_bytes = last.reserved_bytes - most_bytes
    outside_bytes = counted[-1].process_bytes
    context = "" if outside_bytes is None else f"; the process holds {format_bytes(outside_bytes)}, context included"
    text = f"{format_bytes(last.reserved_bytes)} are reserved, tensors took at most {format_bytes(most_bytes)} of it{context}"
    if cached_bytes < max(CACHED_BYTES, CACHED_RATIO * last.reserved_bytes):
        return Sign(name="memory", level=Level.ABSENT, text=text)
    text = f"{format_bytes(cached_bytes)} are held and not used: {text}"
    if last.allocated_peak_bytes >= PEAK_RATIO * last.reserved_bytes:
        remedy = "An earlier peak needed it, and it stays as cache: torch.cuda.empty_cache() after that step gives it back."
    else:
        remedy = "Never needed at once: fragmentation. PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True may help."
    return Sign(name="memory", level=Level.PRESENT, text=text, remedy=remedy)


def _growth(samples: Sequence[Sample]) -> Sign:
    """Without PyTorch's counters: the memory against the lowest reading of the samples."""
    remedy = "Call vramplan.report_memory() in the program: then watch knows what tensors take."
    if len(samples) < _LEAST_SAMPLES:
        return Sign(name="memory", level=Level.UNKNOWN, text="what tensors take is unknown", remedy=remedy)
    lowest, last = min(sample.watched_bytes for sample in samples), samples[-1].watched_bytes
    grown_bytes = last - lowest
    if grown_bytes < max(CACHED_BYTES, GROWN_RATIO * lowest):
        text = f"what tensors take is unknown; {format_bytes(last)} are held, no growth"
        return Sign(name="memory", level=Level.UNKNOWN, text=text, remedy=remedy)
    text = (
        f"{format_bytes(grown_bytes)} more are held than at the lowest ({format_bytes(lowest)}); what tensors take is unknown"
    )
    return Sign(name="memory", level=Level.PRESENT, text=text, remedy=remedy)


def _allocation(samples: Sequence[Sample]) -> Sign:
    """The driver is asked for memory in the steady state, and kernels wait for it."""
    steady = [sample for sample in samples if sample.time_s >= WARM_UP_S]
    counted = [sample.torch for sample in steady if sample.torch is not None]
    if len(counted) < 2:
        return _stalls(steady)
    retries = _grown([counters.retry_count for counters in counted])
    allocations = _grown([counters.device_alloc_count for counters in counted])
    text = f"{retries} allocation retries and {allocations} calls of cudaMalloc in the steady state"
    if retries:
        remedy = "The card is full, and each retry empties the cache: use a smaller batch, or free what is not needed."
        return Sign(name="allocation", level=Level.PRESENT, text=text, remedy=remedy)
    if allocations >= STEADY_ALLOC_COUNT:
        remedy = "Shapes that keep changing: pad them to a few sizes, or PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
        return Sign(name="allocation", level=Level.PRESENT, text=text, remedy=remedy)
    return Sign(name="allocation", level=Level.ABSENT, text=text)


def _stalls(steady: Sequence[Sample]) -> Sign:
    """Without PyTorch's counters: the GPU falls idle again and again while the memory changes."""
    known = [sample for sample in steady if sample.activity.sm_ratio is not None]
    if len(known) < _LEAST_SAMPLES:
        remedy = f"Watch for longer than {WARM_UP_S:g} s of warm-up, and call vramplan.report_memory() in the program."
        return Sign(name="allocation", level=Level.UNKNOWN, text="not enough was seen of the steady state", remedy=remedy)
    falls = _fall_count([sample.activity.sm_ratio or 0.0 for sample in known])
    changes = sum(abs(after.watched_bytes - before.watched_bytes) >= CHANGE_BYTES for before, after in pairwise(known))
    text = f"SM utilisation fell to nothing {falls} times, and the memory changed {changes} times"
    if falls >= STALL_COUNT and changes >= STALL_COUNT:
        remedy = "Memory is taken from the driver inside the loop: call vramplan.report_memory() in the program to see by whom."
        return Sign(name="allocation", level=Level.PRESENT, text=text, remedy=remedy)
    return Sign(name="allocation", level=Level.ABSENT, text=text)


def _fall_count(ratios: Sequence[float]) -> int:
    """How often it was busy and then stalled; what lies between counts as neither."""
    falls, was_busy = 0, False
    for ratio in ratios:
        if ratio >= BUSY_RATIO:
            was_busy = True
        elif ratio < STALLED_RATIO and was_busy:
            falls, was_busy = falls + 1, False
    return falls


def _pcie(samples: Sequence[Sample]) -> Sign:
    """Copies fill the bus."""
    ratios = [ratio for sample in samples if (ratio := sample.link_ratio) is not None]
    if len(ratios) < _LEAST_SAMPLES:
        return Sign(name="pcie", level=Level.UNKNOWN, text="the driver does not tell the link or its traffic, or has not yet")
    full = sum(ratio > FULL_LINK_RATIO for ratio in ratios)
    text = f"at most {max(ratios):.0%} of the link, above {FULL_LINK_RATIO:.0%} in {full} of {len(ratios)} samples"
    if full < max(2, FULL_SHARE_RATIO * len(ratios)):
        return Sign(name="pcie", level=Level.ABSENT, text=text)
    remedy = "Copies bind: send less (uint8 instead of float32, decode on the GPU), or keep results on the GPU."
    return Sign(name="pcie", level=Level.PRESENT, text=text, remedy=remedy)


def _grown(counts: Sequence[int]) -> int:
    """How much a counter grew. One that falls began anew, in a program of the same number or after a reset."""
    return sum(max(0, after - before) for before, after in pairwise(counts))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
