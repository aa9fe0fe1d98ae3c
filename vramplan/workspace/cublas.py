"""What cuBLAS and cuBLASLt keep from the caching allocator, from their first product on.

Sources: aten/src/ATen/cuda/CublasHandlePool.cpp (``parseChosenWorkspaceSize``, ``_getWorkspaceSize``): 4 MiB x 8 KiB units by
compute capability; `CUBLAS_WORKSPACE_CONFIG` changes it. Measured on an H200 with PyTorch 2.11: 33,554,432 B at the first
product, 1,048,576 B more at the first one with a bias in its epilogue.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from vramplan.errors import UsageError
from vramplan.units import KIB, MIB

_LARGE_BYTES = 4096 * KIB * 8
"""``:4096:8``, the default of compute capability 9.x and later (Hopper and Blackwell)."""

_DEFAULT_BYTES = 4096 * KIB * 2 + 16 * KIB * 8
"""``:4096:2:16:8``, the default of every other device."""

_CUBLASLT_BYTES = MIB


def cublas_workspace_bytes(capability: tuple[int, int], environment: Mapping[str, str] = os.environ) -> int:
    """Bytes cuBLAS keeps for each stream, on a device of compute *capability*.

    ``CUBLAS_WORKSPACE_CONFIG`` (``:SIZE:COUNT`` in KiB, repeated) is honoured. UsageError when it is malformed.
    """
    text = environment.get("CUBLAS_WORKSPACE_CONFIG", "")
    if not text:
        return _LARGE_BYTES if capability[0] in (9, 10, 12) else _DEFAULT_BYTES
    pairs = re.findall(r":(\d{1,9}):(\d{1,6})", text)
    if "".join(f":{size}:{count}" for size, count in pairs) != text:
        raise UsageError(
            f"CUBLAS_WORKSPACE_CONFIG: {text[:40]!r} is not :SIZE:COUNT", hint="Write it like :4096:8, or unset it."
        )
    return sum(int(size) * KIB * int(count) for size, count in pairs)


def cublaslt_workspace_bytes(capability: tuple[int, int]) -> int:
    """Bytes cuBLASLt keeps for each stream (``CUBLASLT_WORKSPACE_SIZE`` is not read by PyTorch 2.11 for this part)."""
    return _CUBLASLT_BYTES
