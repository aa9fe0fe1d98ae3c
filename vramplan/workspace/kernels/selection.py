"""Sorting and selecting: cub's buffers and PyTorch's own around them."""

from __future__ import annotations

from math import prod

from vramplan.dtypes import DType
from vramplan.workspace.kernels.scratch import HALF, Scratch, Shape, held, item_bytes

_SMALL_SORT = 4096
"""Sort.h `should_use_small_sort`: up to here a slice is sorted in place."""
_FULL_SORT_SEGMENTS = 128
_LARGE_SORT = 1_000_000
_TOPK_MULTIBLOCK = ((20, 20_000), (40, 10_000), (80, 8_000), (199, 5_000), (799, 3_000), (4_000, 800))
"""TensorTopK.cu `should_use_multiblock`: up to so many slices, from so long a slice; above 4000 slices from 400."""
_REGISTERS_PER_MULTIPROCESSOR = 65_536
_ALIGNMENT = 256
_SINGLE_TILE = 4864
"""Up to here cub does the whole in one block (seen at 1000, not at 8400)."""
_SCAN_TILE = 4224
"""Between 4181 and 4267 in recordings on an H200."""
_UNIQUE_TILES = {2: 1280, 4: 6400}
"""By bytes of an element: 1250 to 1333, and from 6250 on, in recordings on an H200."""
_ONESWEEP_TILES = {(2, 8): 5632, (4, 8): 5376, (2, 0): 9728, (4, 0): 6912}
_ONESWEEP_TILE = 4096
_SEGMENT_TILE = 5760


def sort(shape: Shape, dim: int, dtype: DType, *, dense_along_dim: bool = True) -> tuple[Scratch, ...]:
    """Sort.cpp `sort_cuda_kernel` and SortStable.cu, after values and indices; `argsort` frees its values later.

    Up to 4096: one row of int64 indices is made and copied, then the sort is in place (bitonic, warp merge or block
    radix in shared memory). Longer: cub, by segment (1 or a million long), all at once (up to 127 segments) or segmented.
    All at once sorts twice: by key, then by segment, when the first storage and the sorted keys are gone again.
    Inputs not dense along *dim* are copied, with values and indices to match.
    """
    length, count, item = shape[dim], prod(shape), item_bytes(dtype)
    if not count:
        return ()
    if length <= _SMALL_SORT:
        return held(Scratch(name="index_row", size_bytes=length * 8))
    segments = count // length
    copies = () if dense_along_dim else (("input_copy", item), ("values_copy", item), ("indices_copy", 8))
    made = [Scratch(name=name, size_bytes=count * size) for name, size in copies]
    if segments == 1 or length >= _LARGE_SORT:
        made += [Scratch(name="indices_in", size_bytes=length * 8), _cub("sort_storage", sort_storage(length, item, 8))]
    elif segments < _FULL_SORT_SEGMENTS:
        made += [
            Scratch(name="index_and_segment", size_bytes=count * 8),
            Scratch(name="index_and_segment_sorted", size_bytes=count * 8),
            Scratch(name="keys_out", size_bytes=count * item),
            _cub("sort_storage", sort_storage(count, item, 8)),
            _cub("segment_storage", _onesweep_storage(count, passes=1, tile=_SEGMENT_TILE)),
        ]
    else:
        made += [Scratch(name="indices_in", size_bytes=count * 8), _cub("sort_storage", sort_storage(count, item, 8))]
    return held(*made)


def sort_storage(count: int, key_bytes: int, value_bytes: int) -> int:
    """Storage of cub's DeviceRadixSort (dispatch_radix_sort.cuh): a second buffer of keys and values, and onesweep's tables.

    Items a tile from recordings on an H200 (keys of 2 and 4 bytes with 8-byte values: to the byte); others are bounded.
    A single tile needs no storage: cub asks for one byte.
    """
    if count <= _SINGLE_TILE:
        return 1
    tile = _ONESWEEP_TILES.get((key_bytes, value_bytes), _ONESWEEP_TILE)
    alternate = _aligned(count * key_bytes) + _aligned(count * value_bytes)
    return alternate + _onesweep_storage(count, passes=key_bytes, tile=tile)


