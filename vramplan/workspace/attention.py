"""Every allocation that `scaled_dot_product_attention` makes on CUDA in inference, in order.

Which backend runs is in `attention_choice`, whose names are offered here too. Each function names its source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from vramplan.dtypes import DType
from vramplan.errors import UsageError
from vramplan.workspace.attention_choice import (
    HALF,
    AttentionCall,
    AttentionDevice,
    Backend,
    Choice,
    Operand,
    Shape,
    choose_backend,
    contiguous,
    priority,
)

__all__ = [
    "AttentionCall",
    "AttentionDevice",
    "AttentionPlan",
    "Backend",
    "Choice",
    "Operand",
    "Step",
    "attention_allocations",
    "choose_backend",
    "contiguous",
    "priority",
    "split_count",
]

_CUDNN_WORKSPACE_BYTES = 256
"""Measured, torch 2.11 with cuDNN 9.19 on an H200: heads of 32 to 256, with and without mask, causal, cross and grouped."""
_CUDNN_DECODE_KEYS = 256
"""A single query row takes no workspace up to here (measured with 197 keys); beyond, keys are split (measured with 4096)."""
_CUDNN_DECODE_SPLIT = 128
_MAX_SPLITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event inside the call: `alloc` or `free` of a named buffer."""

    action: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """Every allocation of one call, in order. Sizes are as requested, not rounded.

    `output_dim_order` lists the output's dimensions from the slowest to the fastest in memory, and `output_storage_bytes`
    is more than the output's own size when a padded head was sliced off. `bounded` names what is not certain.

    Invariant: all but the buffer called `output` is freed by the last step.
    """

    backend: Backend
    output_shape: Shape
    output_dim_order: Shape
    output_storage_bytes: int
    steps: tuple[Step, ...]
    bounded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        held: set[str] = set()
        for step in self.steps:
            (held.add if step.action == "alloc" else held.remove)(step.name)
        if held != {"output"}:
            raise UsageError(f"attention plan ends holding {sorted(held)}")

    @property
    def peak_bytes(self) -> int:
        """The most that is held at once, the output included."""
        held = peak = 0
        for step in self.steps:
            held += step.size_bytes if step.action == "alloc" else -step.size_bytes
            peak = max(peak, held)
        return peak


