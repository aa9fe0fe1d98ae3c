"""Scratch memory of 1x1 convolutions that cuDNN runs as matrix products of cuBLASLt, one of its engines.

cuDNN names the engine, without a GPU too (``cublaslt_stand_in``), and a knob says how much workspace cuBLASLt may take: none, 4
or 128 MiB. Within the limit cuBLASLt lists up to eight algorithms by a learned ranking, and cuDNN asks for the largest
workspace of any of them, plus 256 bytes. Measured on an H200 (cuDNN 9.19, cuBLAS 13.1): the same in 98.5 % of 9,190 calls, and
in the others (one pixel) if images count as rows.

Which algorithms are listed is not documented, so it is looked up in decision trees: grown on 657,000 products that were
asked there, by ``benchmarks/grow_products.py``, which prints how right they are on networks that they were not grown on.
What a leaf says is the unit of the workspace, and that is arithmetic: partial sums are whole copies of the output (in fp32,
or in the output's own type), or output tiles of a whole number of 16 KiB. The trees are Hopper's; elsewhere the closed form
stands (``pointwise``), within the limit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vramplan.ranges import Evidence, Range
from vramplan.units import KIB, MIB
from vramplan.workspace.pointwise import Product, pointwise_workspace_bytes
from vramplan.workspace.trees import Tree, read_trees

_WORKSPACE_KNOB = 25
"""CUDNN_KNOB_TYPE_WORKSPACE: the only knob of the engine of products."""

_LIMITS = {0: 0, 1: 4 * MIB, 2: 128 * MIB}
"""What the engine passes on to cuBLASLt, by the knob: seen in CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES."""

_ALIGNMENT_BYTES = 256
_TILE_BYTES = 16 * KIB
_MULTIPROCESSORS = 132
_MISSED_BYTES = 8 * MIB
"""How much more than the likely bytes it may be: less in 99.9 % of the calls that trees were not grown on."""

_TREES = Path(__file__).with_name("products_h200.npz")


def limit_of(reply: Mapping[str, Any]) -> int | None:
    """Bytes that cuBLASLt may take where *reply* names the engine of products; None where it names another."""
    knobs = {int(kind): value for kind, value in reply.get("knobs", {}).items()}
    return _LIMITS.get(knobs[_WORKSPACE_KNOB]) if set(knobs) == {_WORKSPACE_KNOB} else None


def product_workspace(product: Product, limit_bytes: int, capability: tuple[int, int] | None) -> Range:
    """Scratch of *product* on a device of compute *capability*, where cuBLASLt may take *limit_bytes*."""
    if limit_bytes == 0:
        return Range(low_bytes=0, nominal_bytes=0, high_bytes=0, evidence=Evidence.BOUNDED)
    most = limit_bytes + _ALIGNMENT_BYTES
    if capability != (9, 0):
        nominal = min(pointwise_workspace_bytes(product), most)
        high = min(most, 2 * nominal + 16 * MIB)
        return Range(low_bytes=0, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED)
    nominal, high = (min(most, size) for size in _looked_up(product, limit_bytes))
    high = min(most, max(high, nominal + _MISSED_BYTES))
    return Range(low_bytes=0, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED)


def _looked_up(product: Product, limit_bytes: int) -> list[int]:
    """Bytes by the tree: likely, and most."""
    if product.pixels == 1:  # one pixel an image: both layouts are the same, and the images are rows
        product = replace(product, channels_last=True)
    tree = _trees()[tree_name(product, limit_bytes)]
    unit = product.output_bytes
    return [label_bytes(label, unit) for label in tree.labels(features(product))]


@functools.cache
def _trees() -> Mapping[str, Tree]:
    return read_trees(_TREES)


def tree_name(product: Product, limit_bytes: int) -> str:
    """Which tree answers: by the width of an element, the layout and the limit."""
    return f"{product.bits}_{'last' if product.channels_last else 'rows'}_{limit_bytes // MIB}"


def label_bytes(label: int, output_bytes: int) -> int:
    """What a leaf means: nothing, so many copies of the output, or (below zero) so many tiles of 16 KiB."""
    if label == 0:
        return 0
    return _ALIGNMENT_BYTES + (label * output_bytes if label > 0 else -label * _TILE_BYTES)


def label_of(size_bytes: int, output_bytes: int) -> int:
    """The label of a measured workspace; sizes of a few KiB are counters, which are left out."""
    if size_bytes <= 512:
        return 0
    copies, rest = divmod(size_bytes, output_bytes)
    if copies and rest <= 520:
        return copies
    tiles, rest = divmod(size_bytes, _TILE_BYTES)
    return -tiles if rest < 2 * KIB else 0


FEATURES = ("bf16", "images", "rows", "columns", "sum", "rows_by", "columns_by", "sum_by", "output", "tiles", "small_tiles",
            "tall_tiles", "wide_tiles", "waves", "sum_a_tile", "shape", "density")  # fmt: skip


def features(product: Product) -> Sequence[float]:
    """What a tree asks about: sizes, the powers of two that divide them, output tiles, and how many rounds those take.

    Row-major images are a batch of products, pixels by outputs; channels_last is one of outputs by all pixels.
    """
    if product.channels_last:
        images, rows, columns = 1, product.outputs, product.images * product.pixels
    else:
        images, rows, columns = product.images, product.pixels, product.outputs
    output = images * rows * columns
    tiles = images * -(-rows // 128) * -(-columns // 128)
    return (
        float(product.is_bfloat16),
        images,
        rows,
        columns,
        product.channels,
        _power(rows),
        _power(columns),
        _power(product.channels),
        output,
        tiles,
        images * -(-rows // 64) * -(-columns // 64),
        images * -(-rows // 256) * -(-columns // 128),
        images * -(-rows // 128) * -(-columns // 256),
        tiles / _MULTIPROCESSORS,
        product.channels / tiles,
        rows / columns,
        product.channels / math.sqrt(output),
    )


def _power(size: int) -> int:
    """The largest power of two, up to 64, that divides *size*: what one load can take at once."""
    return min(size & -size, 64)
