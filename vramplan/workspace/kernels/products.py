"""Matrix products: what goes to cuBLASLt, and which operands are copied."""

from __future__ import annotations

from math import prod

from vramplan.dtypes import DType
from vramplan.workspace.kernels.scratch import HALF, Scratch, Shape, held, is_dense, is_dense_row_major, item_bytes


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
        and dtype in {DType.FLOAT64, DType.FLOAT32, *HALF}
        and mat2_shape[0] > 1
        and mat2_shape[1] > 1
    )


def fits_blas(shape: Shape, strides: Shape) -> bool:
    """cuBlasCommonArgs.h: of the two axes of a matrix one is dense, and the other leads by at least its length."""
    (rows, columns), (row, column) = shape, strides
    return (column == 1 and row >= max(1, columns)) or (row == 1 and column >= max(1, rows))


def matrix_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """The copy `addmm` and `mm` make of a 2-D operand: cuBlasCommonArgs.h `prepare_matrix_for_cublas`.

    None when it is dense, or one stride is 1 and the other at least the length of that dimension.
    """
    if is_dense(shape, strides) or fits_blas(shape, strides):
        return ()
    return held(Scratch(name="matrix_copy", size_bytes=prod(shape) * item_bytes(dtype)))


def batch_matrix_copy(shape: Shape, strides: Shape, dtype: DType) -> tuple[Scratch, ...]:
    """The copy `bmm` and `baddbmm` make of a 3-D operand: Blas.cpp `prepare_batch_matrix_for_cublas`.

    None when one of the two matrix strides is 1 and the other at least that dimension's length, whatever the batch
    stride is; a row-major tensor is never copied. Stated for a row-major result, as `bmm` allocates it.
    """
    if fits_blas(shape[1:], strides[1:]) or (is_dense_row_major(shape, strides) and all(strides[1:])):
        return ()
    return held(Scratch(name="batch_matrix_copy", size_bytes=prod(shape) * item_bytes(dtype)))
