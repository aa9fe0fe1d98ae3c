"""ONNX Runtime's arena against a slow model of it, written another way, and its log against the checker."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vramplan.allocators.bfc import BfcArena, BfcRules, ExtendStrategy, OutOfMemory, replay
from vramplan.allocators.driver import driver_bytes
from vramplan.allocators.validation import find_bfc_fault, find_caching_fault
from vramplan.program import Action, Buffer, ProgramBuilder, Role

KIB, MIB = 1 << 10, 1 << 20
EDGES = [1, 255, 256, 257, 512 * KIB, MIB - 256, MIB, MIB + 1, 2 * MIB, 3 * MIB, 8 * MIB, 8 * MIB + 1]
SIZES = (
    st.sampled_from([0, *EDGES])
    | st.integers(1, 4 * KIB)
    | st.integers(1, 16 * MIB)
    | st.integers(1, 64).map(lambda n: n * MIB // 2)
)
RULES = st.builds(
    BfcRules,
    strategy=st.sampled_from(ExtendStrategy),
    initial_chunk_bytes=st.sampled_from([256, 5000, MIB, 20 * MIB]),
    max_dead_bytes=st.sampled_from([1, 256, 4 * MIB, 128 * MIB]),
    initial_growth_bytes=st.sampled_from([512, 2 * MIB]),
    max_extend_bytes=st.sampled_from([None, 256, 4 * MIB, 1 << 30]),
    limit_bytes=st.none() | st.integers(1, 100 * MIB),
)


class NoRoom(Exception):  # noqa: N818
    """The model has no room."""


class SlowArena:
    """The same rules over lists of ``[size, key, was a run's]`` from low to high: scanned and joined anew every time."""

    def __init__(self, rules):
        self.rules, self.strips, self.alone, self.asked = rules, [], {}, {}
        self.step = min(rules.initial_chunk_bytes, rules.limit_bytes or rules.initial_chunk_bytes)
        self.step = (self.step + 255) // 256 * 256

    def hold(self, key, size, on_stream):
        if size == 0:
            return
        rounded = (size + 255) // 256 * 256
        strip, place = self.find(rounded, on_stream) or self.open(rounded)
        length, _, mark = strip[place]
        if length < 2 * rounded and length - rounded < self.rules.max_dead_bytes:
            strip[place] = [length, key, on_stream]
        else:
            strip[place : place + 1] = [[rounded, key, on_stream], [length - rounded, None, mark]]
        self.asked[key] = size

    def find(self, rounded, on_stream):
        fits = [
            (length, number, place)
            for number, strip in enumerate(self.strips)
            for place, (length, owner, mark) in enumerate(strip)
            if owner is None and length >= rounded and (on_stream or not mark)
        ]
        return (self.strips[min(fits)[1]], min(fits)[2]) if fits else None

    def open(self, rounded):
        room = float("inf")
        if self.rules.limit_bytes is not None and self.reserved <= self.rules.limit_bytes:
            room = (self.rules.limit_bytes - self.reserved) // 256 * 256
        if rounded > room:
            raise NoRoom
        size = rounded
        if self.rules.strategy == "kNextPowerOfTwo":
            doublings = next(n for n in range(64) if self.step << n >= rounded)
            size = self.step << doublings
            self.step = size if doublings else min(2 * size, self.rules.max_extend_bytes or 2 * size)
        self.strips.append([[min(size, room), None, False]])
        return self.strips[-1], 0

    def reserve(self, key, size):
        if size:
            self.alone[key] = self.asked[key] = size

    def free(self, key):
        self.asked.pop(key, None)
        self.alone.pop(key, None)
        self.strips = [
            self.joined([[size, None if owner == key else owner, mark] for size, owner, mark in strip]) for strip in self.strips
        ]

    def end_run(self):
        self.strips = [self.joined([[size, owner, False] for size, owner, _ in strip]) for strip in self.strips]

    def shrink(self):
        kept = 1 if self.rules.strategy == "kNextPowerOfTwo" else 0
        self.strips = self.strips[:kept] + [s for s in self.strips[kept:] if any(owner is not None for _, owner, _ in s)]
        self.step = self.rules.initial_growth_bytes

    @staticmethod
    def joined(strip):
        whole = []
        for size, owner, mark in strip:
            if whole and owner is None and whole[-1][1] is None and whole[-1][2] == mark:
                whole[-1][0] += size
            else:
                whole.append([size, owner, mark])
        return whole

    @property
    def in_use(self):
        return sum(size for strip in self.strips for size, owner, _ in strip if owner is not None) + sum(self.alone.values())

    @property
    def reserved(self):
        return sum(size for strip in self.strips for size, _, _ in strip) + sum(self.alone.values())


class Twins(RuleBasedStateMachine):
    """The arena and the model, told the same."""

    has_runs = True

    @initialize(rules=RULES)
    def start(self, rules):
        self.log, self.asked, self.held, self.bypassing = [], {}, [], set()
        self.fast, self.slow = BfcArena(rules, log=self.log), SlowArena(rules)
        self.peaks = (0, 0)

    @rule(size=SIZES, on_stream=st.booleans())
    def hold(self, size, on_stream):
        key, on_stream = len(self.asked), on_stream and self.has_runs
        self.asked[key] = size
        outcomes = []
        for arena, out in ((self.fast.hold, OutOfMemory), (self.slow.hold, NoRoom)):
            try:
                arena(key, size, on_stream=on_stream)
                outcomes.append(True)
            except out:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1]
        if outcomes[0]:
            self.held.append(key)

    @rule(size=SIZES)
    def reserve(self, size):
        key = len(self.asked)
        self.asked[key] = size
        self.fast.reserve(key, size)
        self.slow.reserve(key, size)
        self.held.append(key)
        self.bypassing.add(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data):
        key = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.fast.free(key)
        self.slow.free(key)

    @rule()
    def end_run(self):
        self.fast.end_run()
        self.slow.end_run()

    @rule()
    def shrink(self):
        self.fast.shrink()
        self.slow.shrink()

    @rule()
    def reset(self):
        self.fast.reset_peaks()
        self.peaks = (0, 0)

    @invariant()
    def they_agree(self):
        fast, slow = self.fast, self.slow
        now = (sum(slow.asked.values()), slow.in_use)
        assert (fast.requested_bytes, fast.in_use_bytes, fast.reserved_bytes) == (*now, slow.reserved)
        assert [size for _, size, alone in fast.regions if not alone] == [sum(size for size, _, _ in s) for s in slow.strips]
        assert [size for _, size, alone in fast.regions if alone] == list(slow.alone.values())
        assert [size for _, size in fast.free_chunks()] == [
            size for strip in slow.strips for size, owner, _ in strip if owner is None
        ]
        self.peaks = tuple(map(max, self.peaks, now))
        assert (fast.requested_peak_bytes, fast.in_use_peak_bytes) == self.peaks
        assert fast.requested_bytes <= fast.in_use_bytes <= fast.reserved_bytes <= fast.reserved_peak_bytes
        assert driver_bytes(region.size_bytes for region in fast.regions) >= fast.reserved_bytes

    @invariant()
    def the_checker_finds_no_fault(self):
        assert find_caching_fault(self.log, requested=self.asked) == ""

    def teardown(self):
        if not hasattr(self, "fast"):
            return
        for key in self.held:
            self.fast.free(key)
        self.fast.end_run()
        assert (self.fast.requested_bytes, self.fast.in_use_bytes) == (0, 0)
        assert sorted(size for _, size in self.fast.free_chunks()) == sorted(region.size_bytes for region in self.fast.regions)