def _onesweep_storage(count: int, *, passes: int, tile: int) -> int:
    """256 bins of 8 bytes a pass, 256 of 4 a tile to look back on, counters; 255 to align it all."""
    return 255 + passes * 2048 + -(-count // tile) * 1024 + _ALIGNMENT


def scan_storage(count: int) -> int:
    """Storage of cub's scans and selections: 8 bytes a tile and 32 more tiles, then one more allocation."""
    return 255 + _aligned((-(-count // _SCAN_TILE) + 32) * 8) + _ALIGNMENT


def unique_storage(count: int, item: int) -> int:
    """As `scan_storage`; tiles depend on the size of an element."""
    tiles = -(-count // _UNIQUE_TILES.get(item, _SCAN_TILE))
    return 255 + _aligned((tiles + 32) * 8) + _ALIGNMENT


def count_storage(count: int, multiprocessor_count: int) -> int:
    """Storage of cub's DeviceReduce: 8 bytes for each of 20 blocks a multiprocessor; a single tile takes one byte."""
    return 1 if count <= _SINGLE_TILE else 255 + _aligned(multiprocessor_count * 20 * 8)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _cub(name: str, size_bytes: int) -> Scratch:
    """What cub asks for depends on its tuning for the device."""
    return Scratch(name=name, size_bytes=size_bytes, bounded=True)


def topk_is_multiblock(slices: int, length: int) -> bool:
    """TensorTopK.cu `should_use_multiblock`."""
    shortest = next((length_from for upper, length_from in _TOPK_MULTIBLOCK if slices <= upper), 400)
    return length >= shortest


def topk(
    shape: Shape, dim: int, k: int, dtype: DType, *, multiprocessor_count: int, is_sorted: bool = True
) -> tuple[Scratch, ...]:
    """TensorTopK.cu `mbtopk::launch`; a single block needs nothing. Then TensorTopK.cpp sorts the k values.

    Radix words are 8 bytes for 64-bit types, else 4. Search state is held twice (bounded: once in older versions).
    Sorting: up to 4096 in place with a row of indices; longer ones go through `sort` and `gather`: values and
    indices once more and sort's own scratch. A strided input is copied first: `contiguous_copy`.
    """
    length, item = shape[dim], item_bytes(dtype)
    slices = prod(shape) // max(length, 1)
    made: list[Scratch] = []
    if topk_is_multiblock(slices, length):
        each = 256 * _topk_items(slices, length, multiprocessor_count)
        blocks = slices * -(-length // each)
        radix = 8 if item == 8 else 4
        made += [
            Scratch(name="kth_values", size_bytes=slices * item),
            Scratch(name="ks_to_find", size_bytes=2 * slices * 4, bounded=True),
            Scratch(name="desired", size_bytes=2 * slices * radix, bounded=True),
            Scratch(name="counts", size_bytes=blocks * 256 * 2),
            Scratch(name="digit_sums", size_bytes=slices * 256 * 4),
            Scratch(name="within_k_counts", size_bytes=blocks * 4),
            Scratch(name="kth_counts", size_bytes=blocks * 4),
            _cub("scan_storage", _scan_by_key_storage(blocks)),
            _cub("scan_storage", _scan_by_key_storage(blocks)),
        ]
    if is_sorted and k > _SMALL_SORT:
        count = slices * k
        made += [
            Scratch(name="sorted_values", size_bytes=count * item, bounded=True),
            Scratch(name="sorted_positions", size_bytes=count * 8, bounded=True),
            *sort((slices, k), 1, dtype),
        ]
    return held(*made)


def _topk_items(slices: int, length: int, multiprocessor_count: int) -> int:
    """TensorTopK.cu `get_items_per_thread`: 40 registers a thread, 256 threads a block, 64 Ki registers."""
    resident = multiprocessor_count * (_REGISTERS_PER_MULTIPROCESSOR // (40 * 256)) * 256
    return max(4, min(-(-slices * length // resident), 64))


def _scan_by_key_storage(count: int) -> int:
    """Tile states of 16 bytes, and the last key of each tile."""
    tiles = -(-count // _SCAN_TILE)
    return 255 + _aligned((tiles + 32) * 16) + _aligned(tiles * 8)


def cumsum(shape: Shape, dim: int, dtype: DType, *, dense: bool = True) -> tuple[Scratch, ...]:
    """ScanUtils.cuh `scan_dim`: cub scans a tensor of one long dimension, any other needs nothing.

    Tile states take 8 bytes for 4-byte elements; 16 for 8-byte ones, and three arrays for half types.
    """
    made = [] if dense else [Scratch(name="contiguous_copy", size_bytes=prod(shape) * item_bytes(dtype))]
    count = prod(shape)
    if count and count == shape[dim]:
        tiles = -(-count // _SCAN_TILE) + 32
        if dtype in HALF:
            states = _aligned(tiles * 4) + 2 * _aligned(tiles * 2)
        else:
            states = _aligned(tiles * (16 if item_bytes(dtype) == 8 else 8))
        made.append(_cub("scan_storage", 255 + states + _ALIGNMENT))
    return held(*made)


def index_put(index_count: int, *, accumulate: bool = False) -> tuple[Scratch, ...]:
    """Indexing.cu: nothing without accumulation; with it, int64 indices linear, sorted and original, and a radix sort.

    From memory of `index_put_with_sort_kernel`; cub's part is bounded.
    """
    if not accumulate:
        return ()
    indices = index_count * 8
    return held(
        Scratch(name="linear_index", size_bytes=indices),
        Scratch(name="sorted_indices", size_bytes=indices),
        Scratch(name="original_indices", size_bytes=indices),
        Scratch(name="range", size_bytes=indices),
        _cub("sort_storage", sort_storage(index_count, 8, 8)),
    )
