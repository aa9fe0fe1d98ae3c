"""Temporaries of CUDA kernels, sizes in bytes with the arithmetic in sight."""

from __future__ import annotations

import pytest

from vramplan.dtypes import DType
from vramplan.workspace import kernels
from vramplan.workspace.attention import AttentionDevice
from vramplan.workspace.kernels import Reduction

H200 = AttentionDevice(capability=(9, 0), multiprocessor_count=132)
T4 = AttentionDevice(capability=(7, 5), multiprocessor_count=40)
HALF, FULL = DType.FLOAT16, DType.FLOAT32


def sizes(scratch):
    return {one.name: one.size_bytes for one in scratch}


def balance(steps):
    held = {}
    for action, name, size in steps:
        if action == "alloc":
            assert name not in held
            held[name] = size
        else:
            assert held.pop(name) == size
    return held


def test_layer_norm_keeps_two_fp32_numbers_a_row():
    """Recorded on 2.11: BERT, 8 x 512 rows, 16384 bytes twice."""
    assert sizes(kernels.layer_norm((8, 512, 768), (768,), HALF)) == {"mean": 8 * 512 * 4, "rstd": 8 * 512 * 4}


def test_group_norm():
    expected = {"mean": 2 * 32 * 2, "rstd": 2 * 32 * 2, "a": 2 * 320 * 4, "b": 2 * 320 * 4}
    assert sizes(kernels.group_norm((2, 320, 64, 64), 32, HALF)) == expected
    assert sizes(kernels.group_norm((2, 320, 64, 64), 32, FULL, affine=False)) == {"mean": 2 * 32 * 4, "rstd": 2 * 32 * 4}
    assert kernels.group_norm((2, 320, 64, 64), 32, HALF, torch_version=(2, 13))[2].bounded


def test_batch_norm_in_fp16_is_native_and_in_fp32_is_cudnn():
    """Recorded on 2.11: ResNet-50 in fp16, 64 channels, 256 bytes twice."""
    assert sizes(kernels.batch_norm((8, 64, 112, 112), HALF, HALF)) == {"save_mean": 64 * 4, "save_invstd": 64 * 4}
    assert kernels.batch_norm((8, 64, 112, 112), FULL, FULL) == ()
    assert kernels.batch_norm((8, 64, 112, 112), HALF, FULL) == ()


def test_linear_with_a_bias_goes_to_cublaslt():
    assert kernels.uses_cublaslt((8, 768), (768, 3072), (3072,), HALF)
    assert not kernels.uses_cublaslt((8, 768), (768, 1), (1,), HALF)
    assert not kernels.uses_cublaslt((8, 768), (768, 3072), (8, 3072), HALF)


def test_matrices_are_copied_only_when_no_stride_is_one():
    assert kernels.matrix_copy((4, 6), (1, 4), FULL) == ()
    assert kernels.matrix_copy((4, 6), (12, 1), FULL) == ()
    assert sizes(kernels.matrix_copy((4, 6), (12, 2), FULL)) == {"matrix_copy": 4 * 6 * 4}
    assert kernels.batch_matrix_copy((2, 4, 6), (6, 12, 1), FULL) == ()
    assert sizes(kernels.batch_matrix_copy((2, 4, 6), (0, 0, 1), FULL)) == {"batch_matrix_copy": 2 * 4 * 6 * 4}


def test_mean_over_a_row_major_image_stays_in_a_block():
    small = Reduction(output_count=8 * 1280, input_count=7 * 7, accumulator_bytes=4, reduced_fastest=True)
    assert kernels.reduce(small, multiprocessor_count=132) == ()


def test_a_full_sum_is_split_over_blocks():
    """1 output, 2**20 inputs: 512 x 1 threads of 4, so 2048 values each; min(528 blocks, 2048 / 16), 8 at least."""
    full = Reduction(output_count=1, input_count=2**20, accumulator_bytes=4, reduced_fastest=True)
    scratch = kernels.reduce(full, multiprocessor_count=132)
    assert sizes(scratch) == {"buffer": 4 * 128, "semaphores": 4}


