"""Matrix products: the library's own workspaces, and the copies that strided operands need.

Sources: aten/src/ATen/native/Linear.cpp, LinearAlgebra.cpp (``_matmul_impl``), cuda/Blas.cpp (``prepare_matrix_for_cublas``,
``prepare_batch_matrix_for_cublas``, ``addmm_out_cuda_impl``), cuda/CublasHandlePool.cpp. A product's result is allocated first,
then copies of strided operands (the second one first: a row-major result is the product of the transposed ones), then the
library's workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vramplan.ranges import Evidence, Range
from vramplan.runtimes.torch_eager.dtypes import dtype_of
from vramplan.runtimes.torch_eager.layouts import bytes_of, fresh
from vramplan.runtimes.torch_eager.shadow import Op, Rule, Shadow, decompose
from vramplan.workspace import kernels
from vramplan.workspace.cublas import cublas_workspace_bytes, cublaslt_workspace_bytes

aten: Any = torch.ops.aten


def linear(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``linear``: one product over all leading axes; with a bias it is ``addmm``, whose epilogue adds it.

    An operand whose axes do not merge is copied to merge them where the weight requires a gradient, also under
    ``inference_mode`` (``should_fold``); else it is multiplied as a batch.
    """
    x, weight = args[0], args[1]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if weight.dim() != 2 or x.dim() < 2 or x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        return func(*args, **kwargs)  # fails, in PyTorch's words, or is too rare for a rule
    rows = x.numel() // max(x.shape[-1], 1)
    folds = x.dim() == 2 or _flattens(x)
    is_copied = not folds and (weight.requires_grad or not _merges(x.shape[:-2], x.stride()[:-2]))
    folded = _copy(shadow, x, "folded operand") if is_copied else -1
    out = shadow.watch(fresh((*x.shape[:-1], weight.shape[0]), x.dtype), "linear")
    matrix = ((rows, x.shape[-1]) if folds else x.shape[-2:], x.stride()[-2:])
    copies = [] if kernels.fits_blas(weight.shape, weight.stride()) else [_copy(shadow, weight, "dense operand")]
    if not is_copied and not kernels.fits_blas(*matrix):
        copies.append(_copy(shadow, x, "dense operand"))
    has_epilogue = folds and bias is not None and _has_epilogue((rows, x.shape[-1]), weight.shape[::-1], bias)
    prepare(shadow, epilogue=has_epilogue, count=out.numel())
    if getattr(weight, "_vramplan_storage", None) is not None:
        copies.append(_unpacked(shadow, weight))
    for copy in reversed(copies):
        shadow.ledger.free(copy)
    shadow.ledger.free(folded)
    return out


def product(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``mm``, ``bmm``, ``addmm``, ``baddbmm``, ``addmv`` and the like."""
    out = shadow.watch(func(*args, **kwargs), func._schema.name.partition("::")[2])
    first = 1 if func._schema.name in _ADDING else 0
    operands = reversed(args[first : first + 2])
    copies = [_copy(shadow, item, "dense operand") for item in operands if not _is_operand(item)]
    has_epilogue = func in _EPILOGUES and args[0].is_contiguous() and _has_epilogue(args[1].shape, args[2].shape, args[0])
    prepare(shadow, epilogue=has_epilogue, count=out.numel())
    for copy in reversed(copies):
        shadow.ledger.free(copy)
    return out


def prepare(shadow: Shadow, *, epilogue: bool, count: int) -> None:
    """What the libraries keep from their first product on: cuBLAS its workspace, cuBLASLt its own."""
    if not count:
        return
    shadow.findings.uses_gemm = True
    if "cublas" not in shadow.once:
        shadow.once["cublas"] = shadow.scratch(cublas_workspace_bytes(shadow.target.capability), "cuBLAS workspace")
    if epilogue and "cublaslt" not in shadow.once:
        shadow.once["cublaslt"] = shadow.scratch(cublaslt_workspace_bytes(shadow.target.capability), "cuBLASLt workspace")


def _has_epilogue(first: Sequence[int], second: Sequence[int], bias: torch.Tensor) -> bool:
    """Whether cuBLASLt adds the bias at the end of the product."""
    return kernels.uses_cublaslt(tuple(first), tuple(second), tuple(bias.shape) or (1,), dtype_of(bias))


def _unpacked(shadow: Shadow, weight: torch.Tensor) -> int:
    """A quantised weight in the compute type, for the length of the call: none with a fused kernel, at most one copy."""
    whole = bytes_of(weight.shape, weight.dtype)
    nominal = whole if weight._vramplan_storage.copies else 0  # type: ignore[attr-defined]
    shadow.bounded("linear", "quantised weights: a product may unpack a copy of its weight, or read the packed form")
    limits = Range(low_bytes=0, nominal_bytes=nominal, high_bytes=whole, evidence=Evidence.BOUNDED)
    return shadow.doubtful_scratch(limits, "unpacked weight")


def _copy(shadow: Shadow, tensor: torch.Tensor, name: str) -> int:
    return shadow.scratch(bytes_of(tensor.shape, tensor.dtype), name)


def _flattens(x: torch.Tensor) -> bool:
    """Whether the leading axes of *x* can be seen as one without a copy."""
    return x.is_contiguous() or _merges(x.shape[:-1], x.stride()[:-1])


def _merges(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    pairs = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size != 1]
    return all(pairs[i][1] == pairs[i + 1][1] * pairs[i + 1][0] for i in range(len(pairs) - 1))


def _is_operand(tensor: torch.Tensor) -> bool:
    if tensor.dim() < 2 or tensor.numel() == 0:
        return True
    return kernels.fits_blas(tensor.shape[-2:], tensor.stride()[-2:])


_ADDING = frozenset({"aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::addr", "aten::_addmm_activation"})
_EPILOGUES = frozenset({aten.addmm.default, aten._addmm_activation.default})

RULES: dict[Op, Rule] = {
    aten.linear.default: linear,
    aten.mm.default: product,
    aten.bmm.default: product,
    aten.addmm.default: product,
    aten.baddbmm.default: product,
    aten.addmv.default: product,
    aten.mv.default: product,
    aten.dot.default: product,
    aten._addmm_activation.default: product,
    aten.matmul.default: decompose,
}
