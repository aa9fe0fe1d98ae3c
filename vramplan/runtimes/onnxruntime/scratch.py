"""Scratch memory of kernels, which they take from the arena while they run.

Convolutions ask cuDNN, by one of two heuristics (`Search`). Mode A is PyTorch's, so `vramplan.workspace` answers; for mode B,
the default, cuDNN answers where it is installed. Without it nominal is fitted: copies of input, weight and output wherever mode
A's kernel copies any of them. On the measured sessions (ONNX Runtime 1.30, H200) this makes the arena as large as it was in all
but those that the accuracy page names. The other ops have one row each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from vramplan.dtypes import DType
from vramplan.graph import Node, Tensor
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.onnxruntime.options import Search, SessionOptions
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import ConvWorkspaces

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_CONV_TYPES = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64})

Tensors = Mapping[str, Tensor]
Sizes = tuple[int, ...]


OFF_STREAM = frozenset({"LogSoftmax", "Softmax"})
"""Ops whose scratch is asked for without the run's stream, so that no chunk of the run may serve it (softmax.cc)."""

Scratch = Mapping[int, tuple[Range, ...]]
"""What a kernel takes at the same time, buffer by buffer in the order of their allocation, by the position of its node."""


def scratch_of(
    nodes: Sequence[Node], tensors: Tensors, options: SessionOptions, workspaces: ConvWorkspaces, *, is_nhwc: bool
) -> Scratch:
    """The scratch of *nodes*; those without any are left out."""
    calls = {index: call for index, node in enumerate(nodes) if (call := conv_call(node, tensors, is_nhwc=is_nhwc))}
    answers = dict(zip(calls, workspaces.of_many(list(calls.values())), strict=True))
    is_ranked = workspaces.is_by_cudnn and workspaces.flags.heuristic == "B"
    found: dict[int, tuple[Range, ...]] = {
        index: (_searched(calls[index], answer, options.search, is_ranked),) for index, answer in answers.items()
    }
    for index, node in enumerate(nodes):
        if rule := KERNELS.get(node.op):
            found[index] = tuple(_bounded(size_bytes, size_bytes) for size_bytes in rule(node, tensors))
    return {index: kept for index, sizes in found.items() if (kept := tuple(size for size in sizes if size.high_bytes))}


def conv_call(node: Node, tensors: Tensors, *, is_nhwc: bool) -> ConvCall | None:
    """The convolution that *node* is; None for other ops and for shapes that are not known."""
    if node.op not in CONVOLUTIONS:
        return None
    x, w = tensors[node.inputs[0]], tensors[node.inputs[1]]
    rank = len(x.shape or ()) - 2
    if x.shape is None or w.shape is None or not 1 <= rank <= 3 or x.dtype not in _CONV_TYPES:
        return None
    try:
        return ConvCall(
            input_shape=x.shape,
            weight_shape=w.shape,
            dtype=x.dtype,
            stride=_numbers(node, "strides", rank),
            padding=_numbers(node, "pads", rank, default=0),
            dilation=_numbers(node, "dilations", rank),
            groups=int(str(node.attributes.get("group", 1))),
            transposed=node.op == "ConvTranspose",
            channels_last=is_nhwc,
        )
    except ValueError:
        return None


def _numbers(node: Node, name: str, rank: int, *, default: int = 1) -> tuple[int, ...]:
    found = node.attributes.get(name, ())
    numbers = tuple(int(item) for item in found if isinstance(item, int)) if isinstance(found, tuple) else ()
    return numbers[:rank] if len(numbers) >= rank else (default,) * rank


def _searched(call: ConvCall, answer: Range, search: Search, is_ranked: bool) -> Range:
    """*answer* is mode A's, or with *is_ranked* cuDNN's own for mode B."""
    if search is Search.DEFAULT:
        return _bounded(0, answer.high_bytes)
    if is_ranked or search is Search.HEURISTIC or call.is_pointwise or call.is_depthwise or not answer.nominal_bytes:
        return answer
    copies = copied_bytes(call)
    return _bounded(max(answer.nominal_bytes, copies), max(answer.high_bytes, copies))


def copied_bytes(call: ConvCall) -> int:
    """A copy of input, weight and output each."""
    counts = (math.prod(call.input_shape), math.prod(call.weight_shape), math.prod(call.output_shape))
    return sum(map(call.dtype.storage_bytes, counts))


def _bounded(nominal: int, high: int) -> Range:
    return Range(low_bytes=0, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED)


