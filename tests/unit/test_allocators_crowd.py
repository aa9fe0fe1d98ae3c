import random

import pytest

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.crowd import CROWD_LIMIT, is_crowded, share_in_turn
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.offsets import assign_offsets
from vramplan.allocators.placement import Request
from vramplan.allocators.validation import find_blocks_fault, find_placement_fault
from vramplan.program import Lifetime


def random_requests(count, seed=0):
    chance = random.Random(seed)
    steps = [(chance.randrange(count), chance.randrange(1, count)) for _ in range(count)]
    return [Request(chance.randrange(0, 4096), Lifetime(start, start + length)) for start, length in steps]


def test_a_problem_is_crowded_when_many_live_at_once():
    count = 2500
    together = [Request(1, Lifetime(0, 1))] * count  # 2500 * 2500 = 6.25 million
    one_by_one = [Request(1, Lifetime(step, step + 1)) for step in range(count)]
    assert count**2 > CROWD_LIMIT
    assert is_crowded(together)
    assert not is_crowded(one_by_one)


@pytest.fixture
def no_limit(monkeypatch):
    monkeypatch.setattr("vramplan.allocators.crowd.CROWD_LIMIT", 0)


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_valid_and_no_better_than_possible(no_limit, seed):
    requests = random_requests(60, seed)
    placement, blocks = assign_offsets(requests, alignment=512), assign_blocks(requests)
    assert find_placement_fault(requests, placement, alignment=512) == ""
    assert find_blocks_fault(requests, blocks) == ""
    live, everything = largest_live_set(requests, alignment=512), sum(-(-r.size_bytes // 512) * 512 for r in requests)
    assert live <= placement.total_bytes == blocks.total_bytes <= everything


def test_a_free_block_grows_before_a_new_one_opens():
    # a [0, 1) 2 bytes   b [1, 2) 5 bytes: one block of 5
    requests = [Request(2, Lifetime(0, 1)), Request(5, Lifetime(1, 2))]
    assert share_in_turn(requests, [2, 5]) == ([0, 0], [5])
