"""Which kernels win over matrix products, and what would spare a convolution its workspace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vramplan.dtypes import DType
from vramplan.gpus import find_gpu
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces
from vramplan.workspace.ranking import beats_products, takes_nothing
from vramplan.workspace.remedies import remedies


def pointwise(channels: int = 400, outputs: int = 160, side: int = 160, *, channels_last: bool = False) -> ConvCall:
    return ConvCall(
        input_shape=(8, channels, side, side),
        weight_shape=(outputs, channels, 1, 1),
        dtype=DType.FLOAT16,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        channels_last=channels_last,
    )


def reply(engine: int, tile: int, workspace: int, rows: int, columns: int, size_bytes: int = 229_376_147) -> dict:
    knobs = {"2": tile, "13": 1, "18": 0, "25": workspace, "27": rows, "28": columns}
    return {"bytes": size_bytes, "engine": engine, "knobs": knobs, "unshared_bytes": None}


class Answers:
    """Answers every call with one reply."""

    version = 91900
    unanswered_count = 0

    def __init__(self, found: dict) -> None:
        self.found = found

    def replies(self, calls, flags):
        return [self.found for _ in calls]

    def save(self) -> None:
        pass


def nominal(found: dict, call: ConvCall) -> int:
    workspaces = ConvWorkspaces(find_gpu("h200"), answers=Answers(found))
    return workspaces.of(call).nominal_bytes


def test_a_kernel_that_wins_copies_its_operands():
    """YOLOv8x, stage 0, fp16, batch 8: 163,840,000 B of input and 65,536,000 of output in another layout, and partial sums. The
    H200 asked for 233,570,611."""
    found = nominal(reply(62, 0, 1, 8, 1), pointwise())
    assert found == 229_376_147
    assert 163_840_000 + 65_536_000 <= found <= 233_570_611


@pytest.mark.parametrize(
    "other", [reply(62, 0, 1, 4, 1), reply(62, 19, 1, 2, 1), reply(45, 5, 0, 1, 2), {"bytes": 9, "engine": 22}]
)
def test_other_kernels_give_way_to_a_product_without_workspace(other):
    assert not beats_products(other, pointwise())
    assert nominal({"knobs": {}, **other}, pointwise()) == 0


def test_groups_are_no_product():
    call = replace(pointwise(), weight_shape=(160, 200, 1, 1), groups=2)
    assert not beats_products(reply(62, 0, 0, 1, 2), call)


def test_odd_outputs_in_channels_last():
    """255 outputs of a YOLOv5 head: a kernel that pads them wins where channels are few; else a product, without workspace."""
    head = pointwise(128, 255, 80, channels_last=True)
    padded = reply(62, 4, 1, 1, 5, size_bytes=26_280_083)
    assert nominal(padded, head) == 26_280_083
    wide = pointwise(192, 255, 80, channels_last=True)
    assert takes_nothing(reply(62, 18, 1, 8, 1), wide)
    assert nominal(reply(62, 18, 1, 8, 1, size_bytes=26_312_851), wide) == 0


def test_a_remedy_is_what_leaves_least():
    """A 3x3 convolution of row-major half-precision images is copied to channels last; in that layout it is not."""
    call = replace(pointwise(64, 64, 80), weight_shape=(64, 64, 3, 3), padding=(1, 1))
    workspaces = conv_workspaces(find_gpu("h200"), libraries=())
    assert workspaces.of(call).nominal_bytes == 2 * (8 * 64 * 80 * 80 * 2) + 64 * 64 * 9 * 2 + 16
    left = workspaces.of(replace(call, channels_last=True)).nominal_bytes
    assert left < 1 << 20
    assert remedies({7: call, 8: replace(call, channels_last=True)}, workspaces) == {
        7: f"channels_last: {left / (1 << 20):.1f} MiB"
    }


def test_tensors_beyond_31_bits_are_run_in_parts():
    """64 x 640 x 320 elements an image: 163 images fit into 2^31 - 1. cuDNN's own answer for 328 is 8,545,968,275 B."""
    call = replace(pointwise(64, 64), input_shape=(328, 64, 640, 320), weight_shape=(64, 64, 3, 3), padding=(1, 1))
    workspaces = conv_workspaces(find_gpu("h200"), libraries=())
    found = workspaces.of(call).nominal_bytes
    assert found == workspaces.of(replace(call, input_shape=(163, 64, 640, 320))).nominal_bytes
    assert found == 2 * (163 * 64 * 640 * 320 * 2) + 64 * 64 * 9 * 2 + 16
    assert abs(found - 8_545_968_275) < 1 << 20
