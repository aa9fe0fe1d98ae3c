"""Each rule of ONNX Runtime's arena, in numbers that can be added up by hand."""

from itertools import pairwise

import pytest

from vramplan.allocators.bfc import BfcArena, BfcRules, ExtendStrategy, OutOfMemory, replay
from vramplan.allocators.bfc_options import HARMLESS, parse_arena_options
from vramplan.allocators.driver import driver_bytes
from vramplan.allocators.validation import find_bfc_fault
from vramplan.errors import UsageError
from vramplan.program import Buffer, ProgramBuilder, Role
from vramplan.units import GIB, KIB, MIB

SAME = BfcRules(strategy=ExtendStrategy.SAME_AS_REQUESTED)


def held(*sizes, **options):
    """An arena that holds *sizes*, under keys 0, 1, …"""
    arena = BfcArena(**options)
    for key, size in enumerate(sizes):
        arena.hold(key, size)
    return arena


def regions(arena):
    return [region.size_bytes for region in arena.regions]


def counters(arena):
    return arena.requested_bytes, arena.in_use_bytes, arena.reserved_bytes


class TestRequests:
    @pytest.mark.parametrize(("size", "in_use"), [(1, 256), (256, 256), (257, 512), (1000, 1024), (MIB // 2, MIB // 2)])
    def test_they_round_up_to_256_bytes(self, size, in_use):
        assert counters(held(size)) == (size, in_use, MIB)

    def test_no_bytes_are_no_request(self):
        arena = held(0)
        arena.reserve(1, 0)
        arena.free(0)
        assert (counters(arena), arena.regions) == ((0, 0, 0), ())

    def test_a_key_that_is_held_cannot_be_held_again(self):
        with pytest.raises(ValueError, match="buffer 0 is held already"):
            held(1).hold(0, 1)
        with pytest.raises(ValueError, match="buffer 0 is held already"):
            held(1).reserve(0, 1)


class TestNextPowerOfTwo:
    def test_regions_that_cover_their_request_double(self):
        assert regions(held(MIB, 2 * MIB, 4 * MIB, 8 * MIB)) == [MIB, 2 * MIB, 4 * MIB, 8 * MIB]

    def test_small_requests_fill_them(self):
        assert regions(held(*[512 * KIB] * 2)) == [MIB]
        assert regions(held(*[512 * KIB] * 3)) == [MIB, 2 * MIB]  # 2 * 0.5 = 1
        assert regions(held(*[512 * KIB] * 7)) == [MIB, 2 * MIB, 4 * MIB]  # 6 * 0.5 = 1 + 2

    def test_3_mib_need_two_doublings_of_1_mib(self):
        assert counters(held(3 * MIB)) == (3 * MIB, 4 * MIB, 4 * MIB)  # 4 is not 2 * 3: not split

    def test_a_region_that_was_doubled_for_its_request_does_not_double_the_next(self):
        # ONNX Runtime's log: in an arena of 1 + 2 MiB 46,881,792 B extend it by 67,108,864, 2,359,296 more by 67,108,864
        arena = held(MIB, 2 * MIB, 46_881_792, 2_359_296)
        assert regions(arena) == [MIB, 2 * MIB, 67_108_864, 67_108_864]
        assert arena.reserved_bytes == 137_363_456

    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ((160_000, 19_888_128), [1_048_576, 33_554_432]),  # ONNX Runtime's log, total 34,603,008
            ((1000, 600_000_000), [1_048_576, 1_073_741_824]),  # ONNX Runtime's log, total 1,074,790,400
        ],
    )
    def test_what_logs_of_onnx_runtime_show(self, sizes, expected):
        assert regions(held(*sizes)) == expected

    def test_doubling_without_need_ends_at_1_gib(self):
        arena = held(512 * MIB, 512 * MIB, GIB, GIB)
        # 512 was doubled for; the same again needs no doubling; then 1, and 1 again
        assert regions(arena) == [512 * MIB, 512 * MIB, GIB, GIB]

    def test_before_1_16_it_went_on(self):
        arena = held(512 * MIB, 512 * MIB, GIB, GIB, rules=BfcRules(max_extend_bytes=None))
        assert regions(arena) == [512 * MIB, 512 * MIB, GIB, 2 * GIB]

    def test_a_larger_request_doubles_past_it_and_the_region_after_next_is_back_at_1_gib(self):
        # 4 covers 3 and leaves 1 (more than 128 MiB of waste); 4 again cover 2 and leave 2; those serve 1 and 2
        arena = held(3 * GIB, 2 * GIB, GIB, 2 * GIB)
        assert regions(arena) == [4 * GIB, 4 * GIB]
        arena.hold(4, GIB)
        assert regions(arena) == [4 * GIB, 4 * GIB, GIB]

    def test_the_first_region_may_be_chosen(self):
        assert regions(held(1, rules=BfcRules(initial_chunk_bytes=10_000))) == [10_240]  # 40 * 256
        assert regions(held(1, rules=BfcRules(limit_bytes=5000))) == [4864]  # 5000 rounds up, the room down: 19 * 256


class TestSameAsRequested:
    def test_a_region_has_the_rounded_size_of_its_request(self):
        assert regions(held(3 * MIB, 1000, 5, rules=SAME)) == [3 * MIB, 1024, 256]

    def test_a_free_chunk_still_serves_first(self):
        arena = held(3 * MIB, rules=SAME)
        arena.free(0)
        arena.hold(1, 2 * MIB)
        arena.hold(2, MIB)
        assert (regions(arena), arena.in_use_bytes) == ([3 * MIB, MIB], 4 * MIB)  # 3 is not 2 * 2: the chunk went whole


class TestSplitting:
    def test_at_exactly_twice_the_request(self):
        assert held(512 * KIB).in_use_bytes == 512 * KIB
        assert held(512 * KIB + 256).in_use_bytes == MIB

    def test_at_exactly_128_mib_of_waste(self):
        assert held(384 * MIB).in_use_bytes == 384 * MIB  # 512 - 384 = 128
        assert held(384 * MIB + 256).in_use_bytes == 512 * MIB

    def test_the_low_part_is_handed_out(self):
        log = []
        arena = held(256 * KIB, 128 * KIB, log=log)
        start = arena.regions[0].address
        assert log[1:] == [("hold", 0, start, 256 * KIB), ("hold", 1, start + 256 * KIB, 128 * KIB)]
        assert arena.free_chunks() == [(start + 384 * KIB, 640 * KIB)]


class TestBestFit:
    def test_the_smallest_chunk_that_fits_serves(self):
        log = []
        arena = held(40 * MIB, 30 * MIB, 20 * MIB, rules=SAME, log=log)
        for key in range(3):
            arena.free(key)
        arena.hold(3, 29 * MIB)
        assert log[-1][2] == arena.regions[1].address

    @pytest.mark.parametrize("addresses", [(1 << 30, 2 << 30), (2 << 30, 1 << 30)])
    def test_the_lowest_address_serves_among_equals(self, addresses):
        log = []
        arena = held(20 * MIB, 20 * MIB, rules=SAME, log=log, region_addresses=addresses)
        arena.free(0)
        arena.free(1)
        arena.hold(2, 20 * MIB)
        assert log[-1] == ("hold", 2, 1 << 30, 20 * MIB)


class TestMerging:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
    def test_free_neighbours_become_one_chunk(self, order):
        arena = held(256 * KIB, 128 * KIB, 64 * KIB)
        for key in order:
            arena.free(key)
        assert [size for _, size in arena.free_chunks()] == [MIB]
        arena.hold(3, MIB)
        assert regions(arena) == [MIB]

    def test_a_held_neighbour_keeps_them_apart(self):
        arena = held(256 * KIB, 256 * KIB, 512 * KIB)
        arena.free(0)
        arena.free(2)
        assert [size for _, size in arena.free_chunks()] == [256 * KIB, 512 * KIB]

    def test_regions_never_merge(self):
        arena = held(MIB, MIB, rules=SAME, region_addresses=(1 << 30, (1 << 30) + MIB))
        arena.free(0)
        arena.free(1)
        assert len(arena.free_chunks()) == 2

    def test_during_a_run_a_freed_chunk_does_not_merge_with_what_no_run_has_used(self):
        arena = BfcArena()
        arena.hold(0, 512 * KIB, on_stream=True)
        arena.free(0)
        assert [size for _, size in arena.free_chunks()] == [512 * KIB, 512 * KIB]
        arena.hold(1, MIB, on_stream=True)
        assert regions(arena) == [MIB, 2 * MIB]
        arena.free(1)
        arena.end_run()
        assert [size for _, size in arena.free_chunks()] == [MIB, 2 * MIB]

    def test_a_request_without_a_stream_leaves_the_chunks_of_a_run_alone(self):
        arena = BfcArena()
        arena.hold(0, MIB, on_stream=True)
        arena.free(0)
        arena.hold(1, MIB)
        assert regions(arena) == [MIB, 2 * MIB]
        arena.end_run()
        arena.hold(2, MIB)
        assert regions(arena) == [MIB, 2 * MIB]

    def test_an_output_that_outlives_its_run_merges_later(self):
        arena = BfcArena()
        arena.hold(0, 512 * KIB, on_stream=True)
        arena.end_run()
        arena.free(0)
        assert [size for _, size in arena.free_chunks()] == [MIB]


class TestLimits:
    def test_the_last_region_is_cut_to_what_the_limit_leaves(self):
        arena = held(MIB, 2 * MIB, 3 * MIB, rules=BfcRules(limit_bytes=6 * MIB + 300))
        assert regions(arena) == [MIB, 2 * MIB, 3 * MIB + 256]

    def test_beyond_the_limit_memory_is_out_and_nothing_has_changed(self):
        arena = held(MIB, 2 * MIB, rules=BfcRules(limit_bytes=5 * MIB))
        with pytest.raises(OutOfMemory, match="2097153 bytes do not fit: 3145728 of 5242880 are reserved already") as caught:
            arena.hold(2, 2 * MIB + 1)
        assert (caught.value.requested_bytes, caught.value.reserved_bytes) == (2 * MIB + 1, 3 * MIB)
        assert (caught.value.limit_bytes, counters(arena)) == (5 * MIB, (3 * MIB, 3 * MIB, 3 * MIB))
        arena.hold(2, 2 * MIB)
        assert arena.reserved_bytes == 5 * MIB

    def test_a_full_device_has_smaller_regions_by_steps_of_a_tenth(self):
        arena = held(5 * MIB, device_bytes=6 * MIB)
        # 8 MiB do not fit; 8,388,608 * 0.9 = 7,549,747.2 to 7,549,952; * 0.9 = 6,794,956.8 to 6,795,008; 6,115,507.2 fits
        assert regions(arena) == [6_115_584]

    def test_a_device_that_is_too_full_for_the_request_is_out_of_memory(self):
        with pytest.raises(OutOfMemory) as caught:
            held(5 * MIB, device_bytes=4 * MIB)
        assert caught.value.limit_bytes == 4 * MIB


class TestBypass:
    def test_a_reserved_buffer_has_its_exact_size_and_goes_back_to_the_driver(self):
        arena = BfcArena()
        arena.reserve(0, 1001)
        arena.hold(1, 100)
        assert (counters(arena), regions(arena)) == ((1101, 1257, MIB + 1001), [1001, MIB])
        arena.free(0)
        assert (counters(arena), regions(arena)) == ((100, 256, MIB), [MIB])
        assert arena.reserved_peak_bytes == MIB + 1001

    def test_it_counts_for_the_limit_of_later_regions(self):
        arena = BfcArena(BfcRules(limit_bytes=4 * MIB))
        arena.reserve(0, 3 * MIB)
        with pytest.raises(OutOfMemory):
            arena.hold(1, MIB + 1)
        arena.hold(1, MIB)
        assert arena.reserved_bytes == 4 * MIB

    def test_beyond_the_limit_nothing_is_limited_any_more(self):
        arena = BfcArena(BfcRules(limit_bytes=4 * MIB))
        arena.reserve(0, 5 * MIB)
        arena.hold(1, 3 * MIB)
        assert regions(arena) == [5 * MIB, 4 * MIB]

    def test_a_full_device_has_no_room_for_it(self):
        with pytest.raises(OutOfMemory):
            BfcArena(device_bytes=4 * MIB).reserve(0, 5 * MIB)


class TestShrinking:
    def test_whole_free_regions_go_except_the_first(self):
        arena = held(MIB, 2 * MIB, 4 * MIB)
        for key in (0, 1):
            arena.free(key)
        arena.shrink()
        assert regions(arena) == [MIB, 4 * MIB]

    def test_growth_begins_anew_at_2_mib(self):
        arena = held(MIB, 32 * MIB)
        arena.free(1)
        arena.shrink()
        arena.hold(2, 2 * MIB)
        arena.hold(3, 4 * MIB)
        assert regions(arena) == [MIB, 2 * MIB, 4 * MIB]

    def test_with_same_as_requested_the_first_goes_too(self):
        arena = held(MIB, 2 * MIB, rules=SAME)
        arena.reserve(2, 5)
        arena.free(0)
        arena.shrink()
        assert regions(arena) == [2 * MIB, 5]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"initial_chunk_bytes": 0}, "an arena's sizes are positive"),
        ({"max_dead_bytes": 0}, "an arena's sizes are positive"),
        ({"limit_bytes": 0}, "an arena's sizes are positive"),
        ({"limit_bytes": -1}, "an arena's sizes are positive"),
        ({"max_extend_bytes": 1000}, "a region is a multiple of 256 bytes"),
    ],
)
def test_rules_that_cannot_be(rules, message):
    with pytest.raises(ValueError, match=message):
        BfcRules(**rules)


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [
        ([], 0),
        ([1], 1),
        ([MIB], 1),
        ([2 * MIB], 1),
        ([2 * MIB + 256], 2),
        ([MIB, 2 * MIB, 4 * MIB], 1 + 1 + 2),
        ([MIB] * 2, 1),
        ([MIB + 1] * 2, 2),
        ([1] * 4096, 1),  # 4096 * 512 = 2 MiB
        ([1] * 4097, 2),
        ([900 * KIB] * 3, 2),  # two share a page, the third begins another
        ([900 * KIB, 8 * MIB, 900 * KIB, 300 * KIB, 200 * KIB], 2 + 4),  # 900 + 900 + 200 share a page, 300 do not fit
    ],
)
def test_the_driver_hands_memory_out_in_pages_of_2_mib(sizes, pages):
    assert driver_bytes(sizes) == pages * 2 * MIB


