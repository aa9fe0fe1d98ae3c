"""Each rule of the caching allocator, in numbers that can be added up by hand."""

import pytest

from vramplan.allocators.caching import CachingAllocator, CachingRules, OutOfMemory, replay
from vramplan.allocators.caching_conf import HARMLESS, parse_alloc_conf, rules_from_environment
from vramplan.allocators.validation import find_caching_fault
from vramplan.errors import UsageError
from vramplan.program import Buffer, ProgramBuilder, Role
from vramplan.units import MIB


def held(*sizes, **options):
    """An allocator that holds *sizes*, under keys 0, 1, …"""
    allocator = CachingAllocator(**options)
    for key, size in enumerate(sizes):
        allocator.hold(key, size)
    return allocator


def counters(allocator):
    return allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes


class TestOneRequest:
    @pytest.mark.parametrize(
        ("size", "allocated", "reserved"),
        [
            (1, 512, 2 * MIB),
            (512, 512, 2 * MIB),
            (513, 1024, 2 * MIB),
            (MIB - 511, MIB, 2 * MIB),
            (MIB, MIB, 2 * MIB),  # the last of the small pool
            (MIB + 1, MIB + 512, 20 * MIB),  # the first of the large one
            (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
            (10 * MIB - 511, 10 * MIB, 10 * MIB),  # rounded to 10 MiB, it has a segment of its own
            (10 * MIB, 10 * MIB, 10 * MIB),
            (11 * MIB, 12 * MIB, 12 * MIB),  # 1 MiB remains, which is not more than 1 MiB: all of the segment counts
            (11 * MIB + 1, 12 * MIB, 12 * MIB),
            (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),  # 1 MiB + 512 B remain, so they are split off
            (33 * MIB, 34 * MIB, 34 * MIB),
            (1000 * MIB, 1000 * MIB, 1000 * MIB),
        ],
    )
    def test_its_block_and_its_segment(self, size, allocated, reserved):
        assert counters(held(size)) == (size, allocated, reserved)

    def test_no_bytes_are_no_request(self):
        allocator = held(0)
        allocator.free(0)
        assert counters(allocator) == (0, 0, 0)
        assert allocator.segment_count == 0

    def test_a_key_that_is_held_cannot_be_held_again(self):
        with pytest.raises(ValueError, match="buffer 0 is held already"):
            held(1).hold(0, 1)


class TestPools:
    def test_four_times_512_kib_fill_a_small_segment_and_the_fifth_opens_another(self):
        half = MIB // 2
        assert held(*[half] * 4).reserved_bytes == 2 * MIB
        assert held(*[half] * 5).reserved_bytes == 2 * 2 * MIB

    def test_a_small_remainder_is_kept_down_to_512_bytes(self):
        assert counters(held(MIB, MIB - 512, 1)) == (2 * MIB - 511, 2 * MIB, 2 * MIB)

    def test_a_large_remainder_of_1_mib_goes_with_the_block(self):
        # 20 - 9 - 9 = 2, of which a request of 1 MiB + 512 takes everything, because 1 MiB - 512 are not more than 1 MiB
        assert held(9 * MIB, 9 * MIB, MIB + 512).allocated_bytes == 20 * MIB

    def test_small_requests_do_not_use_large_segments(self):
        allocator = held(9 * MIB, 100)
        assert allocator.reserved_bytes == (20 + 2) * MIB

    def test_large_requests_do_not_use_small_segments(self):
        allocator = held(MIB)
        allocator.free(0)
        allocator.hold(1, MIB + 1)
        assert allocator.reserved_bytes == (2 + 20) * MIB


class TestBestFit:
    def test_the_smallest_block_that_fits_serves(self):
        log = []
        allocator = held(40 * MIB, 30 * MIB, log=log)
        allocator.free(0)
        allocator.free(1)
        allocator.hold(2, 29 * MIB)
        assert log[-1][2] == log[3][2]  # where the 30 MiB were
        assert allocator.reserved_bytes == 70 * MIB

    @pytest.mark.parametrize(("addresses", "expected"), [((1 << 30, 2 << 30), 1 << 30), ((2 << 30, 1 << 30), 1 << 30)])
    def test_the_lowest_address_serves_among_equals(self, addresses, expected):
        log = []
        allocator = held(20 * MIB, 20 * MIB, log=log, segment_addresses=iter(addresses))
        allocator.free(0)
        allocator.free(1)
        allocator.hold(2, 20 * MIB)
        assert log[-1] == ("hold", 2, expected, 20 * MIB)

    def test_a_block_is_served_from_its_low_end(self):
        log = []
        held(3 * MIB, 4 * MIB, log=log)
        start = log[0][2]
        assert log[1:] == [("hold", 0, start, 3 * MIB), ("hold", 1, start + 3 * MIB, 4 * MIB)]


class TestMerging:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
    def test_free_neighbours_become_one_block(self, order):
        allocator = held(5 * MIB, 6 * MIB, 4 * MIB)
        for key in order:
            allocator.free(key)
        assert [size for _, size in allocator.free_blocks()] == [20 * MIB]
        allocator.hold(3, 20 * MIB)
        assert allocator.reserved_bytes == 20 * MIB

    def test_a_held_neighbour_keeps_them_apart(self):
        allocator = held(5 * MIB, 6 * MIB, 9 * MIB)
        allocator.free(0)
        allocator.free(2)
        assert [size for _, size in allocator.free_blocks()] == [5 * MIB, 9 * MIB]
        allocator.hold(3, 9 * MIB + 512)
        assert allocator.reserved_bytes == 2 * 20 * MIB

    def test_segments_never_merge(self):
        allocator = held(20 * MIB, 20 * MIB, segment_addresses=iter((1 << 30, (1 << 30) + 20 * MIB)))
        allocator.free(0)
        allocator.free(1)
        allocator.hold(2, 40 * MIB)
        assert allocator.reserved_bytes == 80 * MIB


class TestCache:
    def test_segments_stay_reserved_until_the_cache_is_emptied(self):
        allocator = held(30 * MIB, 100)
        allocator.free(0)
        assert counters(allocator) == (100, 512, 32 * MIB)
        allocator.empty_cache()
        assert counters(allocator) == (100, 512, 2 * MIB)
        assert allocator.reserved_peak_bytes == 32 * MIB

    def test_a_segment_of_which_something_is_held_stays(self):
        allocator = held(5 * MIB, 5 * MIB)
        allocator.free(0)
        allocator.empty_cache()
        assert allocator.reserved_bytes == 20 * MIB
        allocator.hold(2, 5 * MIB)
        assert allocator.reserved_bytes == 20 * MIB

    def test_the_cache_is_emptied_before_memory_is_out(self):
        allocator = held(30 * MIB, limit_bytes=50 * MIB)
        allocator.free(0)
        allocator.hold(1, 40 * MIB)
        assert (allocator.reserved_bytes, allocator.reserved_peak_bytes, allocator.segment_count) == (40 * MIB, 40 * MIB, 1)

    def test_the_limit_itself_may_be_reserved(self):
        assert held(50 * MIB, limit_bytes=50 * MIB).reserved_bytes == 50 * MIB

    def test_beyond_the_limit_memory_is_out_and_nothing_has_changed(self):
        allocator = held(30 * MIB, limit_bytes=50 * MIB)
        with pytest.raises(OutOfMemory) as caught:
            allocator.hold(1, 21 * MIB)
        assert (caught.value.requested_bytes, caught.value.reserved_bytes) == (21 * MIB, 30 * MIB)
        assert counters(allocator) == (30 * MIB, 30 * MIB, 30 * MIB)
        allocator.hold(1, 20 * MIB)
        assert allocator.reserved_bytes == 50 * MIB

    def test_peaks_count_from_where_they_are_reset(self):
        allocator = held(30 * MIB, 100)
        allocator.free(0)
        allocator.reset_peaks()
        assert (allocator.requested_peak_bytes, allocator.allocated_peak_bytes, allocator.reserved_peak_bytes) == (
            100,
            512,
            32 * MIB,
        )


class TestMaxSplit:
    rules = CachingRules(max_split_bytes=32 * MIB)

    def test_a_large_block_does_not_serve_a_request_below_the_limit(self):
        allocator = held(40 * MIB, rules=self.rules)
        allocator.free(0)
        allocator.hold(1, 15 * MIB)
        assert allocator.reserved_bytes == (40 + 16) * MIB

    def test_a_large_request_takes_the_whole_of_a_block_that_is_less_than_20_mib_larger(self):
        allocator = held(52 * MIB, rules=self.rules)
        allocator.free(0)
        allocator.hold(1, 32 * MIB + 512)
        assert counters(allocator) == (32 * MIB + 512, 52 * MIB, 52 * MIB)

    def test_a_block_that_is_20_mib_larger_is_passed_over(self):
        allocator = held(52 * MIB, rules=self.rules)
        allocator.free(0)
        allocator.hold(1, 32 * MIB)
        assert counters(allocator) == (32 * MIB, 32 * MIB, (52 + 32) * MIB)

    def test_that_margin_can_be_set(self):
        allocator = held(52 * MIB, rules=CachingRules(max_split_bytes=32 * MIB, max_non_split_rounding_bytes=21 * MIB))
        allocator.free(0)
        allocator.hold(1, 32 * MIB)
        assert allocator.reserved_bytes == 52 * MIB

    def test_blocks_below_the_limit_are_split_as_ever(self):
        assert counters(held(9 * MIB, 9 * MIB, rules=self.rules)) == (18 * MIB, 18 * MIB, 20 * MIB)

    def test_near_the_limit_one_oversize_segment_that_would_do_goes_first(self):
        allocator = held(32 * MIB, 60 * MIB, 24 * MIB, rules=self.rules, limit_bytes=120 * MIB)
        for key in range(3):
            allocator.free(key)
        allocator.hold(3, 25 * MIB)  # 26 MiB reserved; the 32 MiB segment is the smallest oversize one
        assert allocator.reserved_bytes == (60 + 24 + 26) * MIB

    def test_else_the_largest_oversize_segments_go_until_they_add_up(self):
        allocator = held(32 * MIB, 40 * MIB, 64 * MIB, 24 * MIB, rules=self.rules, limit_bytes=200 * MIB)
        for key in range(4):
            allocator.free(key)
        allocator.hold(4, 104 * MIB)  # 64 + 40 = 104
        assert allocator.reserved_bytes == (32 + 24 + 104) * MIB

    def test_all_segments_go_when_those_are_not_enough(self):
        allocator = held(34 * MIB, 12 * MIB, rules=self.rules, limit_bytes=60 * MIB)
        allocator.free(0)
        allocator.free(1)
        allocator.hold(2, 60 * MIB)
        assert (allocator.reserved_bytes, allocator.segment_count) == (60 * MIB, 1)

    def test_a_request_of_the_limit_itself_takes_its_block_whole(self):
        allocator = held(34 * MIB, rules=self.rules)
        allocator.free(0)
        allocator.hold(1, 32 * MIB)
        assert counters(allocator) == (32 * MIB, 34 * MIB, 34 * MIB)


@pytest.mark.parametrize(
    ("divisions", "size", "rounded"),
    [
        (0, 1200 * 512 + 1, 1201 * 512),
        (1, 1200 * 512 + 1, 1201 * 512),
        (4, 1200, 1536),  # up to 4 * 512 requests round to 512 as ever
        (4, 2048, 2048),
        (4, 2049, 2560),  # 2048 + 512
        (4, 1200 * 1024, 1280 * 1024),  # PyTorch's own example: 1024, 1280, 1536, 1792
        (4, 1281 * 1024, 1536 * 1024),
        (4, 2 * MIB, 2 * MIB),
        (2, 5 * MIB, 6 * MIB),
        (8, 5 * MIB + 1, 5 * MIB + MIB // 2),
        ((1,) * 3 + (2,) * 13, 5 * MIB, 5 * MIB),  # below 8 MiB: one division, which is none
        ((1,) * 3 + (2,) * 13, 9 * MIB, 12 * MIB),
        ((2,) + (1,) * 15, 300 * 1024, 384 * 1024),  # the first number is for everything below 2 MiB
        ((1,) * 15 + (4,), 150 << 30, 160 << 30),  # the last for everything from 32 GiB
    ],
)
def test_requests_round_up_to_a_division_of_a_power_of_two(divisions, size, rounded):
    assert CachingRules(power2_divisions=divisions).rounded_bytes(size) == rounded


@pytest.mark.parametrize("wrong", [{"alignment_bytes": 0}, {"power2_divisions": 3}, {"power2_divisions": (1, 2)}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"an allocator's sizes are positive|divisions are one or 16 powers of two"):
        CachingRules(**wrong)


def test_a_program_is_replayed_phase_by_phase():
    builder = ProgramBuilder()
    builder.hold(Buffer(name="weight", role=Role.WEIGHT, size_bytes=11 * MIB))
    builder.phase("load")
    one = builder.hold(Buffer(name="one", role=Role.ACTIVATION, size_bytes=5 * MIB))
    two = builder.hold(Buffer(name="two", role=Role.WORKSPACE, size_bytes=6 * MIB))
    builder.free(one, two)
    builder.phase("run")
    builder.phase("idle")
    program = builder.build()
    load, run, idle = replay(program).values()
    assert (load.requested_bytes, load.allocated_bytes, load.reserved_bytes) == (11 * MIB, 12 * MIB, 12 * MIB)
    assert (run.requested_peak_bytes, run.allocated_peak_bytes, run.reserved_peak_bytes) == (22 * MIB, 23 * MIB, 32 * MIB)
    assert (run.allocated_bytes, run.reserved_bytes, run.peak_event_index) == (12 * MIB, 32 * MIB, 2)
    assert (idle.allocated_peak_bytes, idle.reserved_peak_bytes) == (12 * MIB, 32 * MIB)
    assert replay(program, sizes={two: 16 * MIB})["run"].allocated_peak_bytes == (12 + 5 + 16) * MIB


class TestConf:
    @pytest.mark.parametrize(
        ("text", "rules"),
        [
            ("", CachingRules()),
            ("max_split_size_mb:20", CachingRules(max_split_bytes=20 * MIB)),
            (" max_split_size_mb : 128 ,", CachingRules(max_split_bytes=128 * MIB)),
            ("large_segment_size_mb:12", CachingRules(large_segment_bytes=12 * MIB)),
            (
                "max_split_size_mb:12,large_segment_size_mb:12",
                CachingRules(large_segment_bytes=12 * MIB, max_split_bytes=12 * MIB),
            ),
            ("max_non_split_rounding_mb:30", CachingRules(max_non_split_rounding_bytes=30 * MIB)),
            ("roundup_power2_divisions:4", CachingRules(power2_divisions=4)),
            # the lists and what 2.13 makes of them
            ("roundup_power2_divisions:[256:1,>:8]", CachingRules(power2_divisions=(1,) * 9 + (8,) * 7)),
            (
                "roundup_power2_divisions:[256:1, 512:2, 1024:4, >:8]",
                CachingRules(power2_divisions=(1,) * 9 + (2, 4) + (8,) * 5),
            ),
            ("roundup_power2_divisions:[4:2]", CachingRules(power2_divisions=(2,) * 3 + (0,) * 13)),
            ("roundup_power2_divisions:[>:8]", CachingRules(power2_divisions=(0,) + (8,) * 15)),
            ("roundup_power2_divisions:[64:0,128:4]", CachingRules(power2_divisions=(0,) * 7 + (4,) + (0,) * 8)),
            ("roundup_power2_divisions:[512:2,256:8]", CachingRules(power2_divisions=(2,) * 8 + (8, 2) + (0,) * 6)),
            ("roundup_power2_divisions:[65536:2,>:4]", CachingRules(power2_divisions=(2,) * 16)),
            ("expandable_segments:False,backend:native", CachingRules()),
            (
                "garbage_collection_threshold:0.8,max_split_size_mb:64,,roundup_power2_divisions:[1:2],backend:native",
                CachingRules(max_split_bytes=64 * MIB, power2_divisions=(2,) + (0,) * 15),
            ),
        ],
    )
    def test_what_is_honoured(self, text, rules):
        assert parse_alloc_conf(text) == rules

    @pytest.mark.parametrize("key", sorted(HARMLESS))
    def test_what_does_not_matter(self, key):
        assert parse_alloc_conf(f"{key}:1") == CachingRules()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("max_split_size_mb", "'max_split_size_mb' is not KEY:VALUE"),
            ("max_split_size_mb:", "'max_split_size_mb:' is not KEY:VALUE"),
            (":5", "':5' is not KEY:VALUE"),
            ("max_split_sizemb:128", "unknown option 'max_split_sizemb'\nDid you mean: max_split_size_mb"),
            ("max_split_size_mb:128MB", "max_split_size_mb: '128MB' is not a whole number"),
            ("max_split_size_mb:-1", "max_split_size_mb: '-1' is not a whole number"),
            ("max_split_size_mb:٣٢", "is not a whole number"),
            ("max_split_size_mb:19", "max_split_size_mb: 19 is below 20"),
            ("large_segment_size_mb:40,max_split_size_mb:30", "max_split_size_mb: 30 is below 40"),
            ("max_non_split_rounding_mb:19", "max_non_split_rounding_mb: 19 is below 20"),
            ("large_segment_size_mb:10", "large_segment_size_mb: 10 is not above 10"),
            ("roundup_power2_divisions:3", "roundup_power2_divisions: 3 is not a power of two"),
            ("roundup_power2_divisions:0", "roundup_power2_divisions: 0 is not a power of two"),
            ("roundup_power2_divisions:[3:4]", "roundup_power2_divisions: 3 is not a power of two"),
            ("roundup_power2_divisions:[4:3]", "roundup_power2_divisions: 3 is not a power of two"),
            ("roundup_power2_divisions:[4]", r"'[4]' is not a list"),
            ("roundup_power2_divisions:[4:2", r"'[4:2' is not a list"),
            ("expandable_segments:True", "expandable segments are not modelled"),
            ("expandable_segments:true", "'true' is neither True nor False"),
            ("backend:cudaMallocAsync", "the allocator 'cudaMallocAsync' is not modelled"),
        ],
    )
    def test_what_is_refused(self, text, message):
        with pytest.raises(UsageError) as caught:
            parse_alloc_conf(text, variable="CONF")
        assert str(caught.value).startswith("CONF: ")
        assert message in str(caught.value)
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("environment", "split_mib"),
        [
            ({}, None),
            ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:200"}, 200),
            ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:100"}, 100),
            ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:100", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:200"}, 200),
            ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:100", "PYTORCH_CUDA_ALLOC_CONF": ""}, None),
        ],
    )
    def test_the_old_name_of_the_variable_is_looked_for_first(self, environment, split_mib):
        assert rules_from_environment(environment).max_split_bytes == (split_mib and split_mib * MIB)

    def test_a_refusal_names_the_variable(self):
        with pytest.raises(UsageError, match="PYTORCH_ALLOC_CONF: unknown option 'a'"):
            rules_from_environment({"PYTORCH_ALLOC_CONF": "a:1"})


