"""Attention: which kernel PyTorch picks, and what it allocates on the way."""

from __future__ import annotations

import pytest

from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.workspace.attention import (
    AttentionCall,
    AttentionDevice,
    Backend,
    Operand,
    attention_allocations,
    choose_backend,
    contiguous,
    priority,
    split_count,
)

H200 = AttentionDevice(capability=(9, 0), multiprocessor_count=132)
A100 = AttentionDevice(capability=(8, 0), multiprocessor_count=108)
RTX_4090 = AttentionDevice(capability=(8, 9), multiprocessor_count=128)
RTX_5090 = AttentionDevice(capability=(12, 0), multiprocessor_count=170)
B200 = AttentionDevice(capability=(10, 0), multiprocessor_count=148)
T4 = AttentionDevice(capability=(7, 5), multiprocessor_count=40)
HALF, FULL = DType.FLOAT16, DType.FLOAT32


def heads_last(batch, heads, rows, head, parts=1):
    """(batch, heads, rows, head) as a view of (batch, rows, parts x heads x head)."""
    row = parts * heads * head
    return Operand(shape=(batch, heads, rows, head), strides=(rows * row, head, row, 1))


def call(operand, dtype=HALF, **options):
    return AttentionCall(query=operand, key=operand, value=operand, dtype=dtype, **options)


def chosen(device, dtype=HALF, operand=None, **options):
    return choose_backend(call(operand or contiguous(2, 12, 197, 64), dtype, **options), device).backend


def allocated(plan):
    return [(step.name, step.size_bytes) for step in plan.steps if step.action == "alloc"]


@pytest.mark.parametrize(
    ("device", "dtype", "backend"),
    [
        (H200, HALF, Backend.CUDNN),
        (B200, DType.BFLOAT16, Backend.CUDNN),
        (A100, HALF, Backend.FLASH),
        (RTX_4090, DType.BFLOAT16, Backend.FLASH),
        (RTX_5090, HALF, Backend.FLASH),
        (T4, HALF, Backend.EFFICIENT),
        (T4, DType.BFLOAT16, Backend.MATH),
        (H200, FULL, Backend.EFFICIENT),
        (A100, FULL, Backend.EFFICIENT),
        (A100, DType.FLOAT64, Backend.MATH),
    ],
)
def test_backend_without_a_mask(device, dtype, backend):
    assert chosen(device, dtype) is backend


def test_a_mask_turns_flash_away_but_not_cudnn():
    options = {"mask": contiguous(2, 1, 197, 197)}
    assert chosen(A100, **options) is Backend.EFFICIENT
    assert chosen(H200, **options) is Backend.CUDNN
    refused = choose_backend(call(contiguous(2, 12, 197, 64), **options), A100).refusals
    assert refused == ((Backend.FLASH, "flash attention takes no mask"),)


def test_an_old_cudnn_is_not_preferred():
    assert priority(AttentionDevice(capability=(9, 0), multiprocessor_count=132, cudnn_version=91_400))[0] is Backend.FLASH


def test_three_dimensions_go_to_math():
    assert chosen(H200, operand=contiguous(12, 197, 64)) is Backend.MATH


def test_a_head_of_144_is_too_long_for_cudnn_but_on_hopper():
    """Recorded on an H200: heads of 192 and 256 go to cuDNN 9.19."""
    assert chosen(H200, operand=contiguous(2, 12, 197, 144)) is Backend.CUDNN
    assert chosen(H200, operand=contiguous(2, 12, 197, 264)) is Backend.EFFICIENT
    assert chosen(B200, operand=contiguous(2, 12, 197, 144)) is Backend.FLASH


def test_an_odd_head_needs_padding_which_only_flash_does():
    assert chosen(H200, operand=contiguous(2, 12, 197, 36)) is Backend.FLASH
    assert chosen(T4, operand=contiguous(2, 12, 197, 36)) is Backend.MATH
    assert chosen(A100, FULL, operand=contiguous(2, 12, 197, 36)) is Backend.EFFICIENT


def test_grouped_heads_need_the_flag():
    query, shared = contiguous(2, 12, 64, 64), contiguous(2, 4, 64, 64)
    for flag, backend in ((True, Backend.FLASH), (False, Backend.MATH)):
        grouped = AttentionCall(query=query, key=shared, value=shared, dtype=HALF, enable_gqa=flag)
        assert choose_backend(grouped, A100).backend is backend


def test_mask_and_causal_exclude_each_other():
    with pytest.raises(UsageError, match="not both"):
        call(contiguous(1, 1, 8, 8), mask=contiguous(8, 8), is_causal=True)


def test_cudnn_repeats_a_recording_of_a_vision_transformer():
    """torch 2.11, H200, vit_b_16 fp16 batch 8: 8 and 8 bytes, the output, 256 bytes; then the last and the first two go."""
    plan = attention_allocations(call(heads_last(8, 12, 197, 64, parts=3)), H200)
    assert allocated(plan) == [("seed", 8), ("offset", 8), ("output", 8 * 197 * 768 * 2), ("workspace", 256)]
    assert [step.name for step in plan.steps if step.action == "free"] == ["workspace", "seed", "offset"]
    assert plan.output_dim_order == (0, 2, 1, 3)
    assert plan.bounded == ()


def test_flash_keeps_the_log_sum_exp_even_in_inference():
    plan = attention_allocations(call(heads_last(8, 12, 197, 64)), A100)
    assert allocated(plan) == [
        ("output", 8 * 12 * 197 * 64 * 2), ("logsumexp", 8 * 12 * 197 * 4), ("random_state", 16), ("random_unused", 8)
    ]  # fmt: skip
    assert plan.output_dim_order == (0, 2, 1, 3)