class LoneTwins(Twins):
    """Without runs, all free neighbours merge, and the checker knows where each request must go."""

    has_runs = False

    @invariant()
    def the_checker_finds_no_fault(self):
        options = {"max_dead_bytes": self.fast.rules.max_dead_bytes, "bypassing": self.bypassing}
        assert find_bfc_fault(self.log, requested=self.asked, free=self.fast.free_chunks(), **options) == ""


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLoneTwins = LoneTwins.TestCase
TestLoneTwins.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@st.composite
def programs(draw):
    """Some requests, freed in some order or never, in up to three phases."""
    builder, live = ProgramBuilder(), []
    for number in range(draw(st.integers(0, 40))):
        if live and draw(st.booleans()):
            builder.free(live.pop(draw(st.integers(0, len(live) - 1))))
        else:
            role = draw(st.sampled_from([Role.WEIGHT, Role.ACTIVATION]))
            live.append(builder.hold(Buffer(name=str(number), role=role, size_bytes=draw(SIZES))))
        if number in (10, 25):
            builder.phase(f"to {number}")
    builder.phase("end")
    return builder.build()


UNLIMITED = st.builds(BfcRules, strategy=st.sampled_from(ExtendStrategy), max_dead_bytes=st.sampled_from([256, 128 * MIB]))


