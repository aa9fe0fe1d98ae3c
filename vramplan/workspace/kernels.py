"""Temporaries of PyTorch's CUDA kernels that no output shows, one function an operator.

Each function returns what is allocated besides the output, in order; all of it is freed when the operator returns, unless
`persistent`. Zero bytes are never asked for, so they are left out. `bounded` marks an upper bound, or a size that holds
in some versions only. Sources were read at commits around 2.13; 2.11 is confirmed where a test says "recorded".

Taken to have no temporaries on CUDA in inference, from memory of their sources: softmax and log_softmax, masked_fill,
embedding, cat (pointers travel as kernel arguments), interpolate (antialiased weights are computed in shared memory),
avg_pool2d, grid_sample, gelu, torchvision's roi_align. Softmax, avg_pool2d, grid_sample and roi_align copy a strided input
first: `contiguous_copy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from vramplan.dtypes import DType
from vramplan.workspace.attention import (
    AttentionCall,
    AttentionDevice,
    Backend,
    Operand,
    attention_allocations,
    choose_backend,
)

Shape = tuple[int, ...]

_HALF = (DType.FLOAT16, DType.BFLOAT16)
_SMALL_SORT = 4096
"""Sort.h `should_use_small_sort`: up to here a slice is sorted in place."""
_FULL_SORT_SEGMENTS = 128
_LARGE_SORT = 1_000_000
_TOPK_MULTIBLOCK = ((20, 20_000), (40, 10_000), (80, 8_000), (199, 5_000), (799, 3_000), (4_000, 800))
"""TensorTopK.cu `should_use_multiblock`: up to so many slices, from so long a slice; above 4000 slices from 400."""
_REGISTERS_PER_MULTIPROCESSOR = 65_536
_CUB_FLOOR = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """One temporary of a kernel; `persistent` ones outlive the call and are shared by later ones.

    Invariant: the size is positive.
    """

    name: str
    size_bytes: int
    bounded: bool = False
    persistent: bool = False


def _held(*scratch: Scratch) -> tuple[Scratch, ...]:
    return tuple(one for one in scratch if one.size_bytes > 0)


def _item(dtype: DType) -> int:
    return dtype.bits // 8


def _accumulate_item(dtype: DType) -> int:
    """AccumulateType.h: half types accumulate in fp32, the rest in themselves."""
    return 4 if dtype in _HALF else _item(dtype)


# Layout


def is_dense_row_major(shape: Shape, strides: Shape) -> bool:
    """TensorImpl.h `is_contiguous`: row-major, ignoring dimensions of one."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def is_dense(shape: Shape, strides: Shape) -> bool:
    """TensorImpl.h `is_non_overlapping_and_dense`: some permutation is row-major."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def contiguous_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """`.contiguous()`: a copy unless the input is row-major already."""
    if is_dense_row_major(shape, strides):
        return ()
    return _held(Scratch(name="contiguous_copy", size_bytes=prod(shape) * _item(dtype)))


# Matrix products


def uses_cublaslt(mat1_shape: Shape, mat2_shape: Shape, bias_shape: Shape, dtype: DType, *, beta: float = 1.0) -> bool:
    """Whether `addmm` goes through cuBLASLt: Blas.cpp `isInputCompliesAddmmCudaLt`.

    A bias of one dimension (ones to its left do not count), as long as a row of the result, dense; beta of one; a floating
    type up to 64 bits; second matrix with more than one row and column. Otherwise the bias is copied into the result
    and cuBLAS adds to it: neither path allocates more than the result.
    """
    one_dimensional = len(bias_shape) == 1 or sum(size != 1 for size in bias_shape) == 1
    return (
        beta == 1.0
        and one_dimensional
        and bias_shape[-1] == mat2_shape[1]
        and dtype in {DType.FLOAT64, DType.FLOAT32, *_HALF}
        and mat2_shape[0] > 1
        and mat2_shape[1] > 1
    )


def matrix_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """The copy `addmm` and `mm` make of a 2-D operand: cuBlasCommonArgs.h `prepare_matrix_for_cublas`.

    None when it is dense, or one stride is 1 and the other at least the length of that dimension.
    """
    (rows, columns), (row, column) = shape, strides
    plain = is_dense(shape, strides) or (row == 1 and column >= max(1, rows)) or (column == 1 and row >= max(1, columns))
    return () if plain else _held(Scratch(name="matrix_copy", size_bytes=rows * columns * _item(dtype)))


def batch_matrix_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """The copy `bmm` and `baddbmm` make of a 3-D operand: Blas.cpp `prepare_batch_matrix_for_cublas`.

    None when one of the two matrix strides is 1 and the other at least that dimension's length, whatever the batch
    stride is; a row-major tensor is never copied. Stated for a row-major result, as `bmm` allocates it.
    """
    _, rows, columns = shape
    _, row, column = strides
    if (column == 1 and row >= max(1, columns)) or (row == 1 and column >= max(1, rows)):
        return ()
    if is_dense_row_major(shape, strides) and row and column:
        return ()
    return _held(Scratch(name="batch_matrix_copy", size_bytes=prod(shape) * _item(dtype)))


# Normalisation


def layer_norm(input_shape: Shape, normalized_shape: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """layer_norm_kernel.cu `layer_norm_cuda`: mean and reciprocal deviation of each row in the accumulation type.

    Allocated after the output (recorded on 2.11). A strided input is copied first: `contiguous_copy`.
    """
    rows = prod(input_shape) // max(prod(normalized_shape), 1) * _accumulate_item(dtype)
    return _held(Scratch(name="mean", size_bytes=rows), Scratch(name="rstd", size_bytes=rows))


def group_norm(
    input_shape: Shape, groups: int, dtype: DType, *, affine: bool = True, torch_version: tuple[int, int] = (2, 11)
) -> tuple[Scratch, ...]:
    """group_norm.cpp `native_group_norm` and group_norm_kernel.cu `GroupNormKernelImplInternal`, after the output.

    Mean and deviation of each group in the input's type (fp32 with fp32 weights on a half input: not modelled), then,
    for images with weights, factors a and b of each channel in fp32. Later versions hold the statistics in fp32 as well
    (bounded: when that began is not known). A strided or, before 2.13, channels_last input is copied to row-major first.
    """
    batch, channels, positions = input_shape[0], input_shape[1], prod(input_shape[2:])
    stats, fused = batch * groups, batch * channels * _accumulate_item(dtype)
    fused = fused if affine and positions > 1 else 0
    twice = stats * 4 if dtype in _HALF and torch_version > (2, 11) else 0
    return _held(
        Scratch(name="mean", size_bytes=stats * _item(dtype)),
        Scratch(name="rstd", size_bytes=stats * _item(dtype)),
        Scratch(name="mean_float", size_bytes=twice, bounded=True),
        Scratch(name="rstd_float", size_bytes=twice, bounded=True),
        Scratch(name="a", size_bytes=fused),
        Scratch(name="b", size_bytes=fused),
    )


def uses_cudnn_batch_norm(input_shape: Shape, dtype: DType, weight_dtype: DType | None) -> bool:
    """Whether inference goes to cuDNN: Normalization.cpp `_select_batch_norm_backend`.

    Weights present, three dimensions or more, no bfloat16, a half input only with fp32 weights, batch up to 65535.
    From memory of the source but for what recordings confirm (fp16 with fp16 weights is native).
    """
    if weight_dtype is None or DType.BFLOAT16 in {dtype, weight_dtype} or len(input_shape) < 3:
        return False
    half_ok = dtype is not DType.FLOAT16 or weight_dtype is DType.FLOAT32
    return half_ok and input_shape[0] <= 65_535 and prod(input_shape) < 2**31 - 1


def batch_norm(input_shape: Shape, dtype: DType, weight_dtype: DType | None) -> tuple[Scratch, ...]:
    """Inference: cuDNN asks for nothing; natively two vectors of a channel each in the accumulation type.

    Normalization.cu `batch_norm_cuda` (recorded on 2.11: 256 and 256 bytes for 64 channels in fp16); cudnn/BatchNorm.cpp
    makes empty ones and needs no workspace in inference. Without weights the strided path adds two scalars: not modelled.
    """
    if uses_cudnn_batch_norm(input_shape, dtype, weight_dtype):
        return ()
    size = input_shape[1] * _accumulate_item(dtype)
    return _held(Scratch(name="save_mean", size_bytes=size), Scratch(name="save_invstd", size_bytes=size))


def rms_norm(input_shape: Shape, normalized_shape: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """layer_norm_kernel.cu `_fused_rms_norm_cuda` (2.9 and later): one reciprocal deviation a row. From memory: bounded."""
    rows = prod(input_shape) // max(prod(normalized_shape), 1) * _accumulate_item(dtype)
    return _held(Scratch(name="rstd", size_bytes=rows, bounded=True))


# Reductions


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

    Both are freed on return. Tensors beyond 32-bit indexing are cut up first: not modelled. Accumulators take 4 bytes for
    sums and means of half and fp32, 8 for float64 and int64, 16 for argmax and for max with indices (value and int64
    index), about 24 for variance. `threads_per_multiprocessor` is 2048 on data-centre cards, 1536 on 8.6, 8.9 and 12.0,
    1024 on 7.5.
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
    return _held(Scratch(name="buffer", size_bytes=size), Scratch(name="semaphores", size_bytes=4 * grid))


def _block(width: int, height: int, threads: int) -> tuple[int, int]:
    """Reduce.cuh `set_block_dimension`."""
    wide = _last_power(width) if width < threads else threads
    high = _last_power(height) if height < threads else threads
    block_width = min(wide, 32)
    block_height = min(high, threads // block_width)
    return min(wide, threads // block_height), block_height


def _last_power(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1


# Sorting and selection


def sort(shape: Shape, dim: int, dtype: DType, *, dense_along_dim: bool = True) -> tuple[Scratch, ...]:
    """Sort.cpp `sort_cuda_kernel` and SortStable.cu, after values and indices; `argsort` frees its values later.

    Up to 4096: one row of int64 indices is made and copied, then the sort is in place (bitonic, warp merge or block
    radix in shared memory). Longer: cub, by segment (1 or a million long), all at once (up to 127 segments) or segmented.
    Inputs not dense along *dim* are copied, with values and indices to match. cub's own storage holds a second copy of
    keys and values and is an upper bound.
    """
    length, count, item = shape[dim], prod(shape), _item(dtype)
    if not count:
        return ()
    if length <= _SMALL_SORT:
        return _held(Scratch(name="index_row", size_bytes=length * 8))
    segments = count // length
    copies = () if dense_along_dim else (("input_copy", item), ("values_copy", item), ("indices_copy", 8))
    made = [Scratch(name=name, size_bytes=count * size) for name, size in copies]
    if segments == 1 or length >= _LARGE_SORT:
        made += [Scratch(name="indices_in", size_bytes=length * 8), _cub("cub_storage", length * (item + 8))]
    elif segments < _FULL_SORT_SEGMENTS:
        made += [
            Scratch(name="index_and_segment", size_bytes=count * 8),
            Scratch(name="index_and_segment_sorted", size_bytes=count * 8),
            Scratch(name="keys_out", size_bytes=count * item),
            _cub("cub_storage", count * (item + 8)),
        ]
    else:
        made += [Scratch(name="indices_in", size_bytes=count * 8), _cub("cub_storage", count * (item + 8))]
    return _held(*made)


def _cub(name: str, payload: int) -> Scratch:
    """What cub asks for: at most a second buffer of what it moves, plus tile states (1/8 is ample), at least 4 KiB."""
    return Scratch(name=name, size_bytes=payload + payload // 8 + _CUB_FLOOR, bounded=True)


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
    length, item = shape[dim], _item(dtype)
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
            _cub("cub_storage", blocks),
        ]
    if is_sorted and k > _SMALL_SORT:
        count = slices * k
        made += [
            Scratch(name="sorted_values", size_bytes=count * item, bounded=True),
            Scratch(name="sorted_positions", size_bytes=count * 8, bounded=True),
            *sort((slices, k), 1, dtype),
        ]
    return _held(*made)


def _topk_items(slices: int, length: int, multiprocessor_count: int) -> int:
    """TensorTopK.cu `get_items_per_thread`: 40 registers a thread, 256 threads a block, 64 Ki registers."""
    resident = multiprocessor_count * (_REGISTERS_PER_MULTIPROCESSOR // (40 * 256)) * 256
    return max(4, min(-(-slices * length // resident), 64))


def cumsum(shape: Shape, dim: int, dtype: DType, *, dense: bool = True) -> tuple[Scratch, ...]:
    """ScanUtils.cuh `scan_dim`: cub scans a tensor of one long dimension (its storage is tile states: bounded)."""
    made = [] if dense else [Scratch(name="contiguous_copy", size_bytes=prod(shape) * _item(dtype))]
    if prod(shape) and prod(shape) == shape[dim]:
        made.append(_cub("cub_storage", prod(shape) * _item(dtype) // 64))
    return _held(*made)


def nonzero(shape: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """Nonzero.cu `nonzero_cuda_out_impl`: a 4-byte counter, then cub's storage twice (bounded, freed between).

    The output, int64 of dimensions x hits, is allocated between the two.
    """
    count = prod(shape)
    return _held(Scratch(name="num_nonzeros", size_bytes=4), _cub("reduce_storage", 0), _cub("select_storage", count // 64))


def index_with_mask(mask_shape: Shape, hits: int, *, dense_mask: bool = True) -> tuple[Scratch, ...]:
    """IndexingUtils.h `expandTensors`: a boolean index becomes `nonzero`: its scratch, and dimensions x hits int64 to the end.

    Without the value of *hits*, the mask's element count is the bound.
    """
    copy = 0 if dense_mask else prod(mask_shape)
    return _held(
        Scratch(name="mask_copy", size_bytes=copy),
        *nonzero(mask_shape, DType.BOOL),
        Scratch(name="indices", size_bytes=len(mask_shape) * hits * 8),
    )


def index_put(index_count: int, *, accumulate: bool = False) -> tuple[Scratch, ...]:
    """Indexing.cu: nothing without accumulation; with it, int64 indices linear, sorted and original, and a radix sort.

    From memory of `index_put_with_sort_kernel`; cub's part is bounded.
    """
    if not accumulate:
        return ()
    indices = index_count * 8
    return _held(
        Scratch(name="linear_index", size_bytes=indices),
        Scratch(name="sorted_indices", size_bytes=indices),
        Scratch(name="original_indices", size_bytes=indices),
        Scratch(name="range", size_bytes=indices),
        _cub("cub_storage", 2 * indices),
    )


def roll(shape: Shape, dtype: DType, *, dims: int) -> tuple[Scratch, ...]:
    """TensorTransformations.h `roll_common`: one dimension after another, each result held until the last is made.

    From memory of the source; measured: every two-dimensional roll (Swin) has a temporary.
    """
    size = prod(shape) * _item(dtype)
    return _held(*(Scratch(name=f"rolled_{index}", size_bytes=size) for index in range(dims - 1)))


def nms(box_count: int) -> tuple[Scratch, ...]:
    """From torchvision's nms_kernel.cu: scores sorted, boxes gathered (fp32), a mask of one bit a pair, kept flags.

    Boxes take 16 bytes each. Releases of 2024 and later keep the flags on the GPU; older copied the mask to the host.
    """
    words = -(-box_count // 64)
    return _held(
        Scratch(name="sorted_scores", size_bytes=box_count * 4),
        Scratch(name="order", size_bytes=box_count * 8),
        *(sort((box_count,), 0, DType.FLOAT32) if box_count else ()),
        Scratch(name="sorted_boxes", size_bytes=box_count * 16),
        Scratch(name="mask", size_bytes=box_count * words * 8),
        Scratch(name="keep", size_bytes=box_count, bounded=True),
    )


# Pooling and convolution


def max_pool2d(output_shape: Shape) -> tuple[Scratch, ...]:
    """DilatedMaxPool2d.cu: int64 indices of every output, always (measured on every call in 2.11)."""
    return _held(Scratch(name="indices", size_bytes=prod(output_shape) * 8))


def adaptive_avg_pool2d_is_mean(output_size: tuple[int, int]) -> bool:
    """AdaptiveAveragePooling.cpp: to one position it is `mean` over height and width, with that reduction's scratch."""
    return output_size == (1, 1)