def test_the_weights_of_vgg_16_take_540_mib_of_a_card():
    # read on an H200, each weight in a region of its own: 1,140.8 MiB, of which 600.8 are not the arena's
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = [9 * 4 * one * two for one, two in pairwise(channels)]
    classifier = [4 * 512 * 7 * 7 * 4096, 4 * 4096 * 4096, 4 * 4096 * 1000]
    biases = [4 * count for count in (*channels[1:], 4096, 4096, 1000)]
    arena = held(*convolutions, *classifier, *biases, rules=SAME)
    assert driver_bytes(regions(arena)) == 540 * MIB


def program():
    builder = ProgramBuilder()
    builder.hold(Buffer(name="weight", role=Role.WEIGHT, size_bytes=MIB))
    builder.phase("load")
    one = builder.hold(Buffer(name="one", role=Role.ACTIVATION, size_bytes=MIB))
    two = builder.hold(Buffer(name="two", role=Role.WORKSPACE, size_bytes=512 * KIB))
    builder.free(one, two)
    three = builder.hold(Buffer(name="three", role=Role.ACTIVATION, size_bytes=2 * MIB))
    builder.free(three)
    builder.phase("run")
    builder.phase("idle")
    return builder.build()


class TestReplay:
    def test_phases_add_up(self):
        load, run, idle = replay(program()).values()
        assert (load.requested_bytes, load.in_use_bytes, load.reserved_bytes) == (MIB, MIB, MIB)
        assert (run.requested_peak_bytes, run.in_use_peak_bytes, run.reserved_peak_bytes) == (3 * MIB, 3 * MIB, 3 * MIB)
        assert (run.in_use_bytes, run.reserved_bytes, run.peak_event_index) == (MIB, 3 * MIB, 5)
        assert (run.device_bytes, idle.in_use_peak_bytes, idle.reserved_bytes) == (4 * MIB, MIB, 3 * MIB)

    def test_in_a_run_the_chunks_do_not_come_together_again(self):
        # the run's 1 MiB and its 0.5 MiB merge, the fresh 0.5 MiB beside them do not: 2 MiB need another region
        run = replay(program(), run_phases=["run"])["run"]
        assert run.reserved_bytes == (1 + 2 + 4) * MIB

    def test_weights_may_bypass_the_arena(self):
        load, run, _ = replay(program(), reserves_weights=True).values()
        assert (load.reserved_bytes, run.reserved_bytes) == (MIB, (1 + 1 + 2) * MIB)

    def test_sizes_may_be_replaced(self):
        assert replay(program(), sizes={3: 10 * MIB})["run"].reserved_bytes == (1 + 2 + 16) * MIB


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "rules"),
        [
            ({}, BfcRules()),
            ({"arena_extend_strategy": "kSameAsRequested"}, SAME),
            ({"arena_extend_strategy": "kNextPowerOfTwo"}, BfcRules()),
            ({"arena_extend_strategy": 1}, SAME),
            ({"arena_extend_strategy": -1}, BfcRules()),
            ({"gpu_mem_limit": str(2 * GIB)}, BfcRules(limit_bytes=2 * GIB)),
            ({"gpu_mem_limit": 0}, BfcRules()),
            ({"gpu_mem_limit": str((1 << 64) - 1)}, BfcRules()),
            ({"max_mem": 5 * MIB, "gpu_mem_limit": GIB}, BfcRules(limit_bytes=5 * MIB)),
            ({"initial_chunk_size_bytes": 5000}, BfcRules(initial_chunk_bytes=5000)),
            ({"max_dead_bytes_per_chunk": "77"}, BfcRules(max_dead_bytes=77)),
            ({"initial_growth_chunk_size_bytes": MIB}, BfcRules(initial_growth_bytes=MIB)),
            ({"max_power_of_two_extend_bytes": 16 * GIB}, BfcRules(max_extend_bytes=16 * GIB)),
            (dict.fromkeys(["initial_chunk_size_bytes", "max_power_of_two_extend_bytes"], -1), BfcRules()),
            ({"arena.extend_strategy": "1", "arena.max_mem": str(GIB)}, BfcRules(strategy=SAME.strategy, limit_bytes=GIB)),
            ({"gpu_external_alloc": "0", "prefer_nhwc": "1"}, BfcRules()),
        ],
    )  # fmt: skip
    def test_what_is_honoured(self, options, rules):
        assert parse_arena_options(options) == rules

    @pytest.mark.parametrize("key", sorted(HARMLESS))
    def test_what_does_not_matter(self, key):
        assert parse_arena_options({key: "1"}) == BfcRules()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gpu_mem_limits": 1}, "unknown option 'gpu_mem_limits' of the CUDA provider\nDid you mean: gpu_mem_limit"),
            ({"arena.prefer_nhwc": 1}, "unknown option 'arena.prefer_nhwc'"),
            ({"\x1b[2J": 1}, r"unknown option '\x1b[2J'"),
            ({"arena_extend_strategy": "kSameAsRequest"}, "'kSameAsRequest' is no way to grow an arena\nDid you mean: kSame"),
            ({"gpu_mem_limit": "2GiB"}, "gpu_mem_limit: '2GiB' is not a whole number of bytes"),
            ({"gpu_mem_limit": "٣"}, "is not a whole number of bytes"),
            ({"gpu_mem_limit": "-2"}, "gpu_mem_limit: '-2' is not a whole number of bytes"),
            ({"gpu_mem_limit": str(1 << 64)}, "is above 18446744073709551615"),
            ({"initial_chunk_size_bytes": 2 * GIB}, "initial_chunk_size_bytes: 2147483648 is above 2147483647"),
            ({"max_dead_bytes_per_chunk": 0}, "max_dead_bytes_per_chunk: 0 leaves the arena no size"),
            ({"initial_growth_chunk_size_bytes": 1000}, "initial_growth_chunk_size_bytes: 1000 is not a multiple of 256"),
            ({"gpu_external_alloc": "1234"}, "gpu_external_alloc: an external allocator is not modelled"),
        ],
    )
    def test_what_is_refused(self, options, message):
        with pytest.raises(UsageError) as caught:
            parse_arena_options(options)
        assert message in str(caught.value)


