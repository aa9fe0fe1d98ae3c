"""From a program of eager PyTorch, traced or recorded, to the parts of a budget, through the caching allocator.

Imports no torch: a recording is replayed where it is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vramplan.allocators.caching import CachingPeaks, CachingRules, replay
from vramplan.program import Action, MemoryProgram, Peak, Role
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.plan import Layer, PhasePeak, Plan


def plan(program: MemoryProgram, rules: CachingRules, *, scratch: Mapping[int, Range], is_known: bool) -> Plan:
    """What PyTorch holds and reserves for *program*, which has a phase ``first_run``.

    *scratch* has the limits of buffers that are known within limits, by index; *is_known* says whether all results are exact.
    """
    phases = replay(program, rules)
    low, high = (
        _reserved(replay(program, rules, sizes=sizes)) if scratch else _reserved(phases)
        for sizes in (
            {index: item.low_bytes for index, item in scratch.items()},
            {index: item.high_bytes for index, item in scratch.items()},
        )
    )
    return plan_replayed(program, phases, scratch=scratch, limits_bytes=(low, high), is_known=is_known)


def plan_replayed(
    program: MemoryProgram,
    phases: Mapping[str, CachingPeaks],
    *,
    scratch: Mapping[int, Range] | None = None,
    limits_bytes: tuple[int, int] | None = None,
    is_known: bool = True,
) -> Plan:
    """The plan of *program* whose replay gave *phases*; *limits_bytes* is what it reserves with the least and most scratch.

    The parts are what is alive at the highest allocated peak, as requested; slack is what the allocator has reserved beyond
    that when all is done: rounding, splits that do not pay, and blocks that wait for their next use.
    """
    reserved = _reserved(phases)
    low, high = limits_bytes or (reserved, reserved)
    peak = _peak(program, phases)
    held = {
        role: sum(program.buffers[index].size_bytes for index in peak.live if program.buffers[index].role is role)
        for role in Role
    }
    workspace = _workspace(held[Role.WORKSPACE], peak, scratch or {})
    rest = sum(held.values()) - held[Role.WORKSPACE]
    return Plan(
        program=program,
        weights=Range.exact(held[Role.WEIGHT]),
        inputs=Range.exact(held[Role.INPUT]),
        activations=_certain(held[Role.ACTIVATION], is_known),
        outputs=_certain(held[Role.OUTPUT], is_known),
        workspace=workspace,
        allocator_slack=_slack(reserved, low, high, rest, workspace),
        phases={name: _phase_peak(item) for name, item in phases.items()},
        lower_bound_bytes=max(phase.requested_peak_bytes for phase in phases.values()),
        sum_of_outputs_bytes=_all_results_bytes(program),
        peak=peak,
        inside={},
        layers=tuple(_layers(program)),
    )


def _reserved(phases: Mapping[str, CachingPeaks]) -> int:
    return max(phase.reserved_peak_bytes for phase in phases.values())


def _phase_peak(peaks: CachingPeaks) -> PhasePeak:
    return PhasePeak(allocated_peak_bytes=peaks.allocated_peak_bytes, reserved_peak_bytes=peaks.reserved_peak_bytes)


def _peak(program: MemoryProgram, phases: Mapping[str, CachingPeaks]) -> Peak:
    """The first event of the highest allocated peak, and all that is alive then."""
    highest = max(phases.values(), key=lambda phase: phase.allocated_peak_bytes)
    step = highest.peak_event_index
    live = tuple(program.live_at(step)) if program.events else ()
    live_bytes = sum(program.buffers[index].size_bytes for index in live)
    return Peak(step=step, op_index=program.events[step].op_index if program.events else 0, live_bytes=live_bytes, live=live)


def _workspace(nominal_bytes: int, peak: Peak, scratch: Mapping[int, Range]) -> Range:
    """Scratch at the peak; a kernel whose need is known within limits moves the limits."""
    doubtful = [scratch[index] for index in peak.live if index in scratch]
    if not doubtful:
        evidence = Evidence.BOUNDED if scratch else Evidence.EXACT
        return Range(low_bytes=nominal_bytes, nominal_bytes=nominal_bytes, high_bytes=nominal_bytes, evidence=evidence)
    return Range(
        low_bytes=nominal_bytes - sum(item.nominal_bytes - item.low_bytes for item in doubtful),
        nominal_bytes=nominal_bytes,
        high_bytes=nominal_bytes + sum(item.high_bytes - item.nominal_bytes for item in doubtful),
        evidence=Evidence.BOUNDED,
    )


def _slack(reserved: int, low: int, high: int, rest: int, workspace: Range) -> Range:
    """Whatever makes the sums of the parts the allocator's reserved bytes: nominal, and at both ends of the scratch."""
    nominal = reserved - rest - workspace.nominal_bytes
    if workspace.evidence is Evidence.EXACT:
        return Range.exact(nominal)
    return Range(
        low_bytes=max(min(low - rest - workspace.low_bytes, nominal), 0),
        nominal_bytes=nominal,
        high_bytes=max(high - rest - workspace.high_bytes, nominal),
        evidence=Evidence.BOUNDED,
    )


def _certain(size_bytes: int, is_known: bool) -> Range:
    evidence = Evidence.EXACT if is_known else Evidence.BOUNDED
    return Range(low_bytes=size_bytes, nominal_bytes=size_bytes, high_bytes=size_bytes, evidence=evidence)


def _all_results_bytes(program: MemoryProgram) -> int:
    """What the first run writes, as if nothing were ever freed."""
    _, start, stop = program.phase("first_run")
    made = (program.buffers[index] for action, index, _ in program.events[start:stop] if action is Action.HOLD)
    return sum(buffer.size_bytes for buffer in made if buffer.role in (Role.ACTIVATION, Role.OUTPUT))


def _layers(program: MemoryProgram) -> Iterator[Layer]:
    """One row for each op of the first run that holds anything: results, scratch, and the most that is alive meanwhile."""
    _, start, stop = program.phase("first_run")
    live = list(program.live_bytes())
    rows: dict[int, list[int]] = {}
    for step in range(start, stop):
        action, index, op_index = program.events[step]
        row = rows.setdefault(op_index, [0, 0, 0])
        if action is Action.HOLD:
            buffer = program.buffers[index]
            row[1 if buffer.role is Role.WORKSPACE else 0] += buffer.size_bytes
        row[2] = max(row[2], live[step])
    for op_index, (output_bytes, workspace_bytes, live_bytes) in rows.items():
        name = program.ops[op_index]
        if output_bytes or workspace_bytes:
            yield Layer(
                name=name,
                kind=name.rpartition(" ")[2],
                ops=(name.rpartition(" ")[2],),
                dtype="",
                output_shape=None,
                output_bytes=output_bytes,
                weights_bytes=0,
                workspace_bytes=workspace_bytes,
                live_bytes=live_bytes,
                op_index=op_index,
            )