def convolution_copies(
    input_shape: Shape, input_strides: Shape, weight_shape: Shape, weight_strides: Shape, dtype: DType
) -> tuple[Scratch, ...]:
    """ConvUtils.h `cudnn_conv_suggest_memory_format` and `.contiguous(format)` of input and weight in Convolution.cpp.

    Either one in channels_last makes the whole convolution channels_last; then whichever is not gets copied.
    """
    last = _is_channels_last(input_shape, input_strides) or _is_channels_last(weight_shape, weight_strides)
    made = []
    for name, shape, strides in (("input_copy", input_shape, input_strides), ("weight_copy", weight_shape, weight_strides)):
        fits = _fits_channels_last(shape, strides) if last else is_dense_row_major(shape, strides)
        if not fits:
            made.append(Scratch(name=name, size_bytes=prod(shape) * _item(dtype)))
    return _held(*made)


def _fits_channels_last(shape: Shape, strides: Shape) -> bool:
    order = (0, *range(2, len(shape)), 1)
    return is_dense_row_major(tuple(shape[d] for d in order), tuple(strides[d] for d in order))


def _is_channels_last(shape: Shape, strides: Shape) -> bool:
    """MemoryFormat.h `is_channels_last_strides_2d`: by strides alone, ties going to row-major."""
    if len(shape) not in {4, 5} or strides[1] == 0:
        return False
    smallest = 0
    for dim in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[dim] == 0 or strides[dim] < smallest or (dim == 0 and smallest == strides[1]):
            return False
        smallest = strides[dim] * (shape[dim] if shape[dim] > 1 else 1)
    return True


