"""Whatever the problem, the checker finds no fault and the totals keep their bounds."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.offsets import assign_offsets, place_in_order
from vramplan.allocators.placement import NO_BLOCK, Request, aligned_sizes
from vramplan.allocators.validation import find_blocks_fault, find_placement_fault
from vramplan.program import Lifetime

SIZES = st.integers(0, 2000)
ALIGNMENTS = st.sampled_from([1, 2, 7, 256, 512])


def requests(max_size, steps=20, sizes=SIZES):
    lifetimes = st.tuples(st.integers(0, steps), st.integers(1, steps)).map(lambda pair: Lifetime(pair[0], pair[0] + pair[1]))
    return st.lists(st.builds(Request, sizes, lifetimes), max_size=max_size)


def largest_by_hand(problem):
    return sorted(
        (index for index in range(len(problem)) if problem[index].size_bytes > 0),
        key=lambda index: (-problem[index].size_bytes, problem[index].lifetime.start, index),
    )


@given(requests(40), ALIGNMENTS)
def test_offsets_are_valid_and_bounded(problem, alignment):
    placement = assign_offsets(problem, alignment=alignment)
    assert find_placement_fault(problem, placement, alignment=alignment) == ""
    assert largest_live_set(problem, alignment=alignment) <= placement.total_bytes <= sum(aligned_sizes(problem, alignment))


@given(requests(40), ALIGNMENTS)
def test_blocks_are_valid_and_bounded(problem, alignment):
    blocks = assign_blocks(problem, alignment=alignment)
    assert find_blocks_fault(problem, blocks) == ""
    assert largest_live_set(problem, alignment=alignment) <= blocks.total_bytes <= sum(aligned_sizes(problem, alignment))
    assert all(size % alignment == 0 for size in blocks.sizes)


@given(requests(40))
def test_the_lower_bound_is_the_largest_sum_at_any_step(problem):
    sums = [sum(size for size, lifetime in problem if lifetime.start <= step < lifetime.stop) for step in range(41)]
    assert largest_live_set(problem) == max(sums)


@given(requests(25))
def test_each_offset_is_the_lowest_that_the_larger_buffers_leave(problem):
    placement = assign_offsets(problem)
    order = largest_by_hand(problem)
    for rank, index in enumerate(order):
        size, lifetime = problem[index]
        placed = [
            (placement.offsets[other], placement.offsets[other] + problem[other].size_bytes)
            for other in order[:rank]
            if lifetime.overlaps(problem[other].lifetime)
        ]
        fitting = [
            at for at in (0, *(end for _, end in placed)) if all(end <= at or at + size <= begin for begin, end in placed)
        ]
        assert placement.offsets[index] == min(fitting)


@given(requests(25))
def test_each_block_is_the_first_that_the_larger_buffers_leave(problem):
    blocks = assign_blocks(problem, alignment=1)
    order = largest_by_hand(problem)
    for rank, index in enumerate(order):
        busy = {blocks.block_of[other] for other in order[:rank] if problem[index].lifetime.overlaps(problem[other].lifetime)}
        assert blocks.block_of[index] == min(set(range(len(order))) - busy)


@given(requests(20), ALIGNMENTS)
def test_the_same_problem_has_the_same_answer(problem, alignment):
    assert assign_offsets(problem, alignment=alignment) == assign_offsets(tuple(problem), alignment=alignment)
    assert assign_blocks(problem, alignment=alignment) == assign_blocks(tuple(problem), alignment=alignment)


@given(requests(20), st.integers(-1000, 1000), st.integers(1, 5))
def test_only_the_order_of_steps_matters(problem, shift, stretch):
    moved = [Request(size, Lifetime(start * stretch + shift, stop * stretch + shift)) for size, (start, stop) in problem]
    assert assign_offsets(moved) == assign_offsets(problem)
    assert assign_blocks(moved) == assign_blocks(problem)


@given(requests(20), st.integers(0, 20))
def test_buffers_of_no_bytes_change_nothing(problem, step):
    empty = Request(0, Lifetime(step, step + 3))
    with_empty = assign_offsets([empty, *problem])
    assert (with_empty.offsets[0], with_empty.offsets[1:]) == (0, assign_offsets(problem).offsets)
    assert assign_blocks([empty, *problem]).block_of == (NO_BLOCK, *assign_blocks(problem).block_of)


@settings(max_examples=40)
@given(requests(6, steps=6, sizes=st.integers(0, 9)))
def test_greedy_lies_between_the_optimum_and_the_sum(problem):
    """Some order of placing reaches the optimum: push the buffers of an optimum down, then place them from low to high."""
    sizes = [size for size, _ in problem]
    needy = [index for index, size in enumerate(sizes) if size > 0]
    optimum = min(place_in_order(problem, sizes, order).total_bytes for order in permutations(needy))
    assert largest_live_set(problem) <= optimum <= assign_offsets(problem).total_bytes <= sum(sizes)