class TestFindBfcFault:
    start = ("segment", -1, 4096, 1024)

    @pytest.mark.parametrize(
        ("rows", "fault"),
        [
            ([("hold", 1, 4096, 256), ("free", 1, 4096, 256), ("release", -1, 4096, 1024)], ""),
            ([("hold", 1, 4352, 256)], "line 1: 256 bytes are at 4352, not in the smallest gap that has room, at 4096"),
            ([("hold", 1, 4096, 512)], "line 1: 256 bytes in a gap of 1024 take 512, not 256"),
            ([("hold", 1, 4096, 250)], "line 1: 256 bytes in a gap of 1024 take 250, not 256"),
            ([("segment", -1, 9216, 256), ("hold", 1, 9216, 256)], "line 2: a segment is reserved for 256 bytes though the"),
            ([("hold", 3, 4096, 768)], "line 1: 768 bytes in a gap of 1024 take 768, not 1024"),
            ([("hold", 3, 4096, 1024), ("hold", 1, 4096, 256)], "line 2: buffers 3 and 1 both take bytes [4096, 4352)"),
            ([("hold", 9, 4096, 1000)], "line 1: buffer 9 has no segment of its own"),
            ([("segment", -1, 9216, 1000), ("hold", 9, 9216, 1000)], ""),
            ([("hold", 1, 4096, 256), ("hold", 2, 4096, 256)], "line 2: buffers 1 and 2 both take bytes [4096, 4352)"),
        ],
    )  # fmt: skip
    def test_the_first_line_that_cannot_be_is_named(self, rows, fault):
        found = find_bfc_fault([self.start, *rows], requested={1: 200, 2: 200, 3: 700, 9: 1000}, bypassing={9})
        assert found.startswith(fault)
        assert bool(found) == bool(fault)
