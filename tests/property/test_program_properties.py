"""Whatever the program, its answers agree with a model that simply keeps a set of what is held."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vramplan.program import Action, Buffer, Event, MemoryProgram, Phase, Role


@st.composite
def programs(draw):
    """Any order of holding and freeing, cut into phases anywhere."""
    sizes = draw(st.lists(st.integers(0, 1000), max_size=12))
    events, fresh, held = [], list(range(len(sizes))), []
    while fresh or (held and draw(st.booleans())):
        if fresh and (not held or draw(st.booleans())):
            held.append(fresh.pop(0))
            events.append(Event(Action.HOLD, held[-1], draw(st.integers(0, 2))))
        else:
            index = held.pop(draw(st.integers(0, len(held) - 1)))
            events.append(Event(Action.FREE, index, draw(st.integers(0, 2))))
    cuts = sorted(draw(st.lists(st.integers(0, len(events)), max_size=3)))
    edges = [0, *cuts, len(events)]
    return MemoryProgram(
        buffers=tuple(Buffer(name=f"b{i}", role=Role.ACTIVATION, size_bytes=size) for i, size in enumerate(sizes)),
        events=tuple(events),
        ops=("load", "a", "b"),
        phases=tuple(Phase(f"p{i}", edges[i], edges[i + 1]) for i in range(len(edges) - 1)),
    )


def held_after_each_event(program):
    held, history = set(), []
    for event in program.events:
        held = held | {event.buffer_index} if event.action is Action.HOLD else held - {event.buffer_index}
        history.append(held)
    return history


@given(programs())
def test_live_sets_lifetimes_and_bytes_agree_with_a_set(program):
    history = held_after_each_event(program)
    assert [set(program.live_at(step)) for step in range(len(history))] == history
    assert list(program.live_bytes()) == [sum(program.buffers[i].size_bytes for i in held) for held in history]
    for index, lifetime in enumerate(program.lifetimes()):
        assert list(range(*lifetime)) == [step for step, held in enumerate(history) if index in held]


@given(programs())
def test_every_peak_is_the_first_largest_live_set_of_its_stretch(program):
    sums = list(program.live_bytes())
    for phase in (None, *program.phases):
        start, stop = (0, len(sums)) if phase is None else (phase.start, phase.stop)
        peak = program.peak(phase.name if phase else None)
        assert peak.live_bytes == max(sums[start:stop], default=0)
        if start < stop:
            assert peak.step == start + sums[start:stop].index(peak.live_bytes)
            assert peak.op_index == program.events[peak.step].op_index
            assert peak.live_bytes == sum(program.buffers[i].size_bytes for i in peak.live)


def rebuilt(program, events):
    return MemoryProgram(buffers=program.buffers, events=tuple(events), ops=program.ops, phases=(Phase("all", 0, len(events)),))


@given(programs(), st.data())
def test_an_event_said_twice_is_refused(program, data):
    assume(program.events)
    event = data.draw(st.sampled_from(program.events))
    with pytest.raises(ValueError, match=f"cannot {event.action.value} buffer {event.buffer_index}"):
        rebuilt(program, [*program.events, event])


@given(programs(), st.data())
def test_a_free_before_its_hold_is_refused(program, data):
    frees = [event for event in program.events if event.action is Action.FREE]
    assume(frees)
    early = data.draw(st.sampled_from(frees))
    with pytest.raises(ValueError, match=f"step 0 cannot free buffer {early.buffer_index}"):
        rebuilt(program, [early, *(event for event in program.events if event is not early)])


@given(programs(), st.data())
def test_a_buffer_never_held_is_refused(program, data):
    assume(program.buffers)
    index = data.draw(st.integers(0, len(program.buffers) - 1))
    with pytest.raises(ValueError, match=rf"buffer {index} \(.*\) is never held"):
        rebuilt(program, [event for event in program.events if event.buffer_index != index])


@given(programs(), st.data())
def test_a_phase_left_out_is_refused_unless_it_was_empty(program, data):
    lost = data.draw(st.sampled_from(program.phases))
    assume(lost.start < lost.stop)
    with pytest.raises(ValueError, match="phases do not tile"):
        MemoryProgram(
            buffers=program.buffers,
            events=program.events,
            ops=program.ops,
            phases=tuple(phase for phase in program.phases if phase is not lost),
        )
