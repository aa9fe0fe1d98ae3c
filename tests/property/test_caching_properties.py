"""The caching allocator against a slow model of it, written another way, and its log against the checker."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vramplan.allocators.caching import DEFAULT_RULES, CachingAllocator, CachingRules, OutOfMemory, replay
from vramplan.allocators.validation import find_caching_fault
from vramplan.program import Action, Buffer, ProgramBuilder, Role

KIB, MIB = 1 << 10, 1 << 20
EDGES = [1, 511, 512, 513, MIB - 512, MIB, MIB + 1, 2 * MIB, 9 * MIB, 10 * MIB - 512, 10 * MIB, 11 * MIB, 11 * MIB + 1]
SIZES = (
    st.sampled_from([0, *EDGES])
    | st.integers(1, 4 * KIB)
    | st.integers(1, 64 * MIB)
    | st.integers(1, 64).map(lambda n: n * MIB // 2)
)
LIMITS = st.none() | st.integers(2, 200).map(lambda n: n * MIB)
RULES = st.builds(
    CachingRules,
    large_segment_bytes=st.sampled_from([12 * MIB, 20 * MIB]),
    max_split_bytes=st.sampled_from([None, None, 20 * MIB, 32 * MIB]),
    max_non_split_rounding_bytes=st.sampled_from([None, 24 * MIB]),
    power2_divisions=st.sampled_from([0, 0, 1, 4, (8, 8, 4, 4, 2, 2, *(1,) * 10)]),
)


class NoRoom(Exception):  # noqa: N818
    """The model has no room."""


class Strip:
    """A segment as a list of ``[size, key]`` from low to high; a key of None is free."""

    def __init__(self, size, is_small):
        self.size, self.is_small, self.blocks = size, is_small, [[size, None]]

    @property
    def is_whole(self):
        return len(self.blocks) == 1 and self.blocks[0][1] is None


class SlowAllocator:
    """The same rules over a plain list of segments in the order of reserving: scanned, sorted and joined anew every time."""

    def __init__(self, rules, limit):
        self.rules, self.limit, self.strips, self.asked = rules, limit, [], {}

    def hold(self, key, size):
        if size == 0:
            return
        rounded = self.round(size)
        strip, place = self.find(rounded) or self.open(rounded)
        block = strip.blocks[place]
        rest, cap = block[0] - rounded, self.rules.max_split_bytes or float("inf")
        if rest >= 512 if strip.is_small else (rest > MIB and rounded < cap):
            strip.blocks[place : place + 1] = [[rounded, key], [rest, None]]
        else:
            block[1] = key
        self.asked[key] = size

    def free(self, key):
        for strip in self.strips:
            joined = []
            for size, owner in ((size, None if owner == key else owner) for size, owner in strip.blocks):
                if joined and owner is None and joined[-1][1] is None:
                    joined[-1][0] += size
                else:
                    joined.append([size, owner])
            strip.blocks = joined
        self.asked.pop(key, None)

    def empty(self):
        self.strips = [strip for strip in self.strips if not strip.is_whole]

    def round(self, size):
        table = self.rules.power2_divisions
        steps = table if isinstance(table, int) else next((n for i, n in enumerate(table) if size < 2 * MIB << i), table[-1])
        if steps > 1 and size > 512 * steps:
            power = 1
            while power * 2 <= size:
                power *= 2
            return min(power + step * (power // steps) for step in range(steps + 1) if power + step * (power // steps) >= size)
        return max(512, (size + 511) // 512 * 512)

    def find(self, rounded):
        fits = [
            (block[0], number, place)
            for number, strip in enumerate(self.strips)
            if strip.is_small == (rounded <= MIB)
            for place, block in enumerate(strip.blocks)
            if block[1] is None and block[0] >= rounded
        ]
        if not fits:
            return None
        size, number, place = min(fits)
        cap, extra = self.rules.max_split_bytes, self.rules.max_non_split_rounding_bytes or self.rules.large_segment_bytes
        if cap and (rounded < cap <= size or (rounded >= cap and size - rounded >= extra)):
            return None
        return self.strips[number], place

    def open(self, rounded):
        size = (
            2 * MIB
            if rounded <= MIB
            else self.rules.large_segment_bytes
            if rounded < 10 * MIB
            else -(-rounded // (2 * MIB)) * 2 * MIB
        )
        for make_room in (lambda: None, lambda: self.drop_oversize(rounded), self.empty):
            make_room()
            if self.limit is None or self.reserved + size <= self.limit:
                self.strips.append(Strip(size, rounded <= MIB))
                return self.strips[-1], 0
        raise NoRoom

    def drop_oversize(self, rounded):
        cap = self.rules.max_split_bytes
        if cap is None or rounded <= MIB:
            return
        oversize = [strip for strip in self.strips if strip.is_whole and strip.size >= cap]
        oversize.sort(key=lambda strip: (strip.size, self.strips.index(strip)))
        enough = [strip for strip in oversize if strip.size >= max(rounded, cap)]
        gone = enough[:1]
        while not enough and oversize and sum(strip.size for strip in gone) < max(rounded, cap):
            gone.append(oversize.pop())
        self.strips = [strip for strip in self.strips if strip not in gone]

    @property
    def requested(self):
        return sum(self.asked.values())

    @property
    def allocated(self):
        return sum(size for strip in self.strips for size, key in strip.blocks if key is not None)

    @property
    def reserved(self):
        return sum(strip.size for strip in self.strips)


class Twins(RuleBasedStateMachine):
    """The allocator and the model, told the same."""

    @initialize(rules=RULES, limit=LIMITS)
    def start(self, rules, limit):
        self.log, self.asked, self.held = [], {}, []
        self.fast, self.slow = CachingAllocator(rules, limit_bytes=limit, log=self.log), SlowAllocator(rules, limit)
        self.peaks = (0, 0, 0)

    @rule(size=SIZES)
    def hold(self, size):
        key = len(self.asked)
        self.asked[key] = size
        outcomes = []
        for allocator, out in ((self.fast, OutOfMemory), (self.slow, NoRoom)):
            try:
                allocator.hold(key, size)
                outcomes.append(True)
            except out:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1]
        if outcomes[0]:
            self.held.append(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data):
        key = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.fast.free(key)
        self.slow.free(key)

    @rule()
    def empty(self):
        self.fast.empty_cache()
        self.slow.empty()

    @rule()
    def reset(self):
        self.fast.reset_peaks()
        self.peaks = (0, 0, 0)

    @invariant()
    def they_agree(self):
        fast, slow = self.fast, self.slow
        now = (slow.requested, slow.allocated, slow.reserved)
        assert (fast.requested_bytes, fast.allocated_bytes, fast.reserved_bytes) == now
        assert fast.segment_count == len(slow.strips)
        assert [size for _, size in fast.free_blocks()] == [
            size for strip in slow.strips for size, key in strip.blocks if key is None
        ]
        self.peaks = tuple(map(max, self.peaks, now))
        peaks = (fast.requested_peak_bytes, fast.allocated_peak_bytes)
        assert peaks == self.peaks[:2]
        assert fast.reserved_peak_bytes >= self.peaks[2] >= fast.reserved_bytes
        assert fast.requested_bytes <= fast.allocated_bytes <= fast.reserved_bytes

    @invariant()
    def the_checker_finds_no_fault(self):
        assert find_caching_fault(self.log, requested=self.asked, free=self.fast.free_blocks()) == ""

    def teardown(self):
        for key in getattr(self, "held", ()):
            self.fast.free(key)
        if hasattr(self, "fast"):
            assert (self.fast.requested_bytes, self.fast.allocated_bytes) == (0, 0)
            self.fast.empty_cache()
            assert (self.fast.reserved_bytes, self.fast.segment_count, self.fast.free_blocks()) == (0, 0, [])


class OversizeTwins(Twins):
    """Few sizes around the limit of splitting, in little memory: what is given back when it runs out."""

    @initialize(rounding=st.sampled_from([None, 24 * MIB]), limit=st.sampled_from([120, 140, 160, 200]).map(lambda n: n * MIB))
    def start(self, rounding, limit):
        rules = CachingRules(max_split_bytes=32 * MIB, max_non_split_rounding_bytes=rounding)
        Twins.start(self, rules, limit)

    @rule(size=st.sampled_from([12, 24, 30, 31, 32, 33, 34, 36, 40, 52, 56, 64, 72, 80, 104]).map(lambda n: n * MIB))
    def hold(self, size):
        Twins.hold(self, size)

    @rule(count=st.integers(2, 5))
    def free_some(self, count):
        for key in self.held[-count:]:
            self.fast.free(key)
            self.slow.free(key)
        del self.held[-count:]


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestOversizeTwins = OversizeTwins.TestCase
TestOversizeTwins.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)


@st.composite
def programs(draw):
    """Some requests, freed in some order or never, in up to three phases."""
    builder, live = ProgramBuilder(), []
    for number in range(draw(st.integers(0, 40))):
        if live and draw(st.booleans()):
            builder.free(live.pop(draw(st.integers(0, len(live) - 1))))
        else:
            live.append(builder.hold(Buffer(name=str(number), role=Role.ACTIVATION, size_bytes=draw(SIZES))))
        if number in (10, 25):
            builder.phase(f"to {number}")
    builder.phase("end")
    return builder.build()


@given(programs(), RULES)
def test_a_replay_has_the_same_answer_every_time(program, rules):
    assert replay(program, rules) == replay(program, rules)


@given(programs(), RULES)
def test_a_replay_is_the_allocator_told_event_by_event(program, rules):
    allocator, levels, peaks = CachingAllocator(rules), [], replay(program, rules)
    for action, index, _ in program.events:
        if action is Action.HOLD:
            allocator.hold(index, program.buffers[index].size_bytes)
        else:
            allocator.free(index)
        levels.append((allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes))
    for phase in program.phases:
        inside = [levels[phase.start - 1] if phase.start else (0, 0, 0), *levels[phase.start : phase.stop]]
        found, allocated = peaks[phase.name], [level[1] for level in inside]
        assert (found.requested_bytes, found.allocated_bytes, found.reserved_bytes) == inside[-1]
        highest = (found.requested_peak_bytes, found.allocated_peak_bytes, found.reserved_peak_bytes)
        assert highest == tuple(map(max, zip(*inside, strict=True)))
        assert found.peak_event_index == max(phase.start - 1 + allocated.index(max(allocated)), 0)


@given(st.lists(SIZES, max_size=40), st.randoms(use_true_random=False), RULES)
def test_freeing_everything_keeps_what_is_reserved_in_whole_segments(sizes, chance, rules):
    allocator = CachingAllocator(rules)
    for key, size in enumerate(sizes):
        allocator.hold(key, size)
    reserved, segments = allocator.reserved_bytes, allocator.segment_count
    for key in chance.sample(range(len(sizes)), len(sizes)):
        allocator.free(key)
    assert (allocator.requested_bytes, allocator.allocated_bytes) == (0, 0)
    assert (allocator.reserved_bytes, allocator.segment_count) == (reserved, segments)
    assert len(allocator.free_blocks()) == segments
    for key, size in enumerate(sizes):
        allocator.hold(key, size)
    allocator.empty_cache()
    assert allocator.allocated_bytes <= allocator.reserved_bytes


@given(programs(), st.permutations(range(40)))
def test_whatever_the_order_of_segments_the_lowest_of_the_best_fits_serves(program, order):
    log = []
    allocator = CachingAllocator(segment_addresses=[(1 + rank) << 40 for rank in order], log=log)
    for action, index, _ in program.events:
        size = program.buffers[index].size_bytes
        if action is Action.FREE:
            allocator.free(index)
        elif size:
            rounded = DEFAULT_RULES.rounded_bytes(size)
            lengths = {address: length for what, _, address, length in log if what == "segment"}
            fits = [
                (length, address)
                for address, length in allocator.free_blocks()
                if length >= rounded and (lengths[address >> 40 << 40] == 2 * MIB) == (rounded <= MIB)
            ]
            allocator.hold(index, size)
            assert log[-1][2] == (min(fits)[1] if fits else log[-2][2])
    sizes = {index: buffer.size_bytes for index, buffer in enumerate(program.buffers)}
    assert find_caching_fault(log, requested=sizes, free=allocator.free_blocks()) == ""


@given(st.lists(st.integers(1, 12 * MIB), min_size=2, max_size=30), st.data())
def test_the_checker_sees_a_buffer_that_is_moved_onto_another(sizes, data):
    log = []
    allocator = CachingAllocator(log=log)
    for key, size in enumerate(sizes):
        allocator.hold(key, size)
    lines = [number for number, row in enumerate(log) if row[0] == "hold"]
    first, second = sorted(data.draw(st.lists(st.sampled_from(lines), min_size=2, max_size=2, unique=True)))
    log[second] = (*log[second][:2], log[first][2], log[second][3])
    assert find_caching_fault(log).startswith(f"line {second}: ")


@given(SIZES, RULES)
def test_rounding_is_enough_and_rounding_twice_changes_nothing(size, rules):
    rounded = rules.rounded_bytes(size)
    assert rounded >= max(size, 512)
    assert rounded % 512 == 0
    assert rules.rounded_bytes(rounded) == rounded
    assert rules.segment_bytes(rounded) >= rounded
