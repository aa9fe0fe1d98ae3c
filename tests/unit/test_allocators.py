"""Problems as timelines, answers as numbers that can be added up by hand."""

import pytest

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.offsets import assign_offsets
from vramplan.allocators.placement import NO_BLOCK, Blocks, Placement, Request
from vramplan.allocators.validation import find_blocks_fault, find_placement_fault
from vramplan.program import Lifetime


def read_timeline(text: str) -> list[Request]:
    """One line a buffer: its size, then a column a step, ``#`` where it is held."""
    requests = []
    for line in text.strip().splitlines():
        size, steps = line.strip().split(" ", 1)
        start = steps.index("#")
        requests.append(Request(int(size), Lifetime(start, start + steps.count("#"))))
    return requests


def test_a_chain_alternates_between_two_ends():
    chain = read_timeline("""
        4 ##...
        4 .##..
        4 ..##.
        4 ...##
    """)
    assert assign_offsets(chain) == Placement(offsets=(0, 4, 0, 4), total_bytes=4 + 4)


def test_buffers_that_never_meet_share_their_bytes():
    assert assign_offsets(read_timeline("4 #..\n3 .#.\n2 ..#")) == Placement(offsets=(0, 0, 0), total_bytes=4)


def test_buffers_that_all_meet_lie_side_by_side_largest_first():
    assert assign_offsets(read_timeline("1 ##\n2 ##\n3 ##")) == Placement(offsets=(3 + 2, 3, 0), total_bytes=3 + 2 + 1)


def test_half_open_lifetimes_that_touch_do_not_overlap():
    touching = [Request(7, Lifetime(0, 5)), Request(7, Lifetime(5, 9))]
    assert assign_offsets(touching) == Placement(offsets=(0, 0), total_bytes=7)


def test_ties_in_size_go_by_start_then_by_index():
    tied = read_timeline("""
        4 .##
        4 ##.
        4 .##
    """)
    assert assign_offsets(tied).offsets == (4, 0, 8)


def test_the_lowest_gap_that_fits_is_taken_even_when_a_higher_one_is_tighter():
    requests = read_timeline("""
        9 ###..
        8 .##..
        7 ..##.
        5 ...##
    """)
    # 9 at 0, 8 at 9, 7 at 17; the 5 meets only the 7 at [17, 24), so it takes byte 0
    assert assign_offsets(requests) == Placement(offsets=(0, 9, 17, 0), total_bytes=9 + 8 + 7)


def test_a_hole_is_filled_when_it_is_large_enough_and_passed_over_when_it_is_not():
    requests = read_timeline("""
        9 ##...
        8 .##..
        7 ..##.
        6 ..###
    """)
    # 9 at 0, 8 at 9 (above the 9), 7 at 0 (the 9 is gone), 6 meets 8 and 7: the hole [7, 9) is too small, so it goes on top
    assert assign_offsets(requests) == Placement(offsets=(0, 9, 0, 9 + 8), total_bytes=9 + 8 + 6)
    smaller = [*requests[:3], Request(2, Lifetime(2, 5))]
    assert assign_offsets(smaller) == Placement(offsets=(0, 9, 0, 7), total_bytes=9 + 8)


def test_greedy_is_not_always_the_least_possible():
    requests = read_timeline("""
        2 #.....
        2 ...###
        1 ###...
        1 ..##..
    """)
    # both 2s go to byte 0, the 1s must then dodge one each and each other: 2 + 1 + 1; the optimum is the live set
    assert assign_offsets(requests) == Placement(offsets=(0, 0, 2, 3), total_bytes=2 + 1 + 1)
    assert find_placement_fault(requests, Placement(offsets=(0, 1, 2, 0), total_bytes=2 + 1)) == ""
    assert largest_live_set(requests) == 2 + 1


def test_sizes_are_rounded_up_so_that_every_offset_is_aligned():
    placement = assign_offsets(read_timeline("100 #\n257 #\n1 #"), alignment=256)
    assert placement == Placement(offsets=(512, 0, 768), total_bytes=512 + 256 + 256)


def test_buffers_of_no_bytes_lie_at_zero_and_cost_nothing():
    assert assign_offsets(read_timeline("0 ##\n5 ##\n0 .#"), alignment=4) == Placement(offsets=(0, 0, 0), total_bytes=8)


