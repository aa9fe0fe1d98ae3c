"""What the children that run PyTorch share: the device they see, and the words when they see none."""

from __future__ import annotations

import torch

DEVICE = torch.device("cuda:0")


def no_cuda() -> str:
    """Why PyTorch has no GPU to run on."""
    built = torch.version.cuda
    if built is None:
        return f"PyTorch {torch.__version__} is a build without CUDA"
    return f"PyTorch {torch.__version__} (CUDA {built}) sees no GPU"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device had no memory left: PyTorch's own error, or that of a library that allocates by itself."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text
