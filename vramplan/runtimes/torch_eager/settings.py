"""What the program has set in PyTorch that changes which kernels run: a factory may, before it returns its module."""

from __future__ import annotations

from typing import Any

import torch

from vramplan.workspace.cudnn import CudnnFlags


def cudnn_flags() -> CudnnFlags:
    """``torch.backends.cudnn`` as it is now."""
    cudnn = torch.backends.cudnn
    try:
        tf32 = bool(cudnn.allow_tf32)
    except RuntimeError:  # set through the newer ``fp32_precision``, which the older name then refuses to read
        convolutions: Any = getattr(cudnn, "conv", None)
        tf32 = getattr(convolutions, "fp32_precision", "") != "ieee"
    return CudnnFlags(tf32=tf32, deterministic=bool(cudnn.deterministic), benchmark=bool(cudnn.benchmark))