def test_mean_over_a_large_channels_last_image_is_split():
    """32 channels / 4 = 8 wide, 16 high: 112 x 112 / 16 = 784 values; min(132 x 16 / 1, 784 / 16) = 49 blocks."""
    image = Reduction(output_count=32, input_count=112 * 112, accumulator_bytes=4, reduced_fastest=False)
    scratch = kernels.reduce(image, multiprocessor_count=132)
    assert sizes(scratch) == {"buffer": 4 * 32 * 49 * 8 * 4, "semaphores": 4}


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((10, 4096), ["index_row"]),
        ((8400,), ["indices_in", "sort_storage"]),
        ((4, 8400), ["index_and_segment", "index_and_segment_sorted", "keys_out", "sort_storage", "segment_storage"]),
        ((128, 8400), ["indices_in", "sort_storage"]),
    ],
)
def test_sort_takes_one_of_four_ways(shape, names):
    assert [one.name for one in kernels.sort(shape, -1, FULL)] == names


def test_sort_copies_what_is_not_dense_along_its_dimension():
    strided = sizes(kernels.sort((2, 5000), 1, FULL, dense_along_dim=False))
    assert (strided["input_copy"], strided["values_copy"], strided["indices_copy"]) == (40_000, 40_000, 80_000)


def test_topk_of_few_long_rows_takes_several_blocks():
    """1 x 33600: 4 items a thread, so ceil(33600 / 1024) = 33 blocks."""
    scratch = sizes(kernels.topk((1, 33_600), 1, 300, FULL, multiprocessor_count=132))
    assert scratch["counts"] == 33 * 256 * 2
    assert scratch["digit_sums"] == 256 * 4
    assert scratch["within_k_counts"] == 33 * 4
    assert kernels.topk((1, 8400), 1, 300, FULL, multiprocessor_count=132) == ()


def test_topk_threshold():
    assert [kernels.topk_is_multiblock(s, n) for s, n in ((20, 20_000), (21, 10_000), (200, 2999), (5000, 400))] == [
        True, True, False, True
    ]  # fmt: skip


def test_max_pool_keeps_int64_indices():
    assert sizes(kernels.max_pool2d((8, 64, 56, 56))) == {"indices": 8 * 64 * 56 * 56 * 8}


def test_a_convolution_copies_whichever_operand_is_not_channels_last():
    row_major, last = (64 * 64 * 16, 64 * 64, 64, 1), (64 * 64 * 16, 1, 64 * 16, 16)
    weight, weight_last = (16 * 9, 9, 3, 1), (16 * 9, 1, 3 * 16, 16)
    image, kernel = (2, 16, 64, 64), (32, 16, 3, 3)
    assert kernels.convolution_copies(image, row_major, kernel, weight, HALF) == ()
    assert kernels.convolution_copies(image, last, kernel, weight_last, HALF) == ()
    assert sizes(kernels.convolution_copies(image, row_major, kernel, weight_last, HALF)) == {
        "input_copy": 2 * 16 * 64 * 64 * 2
    }
    assert sizes(kernels.convolution_copies(image, last, kernel, weight, HALF)) == {"weight_copy": 32 * 16 * 9 * 2}


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "dtype", "cudnn"),
    [
        ((8, 32, 112, 112), 3, 1, HALF, True),
        ((8, 32, 112, 112), 3, 1, FULL, False),
        ((8, 32, 112, 112), 3, 1, DType.BFLOAT16, False),
        ((8, 96, 112, 112), 3, 2, HALF, False),
        ((1, 96, 112, 112), 3, 2, HALF, True),
        ((8, 256, 28, 28), 5, 2, HALF, True),
        ((8, 192, 56, 56), 7, 1, HALF, False),
        ((8, 16, 56, 56), 3, 1, HALF, False),
    ],
)
def test_depthwise_in_row_major(shape, kernel, stride, dtype, cudnn):
    weight = (shape[1], 1, kernel, kernel)
    assert kernels.is_depthwise(shape, weight, shape[1])
    assert kernels.depthwise_uses_cudnn(shape, weight, dtype, stride=(stride, stride)) is cudnn
    assert kernels.depthwise_uses_cudnn(shape, weight, dtype, stride=(stride, stride), channels_last=True)