@given(programs(), UNLIMITED, st.booleans())
def test_a_replay_has_the_same_answer_every_time(program, rules, reserves):
    options = {"run_phases": ["to 25", "end"], "reserves_weights": reserves}
    assert replay(program, rules, **options) == replay(program, rules, **options)


@given(programs(), UNLIMITED, st.booleans(), st.booleans())
def test_a_replay_is_the_arena_told_event_by_event(program, rules, runs, reserves):
    arena, peaks = BfcArena(rules), replay(program, rules, run_phases=["end"] if runs else [], reserves_weights=reserves)
    for name, start, stop in program.phases:
        levels = [(arena.requested_bytes, arena.in_use_bytes, arena.reserved_bytes)]
        for action, index, _ in program.events[start:stop]:
            buffer = program.buffers[index]
            if action is Action.FREE:
                arena.free(index)
            elif reserves and buffer.role is Role.WEIGHT:
                arena.reserve(index, buffer.size_bytes)
            else:
                arena.hold(index, buffer.size_bytes, on_stream=runs and name == "end")
            levels.append((arena.requested_bytes, arena.in_use_bytes, arena.reserved_bytes))
        found, in_use = peaks[name], [level[1] for level in levels]
        assert (found.requested_bytes, found.in_use_bytes, found.reserved_bytes) == levels[-1]
        highest = (found.requested_peak_bytes, found.in_use_peak_bytes, found.reserved_peak_bytes)
        assert highest == tuple(map(max, zip(*levels, strict=True)))
        assert found.peak_event_index == max(start - 1 + in_use.index(max(in_use)), 0)


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=40), st.randoms(use_true_random=False), UNLIMITED)
def test_freeing_everything_leaves_one_free_chunk_a_region(requests, chance, rules):
    arena = BfcArena(rules)
    for key, (size, on_stream) in enumerate(requests):
        arena.hold(key, size, on_stream=on_stream)
    regions = arena.regions
    for key in chance.sample(range(len(requests)), len(requests)):
        arena.free(key)
    arena.end_run()
    assert arena.regions == regions
    assert arena.free_chunks() == sorted((region.address, region.size_bytes) for region in regions)


@given(st.lists(SIZES, max_size=20), st.integers(1, 60).map(lambda n: n * MIB // 2))
def test_a_device_is_never_given_more_than_it_has(sizes, device_bytes):
    log, refused = [], []
    arena = BfcArena(device_bytes=device_bytes, log=log)
    for key, size in enumerate(sizes):
        try:
            arena.hold(key, size)
        except OutOfMemory as out:
            refused.append((out, size))
        assert driver_bytes(region.size_bytes for region in arena.regions) <= device_bytes
        assert all(region.size_bytes % 256 == 0 for region in arena.regions)
    assert all((out.requested_bytes, out.limit_bytes) == (size, device_bytes) for out, size in refused)
    assert find_bfc_fault(log, requested=dict(enumerate(sizes)), free=arena.free_chunks()) == ""


@given(st.lists(st.integers(1, 12 * MIB), min_size=2, max_size=30), st.data())
def test_the_checker_sees_a_buffer_that_is_moved_onto_another(sizes, data):
    log = []
    arena = BfcArena(log=log)
    for key, size in enumerate(sizes):
        arena.hold(key, size)
    lines = [number for number, row in enumerate(log) if row[0] == "hold"]
    first, second = sorted(data.draw(st.lists(st.sampled_from(lines), min_size=2, max_size=2, unique=True)))
    log[second] = (*log[second][:2], log[first][2], log[second][3])
    assert find_bfc_fault(log, requested=dict(enumerate(sizes))).startswith(f"line {second}: ")


@given(st.lists(st.integers(1, 5 * MIB), max_size=40))
def test_pages_hold_what_is_asked_for_and_waste_less_than_one_each(sizes):
    pages = driver_bytes(sizes)
    assert pages % (2 * MIB) == 0
    assert sum(sizes) <= pages < sum(sizes) + 2 * MIB * max(len(sizes), 1)
