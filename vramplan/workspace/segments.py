"""Partial sums of Hopper's convolution kernels that share output tiles, which cuDNN cannot size without a GPU.

Such a kernel runs as many blocks as fit on the device at once, and each takes one output tile after the other. Where the last
round has few tiles left, several blocks may share a tile, each with its own fp32 partial sum. How many blocks fit depends on
the clusters that the chip's disabled multiprocessors leave room for, which only the device knows; without one, cuDNN assumes
something else. The kernel itself (tile, cluster) it does name: the same as on the device in every one of 4,600 calls.

What is arithmetic: tiles left = tiles modulo blocks that fit; a partial sum has the bytes of a tile in fp32. Whether sharing
pays, and among how many, cuDNN decides by lengths of sums in a way that is not documented. That is a vote of decision trees
(``segments_h200.npz``), grown by ``benchmarks/grow_segments.py`` on recorded calls of an H200; where they disagree, the range
begins without any. Clusters that fit are an H200's; other chips of the family are scaled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vramplan.dtypes import DType
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.trees import Tree, read_trees, vote

_WORKSPACE_KNOB, _TILE_KNOB, _CLUSTER_ROWS_KNOB, _CLUSTER_COLUMNS_KNOB = 25, 2, 27, 28
"""cudnnBackendKnobType_t: WORKSPACE, TILE_SIZE, TILE_CGA_M, TILE_CGA_N (``cudnn_graph.h``)."""

_TILES = {0: (128, 128), 1: (128, 64), 3: (256, 128), 4: (64, 128), 5: (64, 64), 6: (256, 128), 7: (64, 256), 9: (64, 256),
          20: (256, 96)}  # fmt: skip
"""Output pixels by output channels of a tile, by the value of the tile knob."""

_BLOCKS = {1: 132, 2: 132, 3: 129, 4: 124, 5: 115, 6: 120, 7: 105, 8: 120}
"""Blocks at once on an H200 (132 multiprocessors), by the size of a cluster."""

_MULTIPROCESSORS = 132
_STEP_BYTES = 128
"""Bytes of one row that one step of the sum takes in: 64 values of 16 bits, 32 of fp32."""

LABEL_UNIT = 64
"""A label of the trees is in 64ths of a partial sum for each tile left."""

_TREES = Path(__file__).with_name("segments_h200.npz")


class Left(NamedTuple):
    """The last round: how many tiles are left after the whole rounds before it, and how long their sums are."""

    tile: tuple[int, int]
    cluster: int
    blocks: int
    rounds: int
    tiles: int
    steps: int

    @property
    def tile_bytes(self) -> int:
        """One partial sum."""
        return self.tile[0] * self.tile[1] * 4


class Partial(NamedTuple):
    """Bytes of partial sums: likely, least and most."""

    nominal_bytes: int
    low_bytes: int
    high_bytes: int


def shares_tiles(knobs: Mapping[int, int]) -> bool:
    """Whether a kernel with these *knobs* may let several blocks share an output tile."""
    return _CLUSTER_ROWS_KNOB in knobs and _CLUSTER_COLUMNS_KNOB in knobs and knobs.get(_WORKSPACE_KNOB) == 0


def is_modelled(knobs: Mapping[int, int], call: ConvCall) -> bool:
    """Whether the trees were grown on kernels like this one: a known tile, and no groups of channels."""
    return shares_tiles(knobs) and knobs.get(_TILE_KNOB) in _TILES and call.groups == 1


def partial_sums(call: ConvCall, knobs: Mapping[int, int], sm_count: int) -> Partial:
    """Partial sums that a kernel with these *knobs* asks for, on a Hopper with *sm_count* multiprocessors.

    *call* and *knobs* are modelled (`is_modelled`).
    """
    left = last_round(call, knobs, sm_count)
    if not left.tiles:
        return Partial(0, 0, 0)
    return Partial(*(_bytes(left, label) for label in vote(_trees(), features(call, left))))


def last_round(call: ConvCall, knobs: Mapping[int, int], sm_count: int) -> Left:
    """What is left when all whole rounds are done."""
    rows, columns = _TILES[knobs[_TILE_KNOB]]
    cluster = knobs[_CLUSTER_ROWS_KNOB], knobs[_CLUSTER_COLUMNS_KNOB]
    output = call.output_shape
    row_count = _filled(-(-output[0] * math.prod(output[2:]) // rows), cluster[0])
    column_count = _filled(-(-output[1] // columns), cluster[1])
    blocks = _blocks(cluster[0] * cluster[1], sm_count)
    rounds, tiles = divmod(row_count * column_count, blocks)
    steps = -(-call.input_shape[1] * call.dtype.bits // 8 // _STEP_BYTES) * math.prod(call.weight_shape[2:])
    return Left((rows, columns), cluster[0] * cluster[1], blocks, rounds, tiles, steps)


def features(call: ConvCall, left: Left) -> Sequence[float]:
    """What a tree asks about: the type, the tile and its cluster, rounds, tiles left, and the length of their sums.

    ``left`` has tiles (`partial_sums`).
    """
    sharing = left.blocks // left.tiles
    is_bfloat16 = float(call.dtype is DType.BFLOAT16)
    sizes = (*left.tile, left.cluster, left.rounds, left.tiles, left.steps)
    return is_bfloat16, call.dtype.bits, *sizes, sharing, left.steps / sharing, left.tiles / left.blocks


def label_of(partial_bytes: int, left: Left) -> int:
    """The label of measured partial sums; counters, less than one tile, are left out."""
    return round(partial_bytes // left.tile_bytes * LABEL_UNIT / left.tiles)


def _bytes(left: Left, label: int) -> int:
    """Partial sums and a counter for each of them."""
    count = round(label * left.tiles / LABEL_UNIT)
    return count * (left.tile_bytes + 4)


@functools.cache
def _trees() -> tuple[Tree, ...]:
    return tuple(read_trees(_TREES).values())


def _filled(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _blocks(cluster: int, sm_count: int) -> int:
    known = _BLOCKS.get(cluster, _BLOCKS[8])
    return max(cluster, known * sm_count // _MULTIPROCESSORS // cluster * cluster)