def test_nothing_to_place_needs_nothing():
    assert assign_offsets([]) == Placement(offsets=(), total_bytes=0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(-1, Lifetime(0, 1)), "request 1 cannot be placed: -1 bytes"),
        (Request(1, Lifetime(3, 3)), r"request 1 cannot be placed: 1 bytes, steps \[3, 3\)"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        assign_offsets([Request(1, Lifetime(0, 1)), request_])


def test_an_alignment_below_one_is_refused():
    with pytest.raises(ValueError, match="alignment must be at least 1, not 0"):
        assign_offsets([], alignment=0)


def test_the_largest_live_set_counts_half_open_steps_and_alignment():
    requests = read_timeline("""
        5 ##..
        6 .##.
        7 ..##
    """)
    assert largest_live_set(requests) == 6 + 7
    assert largest_live_set(requests, alignment=4) == 8 + 8
    assert largest_live_set([]) == 0


def test_fifty_thousand_buffers_of_a_chain_are_placed():
    chain = [Request(1 + i * 7919 % 4096, Lifetime(i, i + 2 + i % 3)) for i in range(50_000)]
    placement = assign_offsets(chain, alignment=256)
    assert placement.total_bytes < 2 * largest_live_set(chain, alignment=256)


def test_twenty_thousand_nested_lifetimes_are_placed():
    stack = [Request(512, Lifetime(i, 40_000 - i)) for i in range(20_000)]
    assert assign_offsets(stack).total_bytes == 512 * 20_000


def test_a_placement_outside_its_block_cannot_be_written_down():
    with pytest.raises(ValueError, match=r"offsets 0\.\.9 outside a block of 8 bytes"):
        Placement(offsets=(0, 9), total_bytes=8)


class TestFindPlacementFault:
    requests = read_timeline("""
        4 ##.
        4 .##
    """)

    def test_a_right_placement_has_none(self):
        assert find_placement_fault(self.requests, Placement(offsets=(0, 4), total_bytes=8)) == ""

    def test_a_pair_that_shares_bytes_is_named(self):
        fault = find_placement_fault(self.requests, Placement(offsets=(0, 3), total_bytes=8))
        assert fault == "buffers 0 and 1 both take bytes [3, 4) during steps [1, 2)"

    def test_a_buffer_that_runs_out_of_the_block_is_named(self):
        fault = find_placement_fault(self.requests, Placement(offsets=(0, 5), total_bytes=8))
        assert fault == "buffer 1 takes bytes [5, 9) of a block of 8"

    def test_an_unaligned_offset_is_named(self):
        fault = find_placement_fault(self.requests, Placement(offsets=(0, 6), total_bytes=16), alignment=4)
        assert fault == "buffer 1 begins at byte 6, which is not a multiple of 4"

    def test_a_missing_offset_is_counted(self):
        assert find_placement_fault(self.requests, Placement(offsets=(0,), total_bytes=8)) == "2 buffers, but 1 offsets"


def test_two_published_blocks_of_mnist_add_up():
    """TensorRT's log of its MNIST sample: 25,088 + 6,272 rounded up to 6,656 = 31,744 bytes in two blocks."""
    mnist = [
        Request(8 * 28 * 28 * 4, Lifetime(0, 2)),  # convolution, 8 channels of 28 x 28
        Request(8 * 14 * 14 * 4, Lifetime(1, 3)),  # pooled to 14 x 14
        Request(16 * 14 * 14 * 4, Lifetime(2, 4)),  # convolution, 16 channels
        Request(16 * 4 * 4 * 4, Lifetime(3, 5)),  # pooled to 4 x 4
    ]
    blocks = assign_blocks(mnist)
    assert blocks.sizes == (25_088, 6_656)
    assert blocks.block_of == (0, 1, 0, 1)
    assert blocks.total_bytes == 31_744


def test_a_chain_of_one_size_needs_two_blocks_however_long_it_is():
    chain = [Request(1000, Lifetime(i, i + 2)) for i in range(100)]
    assert assign_blocks(chain).sizes == (1024, 1024)


def test_a_chain_of_many_sizes_can_need_a_third():
    requests = read_timeline("""
        4 ##....
        3 .##...
        2 ..##..
        4 ...##.
        1 ....##
    """)
    # both 4s are in block 0, so the 2, which meets one of them and the 3, finds neither block free
    assert assign_blocks(requests, alignment=1) == Blocks(block_of=(0, 1, 2, 0, 1), sizes=(4, 3, 2))


def test_a_block_is_not_split_between_buffers():
    requests = read_timeline("""
        8 #..
        4 .##
        4 .##
    """)
    # two offsets of 4 would fit where the 8 was; two blocks of 8 and 4 do not share
    assert assign_blocks(requests, alignment=1) == Blocks(block_of=(0, 0, 1), sizes=(8, 4))


def test_the_first_block_that_is_free_is_taken_not_the_tightest():
    requests = read_timeline("""
        9 #..
        5 #..
        5 .#.
    """)
    assert assign_blocks(requests, alignment=1).block_of == (0, 1, 0)


def test_ties_in_size_go_by_start():
    assert assign_blocks(read_timeline("4 .##\n4 ##."), alignment=1).block_of == (1, 0)


def test_buffers_of_no_bytes_open_no_block():
    assert assign_blocks(read_timeline("0 ##\n5 ##"), alignment=1) == Blocks(block_of=(NO_BLOCK, 0), sizes=(5,))


def test_nothing_to_place_needs_no_block():
    assert assign_blocks([]) == Blocks(block_of=(), sizes=())


def test_blocks_that_are_not_there_cannot_be_written_down():
    with pytest.raises(ValueError, match=r"blocks 0\.\.1 where there are 1"):
        Blocks(block_of=(0, 1), sizes=(4,))
    with pytest.raises(ValueError, match="block sizes do not descend"):
        Blocks(block_of=(0, 1), sizes=(4, 5))


class TestFindBlocksFault:
    requests = read_timeline("""
        4 ##.
        3 .##
    """)

    def test_a_right_assignment_has_none(self):
        assert find_blocks_fault(self.requests, Blocks(block_of=(0, 1), sizes=(4, 3))) == ""

    def test_a_pair_in_one_block_is_named(self):
        fault = find_blocks_fault(self.requests, Blocks(block_of=(0, 0), sizes=(4,)))
        assert fault == "buffers 0 and 1 are both in block 0 during steps [1, 2)"

    def test_a_block_too_small_is_named(self):
        fault = find_blocks_fault(self.requests, Blocks(block_of=(1, 0), sizes=(4, 3)))
        assert fault == "buffer 0 needs 4 bytes, but its block 1 has 3"

    def test_a_buffer_without_a_block_is_named(self):
        fault = find_blocks_fault(self.requests, Blocks(block_of=(0, NO_BLOCK), sizes=(4,)))
        assert fault == "buffer 1 has no block: its number is -1 of 1"

    def test_a_missing_block_number_is_counted(self):
        assert find_blocks_fault(self.requests, Blocks(block_of=(0,), sizes=(4,))) == "2 buffers, but 1 block numbers"
