"""The largest batch that runs on this machine's GPU: a guarded search upward from what the estimate says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vramplan.device.measurement import Outcome
from vramplan.gpus import Gpu
from vramplan.measuring import Cell, Guard, Machine, measure_cell
from vramplan.progress import tell
from vramplan.showing import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try of the search: what was estimated, what was measured (up to where memory ran out), and whether it ran.

    ``retry_count`` counts allocations that first had to give cached memory back: it fits so, and runs slower.
    """

    batch: int
    estimated_bytes: int
    measured_bytes: int
    is_finished: bool
    retry_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxBatch(Shown):
    """The largest batch that ran and the smallest that did not, with what the estimate said; None where there is none.

    Invariant: a batch that ran is not called failed.
    """

    largest_batch: int | None
    failed_batch: int | None
    estimated_batch: int | None
    limit_bytes: int
    tries: tuple[Try, ...]


_MOST_TRIES = 16
"""Some 8 s each: enough to end next to the answer when it is between a half and twice the estimate."""

_LARGEST_BATCH = 1 << 16


def find_max_batch(cell: Cell, machine: Machine, guard: Guard) -> MaxBatch:
    """Search upward from the estimate for the largest batch that runs; each try in a child that is capped.

    Peaks do not always rise with the batch, so what is found is a batch that ran next to one that did not, not a proof about
    all between. Raises what `measure` raises.
    """
    limit_bytes = machine.probe.memory(machine.device).free_bytes
    if guard.limit_bytes is not None:
        limit_bytes = min(limit_bytes, guard.limit_bytes)
    estimated = _largest_estimated(cell, machine.gpu, limit_bytes)
    tries: list[Try] = []
    low, high, batch = 0, None, max(estimated, 1)
    while len(tries) < _MOST_TRIES and low < batch < (high or _LARGEST_BATCH + 1):
        tell(f"trying batch {batch}")
        attempt = _try(cell, batch, machine, replace(guard, force=True, limit_bytes=limit_bytes))
        tries.append(attempt)
        low, high = (batch, high) if attempt.is_finished else (low, batch)
        batch = _next_batch(low, high, estimated)
    return MaxBatch(
        largest_batch=low or None,
        failed_batch=high,
        estimated_batch=estimated or None,
        limit_bytes=limit_bytes,
        tries=tuple(tries),
    )


def _next_batch(low: int, high: int | None, estimated: int) -> int:
    """Near the estimate in growing steps while only one side is known, then the middle."""
    step = max(1, estimated // 32)
    if high is None:
        return low + step if low <= estimated else low + 2 * (low - estimated)
    if not low:
        return max(1, high - step) if high >= estimated else high // 2
    return (low + high) // 2


def _largest_estimated(cell: Cell, gpu: Gpu, limit_bytes: int) -> int:
    """The largest batch whose estimate fits, found by doubling and halving; 0 when not even one does."""

    def fits(batch: int) -> bool:
        return replace(cell, batch=batch).estimate(gpu).total_bytes <= limit_bytes

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= _LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _try(cell: Cell, batch: int, machine: Machine, guard: Guard) -> Try:
    at_batch = replace(cell, batch=batch)
    expected = at_batch.estimate(machine.gpu)
    measurement = measure_cell(at_batch, machine, guard, expected=expected, is_timed=False)
    return Try(
        batch=batch,
        estimated_bytes=expected.total_bytes,
        measured_bytes=measurement.total_bytes,
        is_finished=measurement.outcome is Outcome.FINISHED,
        retry_count=max((phase.retry_count for phase in measurement.phases.values()), default=0),
    )
