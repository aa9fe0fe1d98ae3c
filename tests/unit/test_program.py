"""A memory program: what is held, when, and how much that is."""

import pytest

from vramplan.program import Action, Buffer, Event, Lifetime, MemoryProgram, Peak, Phase, ProgramBuilder, Role

HOLD, FREE = Action.HOLD, Action.FREE


def buffers(*sizes):
    return tuple(Buffer(name=f"b{i}", role=Role.ACTIVATION, size_bytes=size) for i, size in enumerate(sizes))


def program(sizes, events, phases=None, ops=("load",)):
    events = tuple(Event(action, index, 0) for action, index in events)
    return MemoryProgram(
        buffers=buffers(*sizes),
        events=events,
        ops=ops,
        phases=phases if phases is not None else (Phase("all", 0, len(events)),),
    )


# step     0        1        2        3        4
SMALL = [(HOLD, 0), (HOLD, 1), (FREE, 0), (HOLD, 2), (FREE, 1)]


def test_lifetimes_are_half_open_and_end_with_the_program():
    assert program((10, 20, 40), SMALL).lifetimes() == (Lifetime(0, 2), Lifetime(1, 4), Lifetime(3, 5))


def test_live_bytes_after_each_event():
    assert list(program((10, 20, 40), SMALL).live_bytes()) == [10, 10 + 20, 20, 20 + 40, 40]


def test_the_peak_is_the_first_step_with_most_bytes_and_says_who_is_live():
    assert program((10, 20, 40), SMALL).peak() == Peak(step=3, op_index=0, live_bytes=20 + 40, live=(1, 2))
    assert program((40, 20, 40), SMALL).peak().step == 1


def test_the_peak_of_one_phase_counts_what_earlier_phases_left():
    phases = (Phase("first", 0, 2), Phase("second", 2, 5))
    two = program((50, 20, 40), SMALL, phases)
    assert two.peak("first") == Peak(step=1, op_index=0, live_bytes=50 + 20, live=(0, 1))
    assert two.peak("second") == Peak(step=3, op_index=0, live_bytes=20 + 40, live=(1, 2))


def test_an_unknown_phase_is_a_key_error():
    with pytest.raises(KeyError, match="third"):
        program((10, 20, 40), SMALL).peak("third")


def test_an_empty_program_peaks_at_nothing():
    assert program((), ()).peak() == Peak(step=0, op_index=0, live_bytes=0, live=())


def test_lifetimes_that_touch_do_not_overlap():
    assert not Lifetime(0, 3).overlaps(Lifetime(3, 5))
    assert Lifetime(0, 4).overlaps(Lifetime(3, 5))


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="'b0' has a negative size: -1"):
        buffers(-1)


@pytest.mark.parametrize(
    ("sizes", "events", "message"),
    [
        ((1,), [(HOLD, 0), (FREE, 0), (FREE, 0)], r"step 2 cannot free buffer 0 \('b0'\)"),
        ((1,), [(FREE, 0)], r"step 0 cannot free buffer 0"),
        ((1,), [(HOLD, 0), (HOLD, 0)], r"step 1 cannot hold buffer 0"),
        ((1,), [(HOLD, 0), (FREE, 0), (HOLD, 0)], r"step 2 cannot hold buffer 0"),
        ((1, 1), [(HOLD, 0)], r"buffer 1 \('b1'\) is never held"),
        ((1,), [(HOLD, 1)], r"step 0 points outside the program: buffer 1, op 0"),
        ((1,), [(HOLD, -1)], r"step 0 points outside the program: buffer -1, op 0"),
    ],
)
def test_events_that_make_no_sense_are_refused(sizes, events, message):
    with pytest.raises(ValueError, match=message):
        program(sizes, events)


def test_an_op_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="step 0 points outside the program: buffer 0, op 0"):
        program((1,), [(HOLD, 0)], ops=())


@pytest.mark.parametrize(
    "phases",
    [
        (),
        (Phase("short", 0, 4),),
        (Phase("long", 0, 6),),
        (Phase("late", 1, 5),),
        (Phase("a", 0, 2), Phase("gap", 3, 5)),
        (Phase("a", 0, 3), Phase("overlap", 2, 5)),
        (Phase("a", 0, 5), Phase("backwards", 5, 4), Phase("b", 4, 5)),
    ],
    ids=lambda phases: "+".join(phase.name for phase in phases) or "none",
)
def test_phases_that_do_not_tile_the_events_are_refused(phases):
    with pytest.raises(ValueError, match="phases do not tile the 5 events"):
        program((10, 20, 40), SMALL, phases)


def test_the_builder_writes_down_ops_and_phases():
    builder = ProgramBuilder()
    weight, activation = buffers(100, 10)
    builder.hold(weight)
    builder.phase("load")
    builder.op("conv")
    held = builder.hold(activation)
    builder.free(held)
    builder.phase("run")
    built = builder.build()
    assert built.ops == ("load", "conv")
    assert built.events == (Event(HOLD, 0, 0), Event(HOLD, 1, 1), Event(FREE, 1, 1))
    assert built.phases == (Phase("load", 0, 1), Phase("run", 1, 3))
    assert built.peak("run") == Peak(step=1, op_index=1, live_bytes=110, live=(0, 1))


def test_the_builder_refuses_events_after_the_last_phase():
    builder = ProgramBuilder()
    builder.hold(buffers(1)[0])
    with pytest.raises(ValueError, match="phases do not tile the 1 events"):
        builder.build()


def test_three_hundred_thousand_events_are_fine():
    count = 150_000
    events = [event for i in range(count) for event in ((HOLD, i), (FREE, i - 1)) if event[1] >= 0]
    long = program([1 + i % 9 for i in range(count)], events)
    assert long.peak().live_bytes == 9 + 8
    assert long.peak("all") == long.peak()