def _topk(node: Node, tensors: Tensors) -> Sizes:
    """Keys and indices of the sorted axis, in and out: radix sort of one row at a time (topk_impl.cuh)."""
    x = tensors[node.inputs[0]]
    axis = int(str(node.attributes.get("axis", -1)))
    length = x.shape[axis] if x.shape and -len(x.shape) <= axis < len(x.shape) else x.count
    return (2 * length * (x.dtype.bits // 8 + 8),)


def _suppression(node: Node, tensors: Tensors) -> Sizes:
    """Boxes sorted by score, and a bit for every pair of them (non_max_suppression_impl.cu), for one class at a time."""
    boxes = tensors[node.inputs[0]]
    count = boxes.shape[1] if boxes.shape and len(boxes.shape) == 3 else 0
    return (count * (4 * 4 + 4 * 4) + count * -(-count // 64) * 8,)


def _reduction(node: Node, tensors: Tensors) -> Sizes:
    """Reductions of cuDNN work in fp32, and a 16-bit input is converted first (reduction_ops.cc)."""
    x = tensors[node.inputs[0]]
    return (4 * x.count,) if x.dtype.is_float and x.dtype.bits == 16 else ()


def _nonzero(node: Node, tensors: Tensors) -> Sizes:
    """A count for each block of 1,024 elements (nonzero_impl.cu)."""
    return (8 * -(-tensors[node.inputs[0]].count // 1024),)


def _attention(node: Node, tensors: Tensors) -> Sizes:
    """Query, key and value side by side, which the fused op projects into scratch (attention.cc)."""
    x = tensors[node.inputs[0]]
    return (3 * x.size_bytes,)


def _concat(node: Node, tensors: Tensors) -> Sizes:
    """Tables for inputs of different lengths: their addresses, lengths, which input each place is of, and sums (concat.cc)."""
    return _tables(node, tensors, node.reads, node.writes[0], is_last_a_map=False)


def _split(node: Node, tensors: Tensors) -> Sizes:
    """The same for outputs of different lengths, the map last (split.cc)."""
    return _tables(node, tensors, node.writes, node.inputs[0], is_last_a_map=True)


def _tables(node: Node, tensors: Tensors, parts: Sequence[str], whole: str, *, is_last_a_map: bool) -> Sizes:
    """Kernels take what they know of up to 32 parts of one length as arguments; else it goes through memory."""
    shapes, total = [tensors[name].shape for name in parts], tensors[whole].shape
    axis = int(str(node.attributes.get("axis", 0)))
    if not total or not -len(total) <= axis < len(total) or any(shape is None or len(shape) != len(total) for shape in shapes):
        return ()
    pointers, places = 8 * len(parts), 8 * total[axis]
    if len({shape[axis] for shape in shapes if shape}) == 1:
        return (pointers,) if len(parts) > _BY_VALUE_COUNT else ()
    return (pointers, pointers, pointers, places) if is_last_a_map else (pointers, pointers, places, pointers)


_BY_VALUE_COUNT = 32
"""``TArray``'s capacity (core/providers/cuda/shared_inc/cuda_utils.h)."""


def _softmax(node: Node, tensors: Tensors) -> Sizes:
    """Along another axis than the last, the input is transposed, and so is the result (softmax.cc)."""
    x = tensors[node.inputs[0]]
    axis = int(str(node.attributes.get("axis", -1)))
    is_last = not x.shape or axis in (-1, len(x.shape) - 1)
    return () if is_last else (x.size_bytes, x.size_bytes)


def _instance_norm(node: Node, tensors: Tensors) -> Sizes:
    """Scale, bias, mean and variance for each channel of each image, where there are several (instance_norm.cc)."""
    x = tensors[node.inputs[0]]
    if not x.shape or len(x.shape) < 2 or x.shape[0] < 2:
        return ()
    return (x.shape[0] * x.shape[1] * max(4, x.dtype.bits // 8),) * 4


KERNELS: dict[str, Callable[[Node, Tensors], Sizes]] = {
    "Attention": _attention,
    "Concat": _concat,
    "InstanceNormalization": _instance_norm,
    "LogSoftmax": _softmax,
    "NonMaxSuppression": _suppression,
    "NonZero": _nonzero,
    "ReduceL2": _reduction,
    "ReduceMax": _reduction,
    "ReduceMin": _reduction,
    "Softmax": _softmax,
    "Split": _split,
    "TopK": _topk,
}
"""Buffers of scratch by op, at the shapes of a node. LayerNorm, sums, means, Resize and Transpose take none."""