class TestFindCachingFault:
    start = ("segment", -1, 1000, 100)

    @pytest.mark.parametrize(
        ("rows", "fault"),
        [
            ([("hold", 1, 1000, 100), ("free", 1, 1000, 100), ("release", -1, 1000, 100)], ""),
            ([("hold", 1, 1000, 50), ("hold", 2, 1050, 50)], ""),
            ([("hold", 1, 1000, 51), ("hold", 2, 1050, 50)], "line 2: buffers 1 and 2 both take bytes [1050, 1051)"),
            ([("hold", 1, 1050, 51)], "line 1: buffer 1 takes bytes [1050, 1101), which are inside no segment"),
            ([("hold", 1, 1000, 50), ("hold", 1, 1050, 50)], "line 2: buffer 1 is held already"),
            ([("free", 1, 1000, 50)], "line 1: buffer 1 does not hold [1000, 1050)"),
            ([("hold", 1, 1000, 50), ("free", 1, 1000, 40)], "line 2: buffer 1 does not hold [1000, 1040)"),
            ([("segment", -1, 1099, 100)], "line 1: segment [1099, 1199) overlaps the one at 1000"),
            ([("segment", -1, 1100, 100), ("hold", 1, 1050, 100)], "line 2: buffer 1 takes bytes [1050, 1150)"),
            ([("hold", 1, 1000, 50), ("release", -1, 1000, 100)], "line 2: segment [1000, 1100) is released under buffer 1"),
            ([("release", -1, 1000, 50)], "line 1: there is no segment [1000, 1050) to release"),
            ([("hold", 1, 1000, 0)], "line 1: hold of 0 bytes"),
            ([("lend", 1, 1000, 1)], "line 1: unknown word 'lend'"),
        ],
    )
    def test_the_first_line_that_cannot_be_is_named(self, rows, fault):
        found = find_caching_fault([self.start, *rows])
        assert found.startswith(fault)
        assert bool(found) == bool(fault)

    def test_less_than_was_asked_for_is_named(self):
        rows = [self.start, ("hold", 1, 1000, 50)]
        assert find_caching_fault(rows, requested={1: 50}) == ""
        assert find_caching_fault(rows, requested={1: 51}) == "line 1: buffer 1 asked for 51 bytes and has 50"

    @pytest.mark.parametrize(
        ("free", "fault"),
        [
            ([(1050, 50)], ""),
            ([], "the blocks of the segment at 1000 end at 1050, not at 1100"),
            ([(1050, 25), (1075, 25)], "free blocks meet at byte 1075 and are not merged"),
            ([(1060, 40)], "bytes [1050, 1060) of the segment at 1000 are in no block or two"),
            ([(1040, 60)], "bytes [1040, 1050) of the segment at 1000 are in no block or two"),
            ([(1050, 50), (2000, 1)], "free block at 2000 is inside no segment"),
        ],
    )
    def test_free_and_held_blocks_tile_the_segments(self, free, fault):
        assert find_caching_fault([self.start, ("hold", 1, 1000, 50)], free=free) == fault
