"""Temporaries of PyTorch's CUDA kernels that no output shows, one function an operator.

Each function returns what is allocated besides the output, in order; all of it is freed when the operator returns, unless
`persistent`. Zero bytes are never asked for, so they are left out. `bounded` marks an upper bound, or a size that holds
in some versions only. Sources were read at commits around 2.13; 2.11 is confirmed where a test says "recorded".

"""

from __future__ import annotations

from vramplan.workspace.kernels.layers import (
    adaptive_avg_pool2d_is_mean,
    convolution_copies,
    depthwise_uses_cudnn,
    fft,
    is_channels_last,
    is_depthwise,
    max_pool2d,
    recurrent,
)
from vramplan.workspace.kernels.norms import (
    batch_norm,
    group_norm,
    layer_norm,
    rms_norm,
    uses_cudnn_batch_norm,
)
from vramplan.workspace.kernels.products import (
    batch_matrix_copy,
    fits_blas,
    matrix_copy,
    uses_cublaslt,
)
from vramplan.workspace.kernels.reductions import (
    Reduction,
    reduce,
)
from vramplan.workspace.kernels.scratch import (
    Scratch,
    contiguous_copy,
    is_dense,
    is_dense_row_major,
)
from vramplan.workspace.kernels.selection import (
    count_storage,
    cumsum,
    index_put,
    scan_storage,
    sort,
    sort_storage,
    topk,
    topk_is_multiblock,
    unique_storage,
)
from vramplan.workspace.kernels.transformer import (
    multi_head_attention,
    transformer_encoder_layer,
)

__all__ = [
    "Reduction",
    "Scratch",
    "adaptive_avg_pool2d_is_mean",
    "batch_matrix_copy",
    "batch_norm",
    "contiguous_copy",
    "convolution_copies",
    "count_storage",
    "cumsum",
    "depthwise_uses_cudnn",
    "fft",
    "fits_blas",
    "group_norm",
    "index_put",
    "is_channels_last",
    "is_dense",
    "is_dense_row_major",
    "is_depthwise",
    "layer_norm",
    "matrix_copy",
    "max_pool2d",
    "multi_head_attention",
    "recurrent",
    "reduce",
    "rms_norm",
    "scan_storage",
    "sort",
    "sort_storage",
    "topk",
    "topk_is_multiblock",
    "transformer_encoder_layer",
    "unique_storage",
    "uses_cublaslt",
    "uses_cudnn_batch_norm",
]
