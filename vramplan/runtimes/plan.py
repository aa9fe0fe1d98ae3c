"""What every runtime model answers with: a memory program, and the parts of the budget that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vramplan.program import MemoryProgram, Peak
from vramplan.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeak:
    """The peaks of one phase, in bytes: held by buffers, and held by the runtime's allocator.

    ``process_bytes`` is what the process takes of the card at its end, context included, where the runtime's plan says so.
    """

    allocated_peak_bytes: int
    reserved_peak_bytes: int
    process_bytes: int | None = None

    @classmethod
    def of(cls, size_bytes: int) -> PhasePeak:
        """A phase whose allocator holds exactly what is asked of it."""
        return cls(allocated_peak_bytes=size_bytes, reserved_peak_bytes=size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One launch: what it runs, what it leaves in memory, and what it needs while it runs (bytes).

    ``op_index`` is its op in the program, where it is one; ``remedy`` says what would spare it most of its workspace.
    """

    name: str
    kind: str
    ops: tuple[str, ...]
    dtype: str
    output_shape: tuple[int, ...] | None
    output_bytes: int
    weights_bytes: int
    workspace_bytes: int
    live_bytes: int
    op_index: int | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a compiled region holds at its own peak: the op, and for each result its bytes and the op that lets it go."""

    op: str
    live: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one runtime holds memory for one graph at one precision; everything but the context of the process.

    ``lower_bound_bytes`` is the largest live set of what the runtime places itself; ``sum_of_outputs_bytes`` what its
    results would take if nothing were ever freed. ``inside`` opens the scratch buffers of compiled regions, by name.
    """

    program: MemoryProgram
    weights: Range
    inputs: Range
    activations: Range
    outputs: Range
    workspace: Range
    allocator_slack: Range
    phases: Mapping[str, PhasePeak]
    lower_bound_bytes: int
    sum_of_outputs_bytes: int
    peak: Peak
    inside: Mapping[str, Inside]
    layers: tuple[Layer, ...]
