"""Scratch memory of 1x1 convolutions with stride 1: matrix products, which cuDNN passes on to cuBLASLt.

Without a GPU cuBLASLt does not start and cuDNN names another kernel than the one that runs, so neither cuDNN nor a sum of
copies answers this. What the device did on an H200 (cuDNN 9.19, PyTorch 2.11), fitted on one half of
``tests/data/conv_workspace_h200.csv.gz``:

- nothing in more than four of five calls;
- few output tiles and many input channels: the sum over channels is split in steps of about 64, each part keeps its own
  copy of the output, and 256 bytes of counters come on top;
- row-major images whose rows of pixels are no whole vectors (7x7, 33x33), several of them: cuBLASLt's batched product cannot
  load them in vectors, and cuDNN transposes the input and the output instead.
"""

from __future__ import annotations

from dataclasses import dataclass

_TILE = 128
"""Rows and columns of one output tile of the kernels that split."""

_STEP = 64
"""Channels that one part of a split sum adds up."""

_MULTIPROCESSORS = 132
_COUNTERS_BYTES = 256
_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A 1x1 convolution as a matrix product: ``images`` times ``pixels`` rows, ``channels`` summed up, ``outputs`` columns.

    Invariant: all counts are positive and ``bits`` is the width of one element.
    """

    images: int
    pixels: int
    channels: int
    outputs: int
    bits: int
    channels_last: bool
    is_bfloat16: bool = False

    @property
    def tile_count(self) -> int:
        """Output tiles, over all images."""
        return -(-self.images * self.pixels // _TILE) * -(-self.outputs // _TILE)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return self.images * self.pixels * self.outputs * self.bits // 8


def pointwise_workspace_bytes(product: Product) -> int:
    """Bytes of scratch that *product* takes on the device, zero for most."""
    if not product.channels_last and product.images > 1:
        return _transposed_bytes(product)
    parts_bytes = _parts_bytes_fp32(product) if product.bits == 32 else _parts_bytes_half(product)
    return parts_bytes + _COUNTERS_BYTES if parts_bytes else 0


def _transposed_bytes(product: Product) -> int:
    """Copies of input and output, where row-major images are no whole vectors and the product is large enough to repay them."""
    if product.pixels == 1:
        return 0
    if product.bits == 32:
        pays = product.pixels % 2 == 1 and product.channels >= 800 and product.outputs >= 128
    else:
        is_odd = product.pixels % 2 == 1 and product.channels >= 256 and product.outputs >= 64
        is_small = product.pixels % 8 != 0 and product.pixels < 64 and product.channels * product.outputs >= 2**20
        pays = is_odd or is_small
    if not pays:
        return 0
    return product.images * product.pixels * product.channels * product.bits // 8 + product.output_bytes + _ALIGNMENT_BYTES


def _parts_bytes_fp32(product: Product) -> int:
    """Partial sums of a split over the channels: one copy of the output for each part."""
    if _splits_fp32(product):
        return _split_count(product) * product.output_bytes
    rows = product.images * product.pixels
    is_narrow = product.outputs <= 80 and product.channels >= 144 and 3200 <= rows <= 6272
    return 400 if product.channels_last and is_narrow else 0


def _parts_bytes_half(product: Product) -> int:
    """The same in 16 bits: where rows or columns are no whole vectors, so that no kernel with tensor memory loads fits."""
    rows = product.images * product.pixels
    if product.channels_last:
        return _odd_outputs_bytes(product)
    if product.outputs % 2 and product.pixels % 2 and rows >= 4096:  # sums in fp32, twice the output's width: 21 classes
        return 2 * (product.channels // _STEP) * product.output_bytes
    if product.pixels % 8 == 0:
        return 0
    if product.channels < 512 or not 36 <= product.pixels <= 400 or product.tile_count > 12:
        return 0
    width = 2 if product.pixels == 49 else 1  # 7x7 keeps its parts in fp32, larger images in 16 bits
    return width * (product.channels // _STEP) * product.output_bytes


def _odd_outputs_bytes(product: Product) -> int:
    """Rows of an odd number of 16-bit outputs, such as 21 or 255, are no whole vectors: sums are split, and kept in fp32."""
    if product.outputs % 2 == 0 or product.outputs < 16 or product.channels < 2 * _STEP:
        return 0
    if product.tile_count >= _MULTIPROCESSORS:
        return 2 * 2 * product.output_bytes if product.outputs <= _TILE else 0
    return product.channels // _STEP * product.output_bytes if product.channels >= 8 * _STEP else 0


def _split_count(product: Product) -> int:
    channels, rows = product.channels, product.images * product.pixels
    if rows < 36:
        return min(32, channels // 32)
    if channels % _STEP and channels % 96 == 0 and channels >= 600:
        return channels // 96
    steps = -(-channels // 32)
    most = 4 if product.tile_count == 16 else 8 if rows > 1024 else 16 if product.tile_count >= 8 and rows > 64 else steps
    return -(-steps // max(2, -(-steps // most)))


def _splits_fp32(product: Product) -> bool:
    """Few tiles for 132 multiprocessors, and enough channels to share."""
    rows, tiles, channels, outputs = product.images * product.pixels, product.tile_count, product.channels, product.outputs
    if rows < 36:
        return rows == 8 and channels >= 800 and 64 <= outputs <= 256
    if rows <= 400:
        is_small = tiles <= 4 or (tiles <= 8 and (outputs <= 192 or (channels >= 1000 and not product.channels_last)))
        return (is_small and channels >= 480) or (tiles == 16 and rows > 300 and product.channels_last)
    if not product.channels_last:
        return False
    if rows <= 1024:
        return channels >= 144 and outputs <= 64
    return rows <= 1568 and channels >= 384 and outputs <= 128
