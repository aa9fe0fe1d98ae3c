"""Weight-only quantisation, as torchao stores it: the weights of ``nn.Linear`` in 8 or 4 bits with scales, the rest in half.

int8  one int8 a weight, one scale of the compute type for each output row; ``linear`` multiplies by a copy of the weight in the
      compute type, which lives as long as the call (torchao ``int8_weight_only``)
fp8   one float8_e4m3 a weight, one fp32 scale for each output row; the same copy (torchao ``float8_weight_only``)
int4  two weights a byte, a scale and a zero of the compute type for each 128 elements of a row; the kernel unpacks in
      registers, so a copy is possible but not usual (torchao ``int4_weight_only``)

The copies are what the stored form needs without fused kernels: bounded, from none to one copy of the layer's weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vramplan.dtypes import DType
from vramplan.precision import GROUP_SIZE, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How the weight of a linear layer is kept: ``bits`` an element, and what its scales take."""

    bits: int
    scale_bytes: int
    group_size: int | None
    copies: bool

    def sizes(self, weight: torch.Tensor) -> tuple[int, int]:
        """Bytes of the packed weight and of its scales."""
        rows, columns = weight.shape
        groups = 1 if self.group_size is None else math.ceil(columns / self.group_size)
        return math.ceil(rows * columns * self.bits / 8), rows * groups * self.scale_bytes


_STORED = {
    DType.INT8: Storage(bits=8, scale_bytes=2, group_size=None, copies=True),
    DType.FLOAT8_E4M3FN: Storage(bits=8, scale_bytes=4, group_size=None, copies=True),
    DType.INT4: Storage(bits=4, scale_bytes=2 * 2, group_size=GROUP_SIZE, copies=False),
}


def storage_of(policy: Policy) -> Storage | None:
    """The storage that *policy* means for PyTorch; None when weights stay as wide as everything else."""
    return _STORED[policy.weight_type] if policy.weight_type is not None else None
