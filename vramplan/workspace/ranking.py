"""Which kernels cuDNN prefers to cuBLASLt's matrix products for 1x1 convolutions, told by the kernel it names without a GPU.

Without a GPU cuBLASLt does not start, and cuDNN leaves its products out of the ranking: what it names is the best of the rest.
Whether a product would have been ranked above it, it does not say. But the ranking is a learned one, and the kernel that it
picks goes with the shapes: on an H200 (cuDNN 9.19, 3,551 calls of PyTorch 2.11, among them 104 runs of the zoo) the kernels
below won in nearly every call for which they were named, and others in hardly any. So the kernel is the rule. It was read off
all of these calls, so no half of them judges it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vramplan.workspace.convolution import ConvCall

_TILE, _WORKSPACE, _ROWS, _COLUMNS = 2, 25, 27, 28
"""cudnnBackendKnobType_t: TILE_SIZE, WORKSPACE, TILE_CGA_M, TILE_CGA_N (``cudnn_graph.h``)."""


class Kernel(NamedTuple):
    """An engine and the knobs that tell its kernels apart."""

    engine: int
    tile: int
    workspace: int
    rows: int
    columns: int


_ROW_MAJOR = frozenset({
    Kernel(62, 0, 0, 1, 2), Kernel(62, 5, 0, 2, 4), Kernel(62, 7, 0, 7, 1), Kernel(62, 0, 1, 8, 1),
    Kernel(67, 1, 1, 8, 1), Kernel(67, 18, 1, 8, 1), Kernel(67, 16, 1, 2, 1), Kernel(67, 0, 1, 1, 4),
})  # fmt: skip
"""Kernels for channels_last that win although they copy row-major images: 62 in 16 bits, 67 in TF32. 86 of 89 calls."""

_ALSO_ALONE = Kernel(62, 0, 0, 1, 2)
"""The one of them that wins for a single image too. 4 of 4 calls; the others never did."""

_PADDED = Kernel(62, 4, 1, 1, 5)
"""Wins where outputs are no whole vectors and channels are few: it pads output and weights. 2 of 2 calls."""

_SIXTEEN_BITS = 62


def beats_products(reply: Mapping[str, Any], call: ConvCall) -> bool:
    """Whether the kernel of *reply* runs for the 1x1 convolution *call*, and no product."""
    kernel = _kernel(reply)
    if call.groups != 1:
        return False
    if call.channels_last:
        return kernel == _PADDED
    return kernel in _ROW_MAJOR if call.input_shape[0] > 1 else kernel == _ALSO_ALONE


def takes_nothing(reply: Mapping[str, Any], call: ConvCall) -> bool:
    """Whether a kernel of 16-bit vectors is named although outputs are odd: a product that pads runs then, without scratch."""
    return call.channels_last and call.output_shape[1] % 2 == 1 and reply.get("engine") == _SIXTEEN_BITS


def _kernel(reply: Mapping[str, Any]) -> Kernel | None:
    knobs = {int(key): value for key, value in reply.get("knobs", {}).items()}
    wanted = (_TILE, _WORKSPACE, _ROWS, _COLUMNS)
    if not isinstance(reply.get("engine"), int) or not all(knob in knobs for knob in wanted):
        return None
    return Kernel(reply["engine"], *(knobs[knob] for knob in wanted))
