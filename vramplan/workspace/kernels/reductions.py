"""Reductions that are the work of several blocks."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.workspace.kernels.scratch import Scratch, held


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A reduction after TensorIterator has merged dimensions: how many outputs, inputs for each, and how they lie.

    `reduced_fastest`: the reduced dimension has the smaller stride (mean over height and width of a row-major image); false
    for channels_last. `merged`: the reduced dimensions are one (two row-major image dimensions merge, a full reduction of a
    dense tensor does). `output_vector` is the largest of 4, 2, 1 that divides the fastest output dimension, the other strides
    and the address, in elements; `vector` how many inputs a thread reads at once (4; some half kernels may use 8).

    Invariant: `output_vector` divides `output_count`.
    """

    output_count: int
    input_count: int
    accumulator_bytes: int
    reduced_fastest: bool
    merged: bool = True
    output_vector: int = 4
    vector: int = 4


def reduce(reduction: Reduction, *, multiprocessor_count: int, threads_per_multiprocessor: int = 2048) -> tuple[Scratch, ...]:
    """Reduce.cuh `setReduceConfig`, `global_memory_size`, `semaphore_size`: none unless one output is split over blocks.

    The semaphores are freed first. Tensors beyond 32-bit indexing are cut up first: not modelled. Accumulators take 4 bytes for
    sums and means of half and fp32, 8 for float64 and int64; extremes keep their own type, and take 16 bytes with an index;
    variance takes 16. `threads_per_multiprocessor` is 2048 on data-centre cards, 1536 on 8.6, 8.9 and 12.0, 1024 on 7.5.
    """
    if not reduction.output_count or not reduction.input_count:
        return ()
    outputs, inputs = reduction.output_count, reduction.input_count
    wide, vector = (inputs, outputs) if reduction.reduced_fastest else (outputs, inputs), 1
    width, height = wide
    if reduction.reduced_fastest:
        if width >= 128 and reduction.merged:
            width //= reduction.vector
    else:
        vector = reduction.output_vector
        width //= vector
    block_width, block_height = _block(width, height, 512 // vector)
    step_input = block_width if reduction.reduced_fastest else 1
    step_output = 1 if reduction.reduced_fastest else block_width
    across = -(-inputs // step_input) >= min(block_height * 16, 256)
    step_input, step_output = (step_input * block_height, step_output) if across else (step_input, step_output * block_height)
    grid = -(-(outputs // vector) // step_output)
    target = multiprocessor_count * (threads_per_multiprocessor // (block_width * block_height))
    values = -(-inputs // step_input)
    if not across or values < 256 or grid > target:
        return ()
    blocks = max(min(-(-target // grid), -(-values // 16)), -(-values // 256))
    if blocks <= 1:
        return ()
    size = reduction.accumulator_bytes * outputs * blocks
    if not reduction.reduced_fastest:
        size *= block_width * vector
    return held(Scratch(name="buffer", size_bytes=size), Scratch(name="semaphores", size_bytes=4 * grid))


def _block(width: int, height: int, threads: int) -> tuple[int, int]:
    """Reduce.cuh `set_block_dimension`."""
    wide = _last_power(width) if width < threads else threads
    high = _last_power(height) if height < threads else threads
    block_width = min(wide, 32)
    block_height = min(high, threads // block_width)
    return min(wide, threads // block_height), block_height


def _last_power(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1