def is_depthwise(input_shape: Shape, weight_shape: Shape, groups: int) -> bool:
    """Convolution.cpp `is_depthwise`: a group a channel, outputs a multiple of inputs, 2-D or 3-D, not transposed."""
    channels = input_shape[1]
    return len(input_shape) in {4, 5} and channels == groups and groups > 1 and weight_shape[0] % channels == 0


def depthwise_uses_cudnn(
    input_shape: Shape,
    weight_shape: Shape,
    dtype: DType,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    channels_last: bool = False,
) -> bool:
    """Convolution.cpp `use_cudnn_depthwise` and `check_cudnn_depthwise_workload_with_filter`, for a depthwise convolution.

    False means PyTorch's own kernel, which has no workspace. channels_last is always cuDNN; otherwise only fp16 (not
    bfloat16, not fp32) in 2-D without dilation, one stride for both, 32 channels and more, square filters of 1, 3, 5 on
    rows of 7 and more: all of stride 1, some of stride 2. 64-bit sized tensors go to cuDNN 9.3 and later.
    """
    if prod(input_shape) >= 2**31 or channels_last:
        return True
    square = len(input_shape) == 4 and (stride[0] == stride[1] or input_shape[2] == 1)
    if dtype is not DType.FLOAT16 or not square or dilation != (1, 1) or input_shape[1] < 32:
        return False
    if input_shape[2] == 1 and stride[1] == 1:
        return True
    if weight_shape[2] != weight_shape[3] or weight_shape[3] not in {1, 3, 5} or input_shape[3] < 7:
        return False
    return stride[1] == 1 or (stride[1] == 2 and _strided_depthwise_uses_cudnn(input_shape, weight_shape[3]))


