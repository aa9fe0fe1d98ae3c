"""Which kernel `scaled_dot_product_attention` picks on CUDA in inference.

The rules follow PyTorch's sources; each function names its file. Read at commits around 2.13, compared with 2.11 where
a recording of it exists (ViT and BERT in fp16 on an H200). No gradients, no dropout, dense tensors, CUDA (not ROCm).

Known limitations: storage offsets are not checked (2.14 refuses the efficient kernel for unaligned ones), user
settings (`sdpa_kernel`, `TORCH_CUDNN_SDPA_DEPRIORITIZED`) are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from math import prod

from vramplan.dtypes import DType
from vramplan.errors import UsageError

Shape = tuple[int, ...]
Refusal = Iterator[str]

HALF = (DType.FLOAT16, DType.BFLOAT16)
_CUDNN_PREFERRED_ABOVE = 91_500
"""cuDNN 9.15.1 is the first that PyTorch 2.10 and later prefer (issue 169849)."""
_CUDNN_PREFERRED_BEFORE_2_10 = 90_900
_CUDNN_D256_ON_HOPPER_SINCE = 91_000
_CUDNN_D256_ABOVE = 92_200
_CUDNN_D256_SINCE = (2, 13)
_EFFICIENT_GQA_SINCE = (2, 14)


class Backend(Enum):
    """One of PyTorch's four implementations of attention."""

    FLASH = "flash"
    EFFICIENT = "efficient"
    CUDNN = "cudnn"
    MATH = "math"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor as a kernel sees it; strides count elements.

    Invariant: one stride a dimension.
    """

    shape: Shape
    strides: Shape

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides):
            raise UsageError(f"shape {self.shape} and strides {self.strides} differ in length")

    @property
    def count(self) -> int:
        """Elements, broadcast ones included."""
        return prod(self.shape)


def contiguous(*shape: int) -> Operand:
    """An operand in row-major order."""
    return Operand(shape=shape, strides=_row_major(shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """One call; query, key and value are (batch, heads, sequence, head size), or have more or fewer leading dimensions.

    Invariant: a mask and `is_causal` exclude each other; a mask is boolean, float32 or of the call's type.
    """

    query: Operand
    key: Operand
    value: Operand
    dtype: DType
    mask: Operand | None = None
    mask_dtype: DType = DType.BOOL
    is_causal: bool = False
    enable_gqa: bool = False

    def __post_init__(self) -> None:
        if self.mask is not None and self.is_causal:
            raise UsageError("attention takes a mask or is_causal, not both")
        if self.mask is not None and self.mask_dtype not in {DType.BOOL, DType.FLOAT32, self.dtype}:
            raise UsageError(f"an attention mask of {self.mask_dtype} does not go with {self.dtype}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDevice:
    """What the choice depends on; cuDNN's version as it numbers itself (9.19.0 is 91900)."""

    capability: tuple[int, int]
    multiprocessor_count: int
    torch_version: tuple[int, int] = (2, 11)
    cuda_version: tuple[int, int] = (13, 0)
    cudnn_version: int = 91_900


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backend that runs, and why each one tried before it was refused."""

    backend: Backend
    refusals: tuple[tuple[Backend, str], ...] = ()


def priority(device: AttentionDevice) -> tuple[Backend, ...]:
    """The order in which backends are tried.

    sdp_utils.cpp `check_prefer_cudnn_attention` and Context.h `sdp_priority_order`. Without the preference cuDNN comes
    after math, which never refuses: it is never reached. Compute capability 9.x and 10.x only; with CUDA 12 only minor
    versions 0 and 3. The threshold before PyTorch 2.10 is from memory of its source: bounded.
    """
    major, minor = device.capability
    if device.torch_version >= (2, 10):
        recent = device.cudnn_version > _CUDNN_PREFERRED_ABOVE
        minors_ok = device.cuda_version >= (13, 0) or minor in {0, 3}
    else:
        recent, minors_ok = device.cudnn_version >= _CUDNN_PREFERRED_BEFORE_2_10, minor == 0
    fused = (Backend.FLASH, Backend.EFFICIENT, Backend.MATH)
    return (Backend.CUDNN, *fused) if recent and minors_ok and major in {9, 10} else fused


def choose_backend(call: AttentionCall, device: AttentionDevice) -> Choice:
    """The backend PyTorch runs for *call*: sdp_utils.cpp `select_sdp_backend`, first in `priority` that refuses nothing."""
    refusals: list[tuple[Backend, str]] = []
    for backend in priority(device):
        reason = next(_CHECKS[backend](call, device), "")
        if not reason:
            return Choice(backend=backend, refusals=tuple(refusals))
        refusals.append((backend, reason))
    raise UsageError("no attention backend: math refuses nothing, so this cannot happen")


def _refused_by_math(call: AttentionCall, device: AttentionDevice) -> Refusal:
    yield from ()


def _refused_by_flash(call: AttentionCall, device: AttentionDevice) -> Refusal:
    """sdp_utils.cpp `can_use_flash_attention`."""
    yield from _not_four_dimensional(call)
    if call.mask is not None:
        yield "flash attention takes no mask"
    head, key_head, value_head = call.query.shape[-1], call.key.shape[-1], call.value.shape[-1]
    if not head == key_head == value_head or head > 256:
        yield f"head sizes {head}, {key_head}, {value_head} are not equal and at most 256"
    if not (8, 0) <= device.capability <= (12, 1):
        yield f"compute capability {_dotted(device.capability)} is outside 8.0 to 12.1"
    if call.is_causal and call.query.shape[-2] != call.key.shape[-2]:
        yield "causal attention needs equal query and key lengths"
    if call.dtype not in HALF:
        yield f"{call.dtype} is neither float16 nor bfloat16"
    yield from _refused_dense(call, gqa=True)
    yield from _refused_strides(call, ignore_single=True)


def _refused_by_efficient(call: AttentionCall, device: AttentionDevice) -> Refusal:
    """sdp_utils.cpp `can_use_mem_efficient_attention`. Grouped heads before 2.14 are taken as unsupported: bounded."""
    yield from _not_four_dimensional(call)
    if not (5, 0) <= device.capability <= (12, 1):
        yield f"compute capability {_dotted(device.capability)} is outside 5.0 to 12.1"
    alignment = _gemm_alignment(call.dtype, device.capability)
    head, value_head = call.query.shape[-1], call.value.shape[-1]
    if head != call.key.shape[-1] or head % alignment or value_head % alignment or not head or not value_head:
        yield f"head sizes {head} and {value_head} are not multiples of {alignment}"
    yield from _refused_strides(call, ignore_single=False)
    yield from _refused_dense(call, gqa=device.torch_version >= _EFFICIENT_GQA_SINCE)
    allowed = (DType.FLOAT16, DType.FLOAT32) + ((DType.BFLOAT16,) if device.capability >= (8, 0) else ())
    if call.dtype not in allowed:
        yield f"{call.dtype} has no kernel at compute capability {_dotted(device.capability)}"


def _refused_by_cudnn(call: AttentionCall, device: AttentionDevice) -> Refusal:
    """sdp_utils.cpp `can_use_cudnn_attention` and `check_cudnn_tensor_shapes`."""
    yield from _not_four_dimensional(call)
    if call.dtype not in HALF:
        yield f"{call.dtype} is neither float16 nor bfloat16"
    if not _mask_fits(call):
        yield "the mask does not broadcast as (query, key) or (batch, heads, query, key)"
    yield from _refused_strides(call, ignore_single=True)
    yield from _refused_dense(call, gqa=True)
    head, value_head, limit = call.query.shape[-1], call.value.shape[-1], _cudnn_head_limit(call, device)
    if head > limit or value_head > limit or head % 8 or value_head % 8:
        yield f"head sizes {head} and {value_head} are not multiples of 8 up to {limit}"
    if max(call.query.shape[:2]) > 65_535:
        yield "batch or heads above 65535"
    if call.key.shape[2] == 1:
        yield "cuDNN takes no key of length 1"


_CHECKS: dict[Backend, Callable[[AttentionCall, AttentionDevice], Refusal]] = {
    Backend.FLASH: _refused_by_flash,
    Backend.EFFICIENT: _refused_by_efficient,
    Backend.CUDNN: _refused_by_cudnn,
    Backend.MATH: _refused_by_math,
}


def _not_four_dimensional(call: AttentionCall) -> Refusal:
    if {len(t.shape) for t in (call.query, call.key, call.value)} != {4}:
        yield "query, key and value are not all 4-dimensional"


def _refused_dense(call: AttentionCall, *, gqa: bool) -> Refusal:
    """sdp_utils_cpp.h `check_batch_size_and_num_heads_dense`, `check_nonzero_sequence_lengths_dense`."""
    if not call.query.shape[0] == call.key.shape[0] == call.value.shape[0]:
        yield "batch sizes differ"
    heads, key_heads, value_heads = (t.shape[-3] for t in (call.query, call.key, call.value))
    grouped = call.enable_gqa and gqa and key_heads == value_heads and heads % key_heads == 0
    if not grouped and not heads == key_heads == value_heads:
        yield f"{heads} query heads do not go with {key_heads} and {value_heads}"
    if not call.query.shape[-2] or not call.key.shape[-2]:
        yield "an empty sequence"


def _refused_strides(call: AttentionCall, *, ignore_single: bool) -> Refusal:
    """sdp_utils_cpp.h `check_last_dim_stride_equals_1_dense`."""
    plain = all(t.strides[-1] == 1 for t in (call.query, call.key, call.value))
    plain = plain or (ignore_single and call.query.shape[-1] == 1)
    if not plain or (call.mask is not None and call.mask.strides[-1] != 1):
        yield "the last dimension of query, key, value or mask is not dense"


def _gemm_alignment(dtype: DType, capability: tuple[int, int]) -> int:
    """sdp_utils.cpp `minimum_gemm_alignment`."""
    half = dtype in HALF
    if capability[0] >= 8:
        return 8 if half else 4
    return 8 if half and capability[0] == 7 else 1


def _mask_fits(call: AttentionCall) -> bool:
    """sdp_utils_cpp.h `check_attn_mask_shape`."""
    if call.mask is None:
        return True
    full = (*call.query.shape[:2], call.query.shape[2], call.key.shape[2])
    shape = call.mask.shape
    return len(shape) in {2, 4} and all(have in {1, want} for have, want in zip(shape[::-1], full[::-1], strict=False))


def _cudnn_head_limit(call: AttentionCall, device: AttentionDevice) -> int:
    """sdp_utils.cpp `check_cudnn_tensor_shapes`: 256 on 9.0 since cuDNN 9.10 (recorded: heads of 192 and 256).

    On 10.x 256 needs a cuDNN frontend of 1.24, taken to come with 2.13: bounded.
    """
    if device.capability == (9, 0):
        return 256 if device.cudnn_version >= _CUDNN_D256_ON_HOPPER_SINCE else 128
    if device.capability[0] != 10:
        return 128
    if device.torch_version >= _CUDNN_D256_SINCE and device.cudnn_version > _CUDNN_D256_ABOVE:
        return 256
    deep = (call.query.shape[-1], call.value.shape[-1]) == (192, 128)
    return 192 if deep and device.cudnn_version >= 91_100 else 128


def _row_major(shape: Shape) -> Shape:
    strides, running = [], 1
    for size in reversed(shape):
        strides.append(running)
        running *= max(size, 1)
    return tuple(reversed(strides))


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