def test_flash_pads_a_head_of_36_to_40():
    plan = attention_allocations(call(heads_last(8, 12, 197, 36)), A100)
    padded = 8 * 12 * 197 * 40 * 2
    assert allocated(plan)[:4] == [
        ("query_padded", padded), ("key_padded", padded), ("value_padded", padded), ("output", padded)
    ]  # fmt: skip
    assert plan.output_dim_order == (0, 1, 2, 3)
    assert plan.output_storage_bytes == padded


def test_flash_splits_the_keys_of_a_small_query():
    """1 x 8 heads x 1 block is 8 of 216: 16 blocks of 256 keys, so 16 splits (8 x 16 / 216 is the fullest)."""
    long = contiguous(1, 8, 4096, 64)
    plan = attention_allocations(AttentionCall(query=contiguous(1, 8, 1, 64), key=long, value=long, dtype=HALF), A100)
    assert ("logsumexp_parts", 16 * 8 * 4) in allocated(plan)
    assert ("output_parts", 16 * 8 * 64 * 4) in allocated(plan)


def test_split_count():
    assert split_count(query_blocks=173, multiprocessor_count=108, key_blocks=16) == 1
    assert split_count(query_blocks=172, multiprocessor_count=108, key_blocks=1) == 1
    assert split_count(query_blocks=96, multiprocessor_count=108, key_blocks=16) == 2


def test_efficient_allocates_nothing_but_its_output_in_fp32():
    plan = attention_allocations(call(contiguous(2, 12, 197, 64), FULL), H200)
    assert allocated(plan) == [("output", 2 * 12 * 197 * 64 * 4)]
    assert plan.output_dim_order == (0, 2, 1, 3)


def test_efficient_accumulates_long_heads_in_fp32():
    plan = attention_allocations(call(contiguous(2, 4, 64, 160)), T4)
    assert allocated(plan) == [("output", 2 * 4 * 64 * 160 * 2), ("accumulator", 2 * 4 * 64 * 160 * 4)]


def test_efficient_pads_a_boolean_mask_of_197_to_200():
    plan = attention_allocations(call(contiguous(2, 12, 197, 64), mask=contiguous(2, 1, 197, 197)), A100)
    assert allocated(plan) == [
        ("minus_infinity", 2),
        ("zero_scalar", 2),
        ("float_mask", 2 * 197 * 197 * 2),
        ("mask_padded", 2 * 197 * 200 * 2),
        ("output", 2 * 12 * 197 * 64 * 2),
    ]


def test_efficient_takes_an_aligned_mask_as_it_is():
    plan = attention_allocations(call(contiguous(2, 12, 128, 64), mask=contiguous(128, 128), mask_dtype=HALF), A100)
    assert allocated(plan) == [("output", 2 * 12 * 128 * 64 * 2)]


def test_math_in_half_precision_computes_in_fp32():
    plan = attention_allocations(call(contiguous(2, 3, 5, 7)), T4, backend=Backend.MATH)
    operand, scores = 2 * 3 * 5 * 7, 2 * 3 * 5 * 5
    assert allocated(plan) == [
        ("query_float", operand * 4), ("key_float", operand * 4), ("value_float", operand * 4),
        ("query_scaled", operand * 4), ("key_scaled", operand * 4), ("scores", scores * 4),
        ("softmax", scores * 4), ("is_masked", scores), ("rows_masked", 2 * 3 * 5), ("zero", 4),
        ("scores_returned", scores * 2), ("output_float", operand * 4), ("output", operand * 2),
    ]  # fmt: skip


def test_math_copies_heads_that_do_not_fold():
    plan = attention_allocations(call(heads_last(2, 3, 5, 7), FULL), A100, backend=Backend.MATH)
    names = [name for name, _ in allocated(plan)]
    assert {"query_folded", "key_folded", "value_folded"} <= set(names)


def test_math_builds_a_causal_mask():
    plan = attention_allocations(call(contiguous(2, 3, 5, 7), FULL, is_causal=True), A100, backend=Backend.MATH)
    assert ("ones", 5 * 5) in allocated(plan)
    assert ("causal_mask", 5 * 5 * 4) in allocated(plan)


def test_a_single_query_row_takes_a_workspace_for_many_keys_only():
    """Recorded on an H200: 8 heads of 64 over 4096 keys, 67712 bytes; 8 heads of 48 over 197 keys, none."""
    for keys, head, workspace in ((4096, 64, [67_712]), (197, 48, [])):
        query, key = contiguous(1, 8, 1, head), contiguous(1, 8, keys, head)
        plan = attention_allocations(AttentionCall(query=query, key=key, value=key, dtype=HALF), H200)
        assert [size for name, size in allocated(plan) if name == "workspace"] == workspace
        assert plan.bounded


def test_math_copies_what_cublas_cannot_read():
    """One row of heads that lie innermost: no matrix dimension is dense, but the heads still fold (recorded)."""
    inner = Operand(shape=(1, 8, 1, 64), strides=(512, 1, 512, 8))
    keys = Operand(shape=(1, 8, 4096, 64), strides=(2_097_152, 1, 512, 8))
    plan = attention_allocations(AttentionCall(query=inner, key=keys, value=keys, dtype=FULL), H200, backend=Backend.MATH)
    names = [name for name, _ in allocated(plan)]
    assert names[:5] == ["query_scaled", "key_scaled", "scores", "key_copied", "query_copied"]
    assert names[-1] == "value_copied"