def _strided_depthwise_uses_cudnn(input_shape: Shape, kernel: int) -> bool:
    batch, channels, _, width = input_shape
    if kernel == 1:
        return width <= 28 if batch == 1 else batch <= 16 and channels >= 128 and width <= 7
    return batch == 1 or channels >= 512 or (channels >= 256 and width >= 28)


# Attention layers in one operator


def multi_head_attention(
    *, batch: int, rows: int, width: int, heads: int, dtype: DType, device: AttentionDevice, masked: bool = False, weights: str = ""
) -> tuple[tuple[str, str, int], ...]:
    """Every allocation of `_native_multi_head_attention` for self-attention, as (action, name, bytes).

    *weights* says which attention weights are returned: "" for none, "averaged" over heads, or "each": the softmax itself.

    transformers/cuda/attention.cu `native_multi_head_attention_cuda`. Fused (no mask, head a multiple of 8, and the choice for
    query, key, value as views of the input is flash, efficient or cuDNN): qkv, attention, projection; then attention and
    qkv go (recorded on 2.11). Otherwise: qkv, its biased and rescaled copy, scores with softmax in place (a masked softmax
    makes new ones), the second product into the query's part, a transposed copy, projection. Library workspaces of the
    first GEMM are not listed.
    """
    item, head = _item(dtype), width // heads
    tokens = batch * rows * width * item
    query = _heads_view(batch, rows, heads, head, 1)
    whole = AttentionCall(query=query, key=query, value=query, dtype=dtype)
    if not masked and not weights and head % 8 == 0 and choose_backend(whole, device).backend is not Backend.MATH:
        return (
            ("alloc", "qkv", 3 * tokens),
            *_inner(batch=batch, rows=rows, heads=heads, head=head, dtype=dtype, device=device),
            ("alloc", "output", tokens),
            ("free", "attention", tokens),
            ("free", "qkv", 3 * tokens),
        )
    scores = batch * heads * rows * rows * item
    softmax = (("alloc", "softmax", scores), ("free", "scores", scores)) if masked else ()
    last = "softmax" if masked else "scores"
    averaged = (("alloc", "weights", scores // heads), ("free", last, scores)) if weights == "averaged" else ()
    return (
        ("alloc", "qkv", 3 * tokens),
        ("alloc", "qkv_biased", 3 * tokens),
        ("free", "qkv", 3 * tokens),
        ("alloc", "scores", scores),
        *softmax,
        *(() if weights else (("free", last, scores),)),
        ("alloc", "context", tokens),
        ("alloc", "output", tokens),
        ("free", "context", tokens),
        *averaged,
        ("free", "qkv_biased", 3 * tokens),
    )


def _heads_view(batch: int, rows: int, heads: int, head: int, parts: int) -> Operand:
    row = parts * heads * head
    return Operand(shape=(batch, heads, rows, head), strides=(rows * row, head, row, 1))


def _inner(
    *, batch: int, rows: int, heads: int, head: int, dtype: DType, device: AttentionDevice
) -> tuple[tuple[str, str, int], ...]:
    """Attention on the three parts of one product; its output is called `attention`."""
    part = _heads_view(batch, rows, heads, head, 3)
    plan = attention_allocations(AttentionCall(query=part, key=part, value=part, dtype=dtype), device)
    return tuple((step.action, "attention" if step.name == "output" else step.name, step.size_bytes) for step in plan.steps)


def transformer_encoder_layer(
    *,
    batch: int,
    rows: int,
    width: int,
    heads: int,
    hidden: int,
    dtype: DType,
    device: AttentionDevice,
    norm_first: bool = False,
    masked: bool = False,
) -> tuple[tuple[str, str, int], ...]:
    """Every allocation of `_transformer_encoder_layer_fwd`, as (action, name, bytes): transformers/transformer.cpp.

    Residuals are added in place. GELU is fused into the first product by cuBLASLt, ReLU too; where Lt is not taken GELU
    makes one more copy (not listed). Each layer norm leaves its statistics when its own call returns.
    """
    tokens, inner = batch * rows * width * _item(dtype), batch * rows * hidden * _item(dtype)
    mha = [
        (action, "attended" if name == "output" else name, size)
        for action, name, size in multi_head_attention(
            batch=batch, rows=rows, width=width, heads=heads, dtype=dtype, device=device, masked=masked
        )
    ]
    products = [("alloc", "hidden", inner), ("alloc", "fed", tokens), ("free", "hidden", inner)]
    shape = (batch, rows, width)
    if norm_first:
        steps = [
            *_norm("normed", tokens, shape, dtype),
            *mha,
            ("free", "normed", tokens),
            *_norm("normed", tokens, shape, dtype),
        ]
        return (*steps, *products[:2], ("free", "hidden", inner), ("free", "normed", tokens), ("free", "attended", tokens))
    steps = [*mha, *_norm("normed", tokens, shape, dtype), ("free", "attended", tokens), *products]
    return (*steps, *_norm("output", tokens, shape, dtype), ("free", "fed", tokens), ("free", "normed", tokens))


def _norm(name: str, tokens: int, shape: Shape, dtype: DType) -> list[tuple[str, str, int]]:
    stats = layer_norm(shape, shape[-1:], dtype)
    made = [("alloc", name, tokens), *(("alloc", one.name, one.size_bytes) for one in stats)]
    return [*made, *(("free", one.name, one.size_bytes) for one in stats)]


# Libraries that do not say


def fft(shape: Shape, transformed: tuple[int, ...], complex_bytes: int) -> tuple[Scratch, ...]:
    """CuFFTPlanCache.h: the plan's work area on each call; cuFFT says how large only on a GPU.

    Assumed at most twice the data for lengths of primes up to 127 and eight times otherwise (Bluestein): no source.
    """
    smooth = all(_largest_prime(shape[dim]) <= 127 for dim in transformed)
    return _held(Scratch(name="work_area", size_bytes=prod(shape) * complex_bytes * (2 if smooth else 8), bounded=True))


def _largest_prime(number: int) -> int:
    largest, factor = 1, 2
    while factor * factor <= number:
        while number % factor == 0:
            largest, number = factor, number // factor
        factor += 1
    return max(largest, number)


def recurrent(weight_bytes: int, *, flattened: bool, is_half: bool) -> tuple[Scratch, ...]:
    """cudnn/RNN.cpp `_cudnn_rnn` in inference: a flat copy of weights that are not flat already, rounded up a little.

    cuDNN's workspace and reserve depend on its algorithm and are not modelled: add them as unknown.
    """
    size = 0 if flattened else ceil(weight_bytes / 512) * 512
    return _held(Scratch(name="weight_buffer", size_bytes=size, bounded=is_half))