def split_count(*, query_blocks: int, multiprocessor_count: int, key_blocks: int) -> int:
    """How many ways flash attention splits the keys: flash_api.cpp `num_splits_heuristic`, in float32 as there.

    *query_blocks* is batch x heads x ceil(query length / 64). Each multiprocessor counts twice.
    """
    units = 2 * multiprocessor_count
    if query_blocks >= _f32(_f32(0.8) * units):
        return 1
    limit = min(_MAX_SPLITS, units, key_blocks)
    eligible = [n for n in range(1, limit + 1) if n == 1 or -(-key_blocks // n) != -(-key_blocks // (n - 1))]
    efficiency = {n: _f32(_f32(query_blocks * n / units) / -(-query_blocks * n // units)) for n in eligible}
    best = max(efficiency.values(), default=0.0)
    return next((n for n in eligible if efficiency[n] >= 0.85 * best), 1)


def attention_allocations(call: AttentionCall, device: AttentionDevice, *, backend: Backend | None = None) -> AttentionPlan:
    """Every allocation of one call, by the backend PyTorch would choose or the given one."""
    chosen = backend or choose_backend(call, device).backend
    tape = _Tape(call.dtype.bits // 8)
    mask = _float_mask(call, tape)
    plan = {Backend.FLASH: _flash, Backend.EFFICIENT: _efficient, Backend.CUDNN: _cudnn, Backend.MATH: _math}[chosen]
    return plan(call, device, tape, mask)


class _Tape:
    """Collects steps; `item` is the bytes of one element of the call's type."""

    def __init__(self, item: int) -> None:
        self.item = item
        self.steps: list[Step] = []
        self.held: dict[str, int] = {}

    def alloc(self, name: str, size_bytes: int) -> None:
        """Nothing is asked of the allocator for zero bytes."""
        if size_bytes:
            self.held[name] = size_bytes
            self.steps.append(Step(action="alloc", name=name, size_bytes=size_bytes))

    def free(self, *names: str) -> None:
        """Frees those of *names* that are held, in this order."""
        for name in names:
            if name in self.held:
                self.steps.append(Step(action="free", name=name, size_bytes=self.held.pop(name)))


def _float_mask(call: AttentionCall, tape: _Tape) -> Operand | None:
    """attention.cpp `convert_boolean_attn_mask`: `where(mask, 0, -inf)` in the query's type, both GPU
    scalars; the result keeps the mask's strides.
    """
    if call.mask is None or call.mask_dtype is not DType.BOOL:
        return call.mask
    tape.alloc("minus_infinity", tape.item)
    tape.alloc("zero_scalar", tape.item)
    tape.alloc("float_mask", call.mask.count * tape.item)
    tape.free("zero_scalar", "minus_infinity")
    return _densified(call.mask)


def _flash(call: AttentionCall, device: AttentionDevice, tape: _Tape, mask: Operand | None) -> AttentionPlan:
    """attention.cpp `pad_last_dim`, flash_api.cpp `mha_fwd` and `set_params_splitkv`.

    Padding to a multiple of 8 makes row-major copies; the output follows the (padded) query's order of strides and is
    sliced, not copied, to its size. Random state, unused here, is 16 + 8 bytes on the GPU (PyTorch 2.7 and later).
    """
    batch, heads, rows, head = call.query.shape
    padded = -(-head // 8) * 8
    if padded != head:
        for name, operand in (("query_padded", call.query), ("key_padded", call.key), ("value_padded", call.value)):
            tape.alloc(name, operand.count // head * padded * tape.item)
    query = call.query if padded == head else contiguous(batch, heads, rows, padded)
    storage = batch * heads * rows * padded * tape.item
    tape.alloc("output", storage)
    key_heads = call.key.shape[1]
    if rows == 1 and heads > key_heads:
        rows, heads = heads // key_heads, key_heads
    tape.alloc("logsumexp", batch * heads * rows * 4)
    splits = split_count(
        query_blocks=batch * heads * -(-rows // 64),
        multiprocessor_count=device.multiprocessor_count,
        key_blocks=-(-call.key.shape[2] // (256 if padded <= 64 else 128 if padded <= 128 else 64)),
    )
    if splits > 1:
        tape.alloc("logsumexp_parts", splits * batch * heads * rows * 4)
        rounded = -(-padded // 32) * 32 if padded <= 128 else -(-padded // 64) * 64
        tape.alloc("output_parts", splits * batch * heads * rows * rounded * 4)
    tape.alloc("random_state", 16)
    tape.alloc("random_unused", 8)
    tape.free("logsumexp_parts", "output_parts", "logsumexp", "random_state", "random_unused")
    tape.free("value_padded", "key_padded", "query_padded", "float_mask")
    return AttentionPlan(
        backend=Backend.FLASH,
        output_shape=call.query.shape,
        output_dim_order=_dim_order(query),
        output_storage_bytes=storage,
        steps=tuple(tape.steps),
    )


def _efficient(call: AttentionCall, device: AttentionDevice, tape: _Tape, mask: Operand | None) -> AttentionPlan:
    """attention.cpp `preprocess_mask`, attention.cu `_efficient_attention_forward`, kernel_forward.h.

    A mask whose strides are not multiples of 8 is padded before it is expanded: to the next multiple, or by 8 when the
    row already is one. Log-sum-exp has no rows in inference; random state lies on the CPU. A head above 128 in half
    precision needs an fp32 accumulator. The output lies in memory as (batch, sequence, heads, head size).
    """
    batch, heads, rows, _ = call.query.shape
    value_head = call.value.shape[-1]
    if mask is not None and (mask.strides[-1] != 1 or any(stride % 8 for stride in mask.strides[:-1])):
        width = mask.shape[-1]
        item = 4 if call.mask_dtype is DType.FLOAT32 else tape.item
        tape.alloc("mask_padded", mask.count // width * (width + 8 - width % 8) * item)
        tape.free("float_mask")
    values = batch * heads * rows * value_head
    tape.alloc("output", values * tape.item)
    if call.dtype in HALF and max(value_head, call.key.shape[-1]) > 128:
        tape.alloc("accumulator", values * 4)
    tape.free("accumulator", "mask_padded", "float_mask")
    return AttentionPlan(
        backend=Backend.EFFICIENT,
        output_shape=(batch, heads, rows, value_head),
        output_dim_order=(0, 2, 1, 3),
        output_storage_bytes=values * tape.item,
        steps=tuple(tape.steps),
    )


def _cudnn(call: AttentionCall, device: AttentionDevice, tape: _Tape, mask: Operand | None) -> AttentionPlan:
    """attention.cu `_cudnn_attention_forward`, MHA.cpp `run_cudnn_SDP_fprop`.

    Order as recorded on an H200: seed, offset, output, workspace. The output follows the query's order of strides.
    The workspace is cuDNN's answer: 256 bytes in all recordings but those of a single query row, which a kernel for
    decoding serves: nothing for few keys; for many a part of the output and two fp32 numbers a split: bounded.
    """
    batch, heads, rows, _ = call.query.shape
    value_head = call.value.shape[-1]
    size = batch * heads * rows * value_head * tape.item
    tape.alloc("seed", 8)
    tape.alloc("offset", 8)
    tape.alloc("output", size)
    splits = -(-call.key.shape[2] // _CUDNN_DECODE_SPLIT) if call.key.shape[2] > _CUDNN_DECODE_KEYS else 0
    decode = splits * batch * heads * (value_head + 2) * 4 + (_CUDNN_DECODE_SPLIT if splits else 0)
    tape.alloc("workspace", decode if rows == 1 else _CUDNN_WORKSPACE_BYTES)
    tape.free("workspace", "seed", "offset", "float_mask")
    return AttentionPlan(
        backend=Backend.CUDNN,
        output_shape=(batch, heads, rows, value_head),
        output_dim_order=_dim_order(call.query),
        output_storage_bytes=size,
        steps=tuple(tape.steps),
        bounded=("cuDNN's workspace for a single query row was measured twice only",) if rows == 1 else (),
    )


def _math(call: AttentionCall, device: AttentionDevice, tape: _Tape, mask: Operand | None) -> AttentionPlan:
    """attention.cpp `_scaled_dot_product_attention_math` and `_safe_softmax`, LinearAlgebra.cpp `_matmul_impl`.

    fp16 and bf16 compute in fp32 (`allow_fp16_bf16_reduction_math_sdp` is off), and the scores are converted back though
    nobody reads them: that copy is made before the second product (GCC evaluates arguments right to left; recorded).
    """
    lead, rows, columns = call.query.shape[:-2], call.query.shape[-2], call.key.shape[-2]
    half = call.dtype in HALF
    item = 4 if half else tape.item
    names = ("query", "key", "value")
    operands = dict(zip(names, (call.query, call.key, call.value), strict=True))
    for name in names if half else ():
        tape.alloc(f"{name}_float", operands[name].count * 4)
    tape.alloc("query_scaled", call.query.count * item)
    if call.is_causal:
        _causal_mask(rows, columns, item, tape)
    ratio = call.query.shape[-3] // call.key.shape[-3] if call.enable_gqa and len(lead) else 1
    for name in ("key", "value") if ratio > 1 else ():
        tape.alloc(f"{name}_repeated", operands[name].count * ratio * item)
        operands[name] = contiguous(*lead, *operands[name].shape[-2:])
    tape.alloc("key_scaled", operands["key"].count * item)
    scores = prod(lead) * rows * columns
    _copy_to_fold(tape, "query_folded", operands["query"], item)
    _copy_to_fold(tape, "key_folded", operands["key"], item)
    tape.alloc("scores", scores * item)
    _copy_for_product(tape, "key_copied", operands["key"], item)
    _copy_for_product(tape, "query_copied", operands["query"], item)
    tape.free("query_copied", "key_copied", "key_folded", "query_folded", "key_scaled")
    tape.alloc("softmax", scores * item)
    tape.alloc("is_masked", scores)
    tape.alloc("rows_masked", prod(lead) * rows)
    tape.alloc("zero", item)
    tape.free("zero", "rows_masked", "is_masked", "scores")
    output = prod(lead) * rows * call.value.shape[-1]
    if half:
        tape.alloc("scores_returned", scores * tape.item)
    _copy_to_fold(tape, "value_folded", operands["value"], item)
    tape.alloc("output_float" if half else "output", output * item)
    _copy_for_product(tape, "value_copied", operands["value"], item)
    tape.free("value_copied", "value_folded")
    if half:
        tape.alloc("output", output * tape.item)
        tape.free("output_float", "softmax")
    tape.free("key_repeated", "value_repeated", "query_scaled", "causal_mask")
    tape.free("value_float", "key_float", "query_float", "scores_returned", "softmax", "float_mask")
    return AttentionPlan(
        backend=Backend.MATH,
        output_shape=(*lead, rows, call.value.shape[-1]),
        output_dim_order=tuple(range(len(lead) + 2)),
        output_storage_bytes=output * tape.item,
        steps=tuple(tape.steps),
    )


def _causal_mask(rows: int, columns: int, item: int, tape: _Tape) -> None:
    """`ones().tril()` in bool, then the additive mask in the type of the computation."""
    tape.alloc("ones", rows * columns)
    tape.alloc("triangle", rows * columns)
    tape.free("ones")
    tape.alloc("minus_infinity_causal", item)
    tape.alloc("zero_causal", item)
    tape.alloc("causal_mask", rows * columns * item)
    tape.free("zero_causal", "minus_infinity_causal", "triangle")


def _copy_to_fold(tape: _Tape, name: str, operand: Operand, item: int) -> None:
    """`matmul` folds the leading dimensions into one for bmm, which copies when their strides do not allow a view.

    The operand read is the scaled or converted copy: dense, in the order of the original's strides.
    """
    if not _foldable(operand):
        tape.alloc(name, operand.count * item)


def _copy_for_product(tape: _Tape, name: str, operand: Operand, item: int) -> None:
    """Blas.cpp `prepare_batch_matrix_for_cublas`: neither matrix dimension of a folded view is dense."""
    dense = _densified(operand)
    (rows, columns), (row, column) = dense.shape[-2:], dense.strides[-2:]
    fits = (column == 1 and row >= max(1, columns)) or (row == 1 and column >= max(1, rows))
    if _foldable(operand) and not fits:
        tape.alloc(name, operand.count * item)


def _foldable(operand: Operand) -> bool:
    """Whether the leading dimensions of the dense copy of *operand* merge into one."""
    dense = _densified(operand)
    lead = [dim for dim in range(len(dense.shape) - 2) if dense.shape[dim] != 1]
    return all(dense.strides[a] == dense.strides[b] * dense.shape[b] for a, b in pairwise(lead))


def _densified(operand: Operand) -> Operand:
    """What a pointwise operator makes of *operand*: as it is when dense, else dense in the order of its strides."""
    expected = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(operand.strides, operand.shape, strict=True) if size != 1
    ):
        if stride != expected:
            break
        expected *= size
    else:
        return operand
    strides = [0] * len(operand.shape)
    running = 1
    for dim in reversed(_dim_order(operand)):
        strides[dim] = running
        running *= operand.shape[dim]
    return Operand(shape=operand.shape, strides=tuple(strides))


def _dim_order(operand: Operand) -> Shape:
    """Dimensions from the slowest to the fastest: MHA.cpp `alloc_with_matching_layout` sorts from the fastest."""
    return tuple(sorted(range(len(operand.shape)), key=lambda dim: (-operand.strides[dim], -dim)))


def _f32(number: float) -> float:
    value: float = struct.unpack("f", struct.pack("f", number))[0]
    return value
