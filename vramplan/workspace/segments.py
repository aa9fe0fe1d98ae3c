"""Partial sums of Hopper's convolution kernels that share output tiles, which cuDNN cannot size without a GPU.

Such a kernel runs as many blocks as fit on the device at once, and each takes one output tile after the other. Where the last
round has few tiles left, several blocks share a tile, each with its own fp32 partial sum. How many blocks fit depends on the
clusters that the chip's damaged-and-disabled multiprocessors leave room for, which only the device knows; without one, cuDNN
assumes something else. The kernel itself (tile, cluster) it does name.

The rule: tiles left = tiles modulo blocks that fit; each is shared by as many blocks as there are to go round, if its sum is
long enough. Clusters that fit are an H200's; other chips of the family are scaled. The rule was read off all measured calls of
such kernels (515), not off one half, so no half judges this rule alone; ``benchmarks/conv_workspace.py``
prints both. Without it 94 % of the spatial kernels are right to 512 bytes, with it 99 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vramplan.workspace.convolution import ConvCall

_WORKSPACE_KNOB, _TILE_KNOB, _CLUSTER_ROWS_KNOB, _CLUSTER_COLUMNS_KNOB = 25, 2, 27, 28
"""cudnnBackendKnobType_t: WORKSPACE, TILE_SIZE, TILE_CGA_M, TILE_CGA_N (``cudnn_graph.h``)."""

_TILES = {0: (128, 128), 1: (128, 64), 3: (256, 128), 4: (64, 128), 5: (64, 64), 6: (256, 128), 9: (64, 256), 20: (256, 96)}
"""Output pixels by output channels of a tile, by the value of the tile knob."""

_BLOCKS = {1: 132, 2: 132, 3: 129, 4: 124, 5: 115, 6: 120, 7: 105, 8: 120}
"""Blocks at once on an H200 (132 multiprocessors), by the size of a cluster."""

_MULTIPROCESSORS = 132
_STEP_BYTES = 128
"""Bytes of one row that one step of the sum takes in: 64 values of 16 bits, 32 of fp32."""

_TOO_SHORT_STEPS, _BARELY_STEPS = 16, 27
"""Sums that are not worth sharing, at all or among two."""

_LONG_STEPS, _SHORT_STEPS = 72, 36
"""Sums of fewer steps are shared by two blocks at most, the longer limit where many blocks are free."""


def shares_tiles(knobs: Mapping[int, int]) -> bool:
    """Whether a kernel with these *knobs* may let several blocks share an output tile."""
    return _CLUSTER_ROWS_KNOB in knobs and _CLUSTER_COLUMNS_KNOB in knobs and knobs.get(_WORKSPACE_KNOB) == 0


def is_modelled(knobs: Mapping[int, int], call: ConvCall) -> bool:
    """Whether the rule was fitted on kernels like this one: a known tile, and no groups of channels."""
    return shares_tiles(knobs) and knobs.get(_TILE_KNOB) in _TILES and call.groups == 1


def partial_sums_bytes(call: ConvCall, knobs: Mapping[int, int], sm_count: int) -> int:
    """Bytes of partial sums that a kernel with these *knobs* asks for, on a Hopper with *sm_count* multiprocessors.

    *call* and *knobs* are modelled (`is_modelled`).
    """
    rows, columns = _TILES[knobs[_TILE_KNOB]]
    cluster = knobs[_CLUSTER_ROWS_KNOB], knobs[_CLUSTER_COLUMNS_KNOB]
    output = call.output_shape
    row_count = _filled(-(-output[0] * math.prod(output[2:]) // rows), cluster[0])
    column_count = _filled(-(-output[1] // columns), cluster[1])
    blocks = _blocks(cluster[0] * cluster[1], sm_count)
    whole_rounds, left = divmod(row_count * column_count, blocks)
    if not left:
        return 0
    steps = -(-call.input_shape[1] * call.dtype.bits // 8 // _STEP_BYTES) * math.prod(call.weight_shape[2:])
    parts = _parts(blocks // left, steps, most=rows * columns, bits=call.dtype.bits)
    if parts < 2:
        return 0
    if parts == 2 and whole_rounds and cluster[0] * cluster[1] in (4, 8):
        left = max(left, 16)
    counters_bytes = 4 * (left if parts == 2 else left * parts)
    return left * parts * rows * columns * 4 + counters_bytes


def _filled(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _blocks(cluster: int, sm_count: int) -> int:
    known = _BLOCKS.get(cluster, _BLOCKS[8])
    return max(cluster, known * sm_count // _MULTIPROCESSORS // cluster * cluster)


def _parts(available: int, steps: int, *, most: int, bits: int) -> int:
    """Blocks that share a tile, of *available*: none below three steps each, and few where the sum is short."""
    if steps < _TOO_SHORT_STEPS or (steps < _BARELY_STEPS and available < 3):
        return 1
    if available <= 4:
        return available if steps >= _SHORT_STEPS else min(available, 2)
    if steps < _LONG_STEPS:
        return 2
    if available < 15:
        return 4
    least = 3 if bits == 16 and most <= 128 * 128 else 4
    return -(-steps // max(least, -(-steps // available)))