def test_fused_multi_head_attention_repeats_a_recording():
    """torch 2.11, H200, vit_b_16 in fp16: qkv 7262208, 8, 8, 2420736, 256, projection 2420736."""
    steps = kernels.multi_head_attention(batch=8, rows=197, width=768, heads=12, dtype=HALF, device=H200)
    assert [size for action, _, size in steps if action == "alloc"] == [7_262_208, 8, 8, 2_420_736, 256, 2_420_736]
    assert balance(steps) == {"output": 8 * 197 * 768 * 2}


@pytest.mark.parametrize("masked", [False, True])
def test_unfused_multi_head_attention_balances(masked):
    steps = kernels.multi_head_attention(batch=2, rows=5, width=28, heads=4, dtype=HALF, device=T4, masked=masked)
    assert balance(steps) == {"output": 2 * 5 * 28 * 2}
    assert ("alloc", "scores", 2 * 4 * 5 * 5 * 2) in steps


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_leaves_only_its_output(norm_first):
    steps = kernels.transformer_encoder_layer(
        batch=2, rows=16, width=64, heads=4, hidden=256, dtype=HALF, device=H200, norm_first=norm_first
    )
    assert list(balance(steps).values()) == [2 * 16 * 64 * 2]
    assert ("alloc", "hidden", 2 * 16 * 256 * 2) in steps


def test_unknown_sizes_are_marked():
    assert all(one.bounded for one in kernels.fft((8, 512, 512), (1, 2), 8))
    assert kernels.sort((8400,), 0, FULL)[-1].bounded


def test_cub_asks_for_a_second_copy_and_tables():
    """Recorded on an H200: 8 x 8400 in fp16, sorted by key, then by segment."""
    scratch = sizes(kernels.sort((8, 8400), 1, HALF))
    assert scratch["sort_storage"] == 255 + 134_400 + 537_600 + 2 * 2048 + 12 * 1024 + 256
    assert scratch["segment_storage"] == 255 + 2048 + 12 * 1024 + 256
    assert kernels.sort_storage(1000, 4, 0) == 1


def test_cub_counts_in_twenty_blocks_a_multiprocessor():
    """Recorded on an H200: 21503 bytes from 64000 elements on, one byte for 1000."""
    assert kernels.count_storage(64_000, 132) == 21_503
    assert kernels.count_storage(1000, 132) == 1
    assert kernels.scan_storage(67_200) == 1023
    assert kernels.unique_storage(64_000, 2) == 1279


def test_a_recurrent_network_takes_the_workspace_that_cudnn_says():
    """Recorded on an H200: LSTM of two layers, both directions, 128 to 256, 50 steps of one in fp16: 38669088."""
    weights = 2 * (1024 * 384 + 1024 * 768) * 2
    scratch = kernels.recurrent(
        weight_bytes=weights, parameter_bytes=weights + 16_384, step_bytes=50 * 512 * 2, gates=4, flattened=False
    )
    assert [one.name for one in scratch] == ["weight_buffer", "workspace"]
    assert scratch[0].size_bytes == 4_734_976
    assert 38_669_088 <= scratch[1].size_bytes < 1.001 * 38_669_088
    assert scratch[1].bounded


def test_attention_weights_are_averaged_over_heads():
    """Recorded on an H200: 1 x 60 x 256, 8 heads, fp16."""
    steps = kernels.multi_head_attention(batch=1, rows=60, width=256, heads=8, dtype=HALF, device=H200, weights="averaged")
    made = [size for action, _, size in steps if action == "alloc"]
    assert made == [92_160, 92_160, 57_600, 30_720, 30_720, 7200]
    assert balance(steps) == {"output": 30_720, "weights": 7200}
