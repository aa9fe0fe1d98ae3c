"""1x1 convolutions as matrix products: which of cuDNN's answers are products, what cuBLASLt takes, and its stand-in."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vramplan.dtypes import DType
from vramplan.gpus import find_gpu
from vramplan.ranges import Range
from vramplan.workspace import cublaslt_stand_in, products
from vramplan.workspace.convolution import ConvCall, product_of
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces
from vramplan.workspace.pointwise import Product
from vramplan.workspace.remedies import remedies
from vramplan.workspace.trees import Tree, read_trees, write_trees

MIB = 1 << 20
KIB = 1 << 10
STAND_IN = Path(cublaslt_stand_in.__file__)


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


def answered(found: dict, call: ConvCall, card: str = "h200") -> Range:
    return ConvWorkspaces(find_gpu(card), answers=Answers(found)).of(call)


def product(limit_knob: int) -> dict:
    return {"bytes": 0, "engine": 58, "knobs": {"25": limit_knob}, "unshared_bytes": None}


KERNEL = {"2": 0, "13": 1, "18": 0, "25": 1, "27": 8, "28": 1}


@pytest.mark.parametrize("card", ["h200", "rtx 3090", "t4"])
def test_a_product_that_may_take_nothing_takes_nothing(card):
    size = answered(product(0), pointwise(), card)
    assert (size.low_bytes, size.nominal_bytes, size.high_bytes) == (0, 0, 0)


def test_another_kernel_that_wins_takes_what_cudnn_says():
    """YOLOv8x, stage 0, fp16, batch 8: 163,840,000 B of input and 65,536,000 of output in another layout."""
    found = answered({"bytes": 229_376_147, "engine": 62, "knobs": KERNEL, "unshared_bytes": None}, pointwise())
    assert found.nominal_bytes == 229_376_147


def test_without_the_stand_in_another_kernel_says_nothing_about_a_product():
    reply = {"bytes": 229_376_147, "engine": 62, "knobs": KERNEL, "unshared_bytes": None, "unranked": True}
    found = answered(reply, pointwise())
    assert found.nominal_bytes == 0
    assert found.high_bytes >= 229_376_147


def test_partial_sums_are_copies_of_the_output():
    """128 outputs of 16 images of 7x7, 1,024 channels, fp32, channels_last: 16 sums of 64 channels, each 16 x 49 x 128 x 4 B.

    An H200 asked for 6,422,784 B under a limit of 128 MiB, and 4 MiB do not hold them.
    """
    call = replace(pointwise(1024, 128, 7, channels_last=True), input_shape=(16, 1024, 7, 7), dtype=DType.FLOAT32)
    assert answered(product(2), call).nominal_bytes == 256 + 16 * (16 * 49 * 128 * 4) == 6_422_784
    assert answered(product(1), call).high_bytes <= 4 * MIB + 256


@pytest.mark.parametrize("knob", [1, 2])
@pytest.mark.parametrize("card", ["h200", "l4", "t4"])
def test_a_product_takes_no_more_than_its_limit(card, knob):
    limit = {1: 4 * MIB, 2: 128 * MIB}[knob] + 256
    for channels, outputs, side in ((1024, 128, 7), (2048, 512, 14), (64, 255, 33), (3072, 64, 12)):
        for channels_last in (False, True):
            size = answered(product(knob), pointwise(channels, outputs, side, channels_last=channels_last), card)
            assert 0 <= size.low_bytes <= size.nominal_bytes <= size.high_bytes <= limit


def test_images_of_one_pixel_are_rows_in_both_layouts():
    calls = [pointwise(512, 1280, 1, channels_last=channels_last) for channels_last in (False, True)]
    assert answered(product(1), calls[0]) == answered(product(1), calls[1])


def test_an_engine_with_other_knobs_is_no_product():
    """Engine numbers are reused by gradients, which transposed convolutions are; the knobs tell."""
    assert products.limit_of({"engine": 58, "knobs": {2: 0, 5: 2, 14: 4}}) is None
    assert products.limit_of({"engine": 62, "knobs": KERNEL}) is None
    assert products.limit_of({"engine": 9, "knobs": {"25": 2}}) == 128 * MIB
    assert products.limit_of({"engine": 9, "knobs": {"25": 7}}) is None


@pytest.mark.parametrize(
    ("size", "label"),
    [(0, 0), (512, 0), (7 * 40_000, 7), (7 * 40_000 + 272, 7), (3 * 16 * KIB + 131, -3), (9_000, 0)],
)
def test_what_a_leaf_can_say(size, label):
    """Nothing; whole copies of an output of 40,000 B; tiles of 16 KiB; counters, which are not worth a label."""
    assert products.label_of(size, 40_000) == label


@pytest.mark.parametrize("label", [0, 1, 24, -1, -480])
def test_labels_and_bytes_are_one_thing(label):
    output_bytes = 100_352
    size = products.label_bytes(label, output_bytes)
    assert products.label_of(max(0, size - 256), output_bytes) == label


def test_features_are_named():
    wanted = dict(zip(products.FEATURES, products.features(product_of(pointwise(channels_last=True))), strict=True))
    assert wanted["rows"] == 160
    assert wanted["columns"] == 8 * 160 * 160
    assert wanted["tiles"] == 2 * (8 * 160 * 160 // 128)
    assert wanted["columns_by"] == 64


def test_trees_are_read_as_they_were_written(tmp_path):
    numbers = {"feature": [1, 0, 0], "threshold": [0.5, 0, 0], "right": [2, 0, 0], "label": [0, 4, 9]}
    numbers |= {"most": [0, 4, 12]}
    tree = Tree(**{name: np.array(values) for name, values in numbers.items()})
    write_trees(tmp_path / "trees.npz", {"a": tree})
    read = read_trees(tmp_path / "trees.npz")["a"]
    assert [read.labels((7.0, value)) for value in (0.5, 0.6)] == [(4, 4), (9, 12)]


def test_every_product_has_a_tree():
    for bits in (16, 32):
        for channels_last in (False, True):
            one = Product(images=1, pixels=196, channels=64, outputs=64, bits=bits, channels_last=channels_last)
            for limit in (4 * MIB, 128 * MIB):
                assert products.product_workspace(one, limit, (9, 0)).high_bytes <= limit + 256


SPEAK = f"""
import ctypes, sys
sys.path.insert(0, {str(STAND_IN.parent)!r})
from cublaslt_stand_in import stand_in
if not stand_in("libcublasLt.so.13"):
    sys.exit(3)
library = ctypes.CDLL("libcublasLt.so.13")  # by its name, as cuDNN opens it
handle, count, result = ctypes.c_void_p(), ctypes.c_int(), ctypes.create_string_buffer(b"x" * 96 * 8, 96 * 8)
assert library.cublasLtGetVersion() == 130100
assert library.cublasLtCreate(ctypes.byref(handle)) == 0 and handle
none = ctypes.c_void_p()
assert library.cublasLtMatmulAlgoGetHeuristic(handle, *[none] * 6, 8, result, ctypes.byref(count)) == 0
assert count.value == 1 and result.raw[:96] == bytes(96) and result.raw[96:97] == b"x"
assert library.cublasLtMatmul() != 0
print("yes")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cuDNN is asked on Linux only")
def test_the_stand_in_is_found_by_the_name_of_the_real_one():
    done = subprocess.run([sys.executable, "-c", SPEAK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) in {(0, "yes"), (3, "")}, done.stderr


def test_the_stand_in_is_for_machines_whose_jumps_it_knows(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert not cublaslt_stand_in.stand_in("libcublasLt.so.13")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_jump_reaches_its_slot(machine):
    """The n-th jump reads the n-th entry of ``slots``, wherever the two parts lie."""
    number, jump = cublaslt_stand_in._JUMPS[machine]
    image = cublaslt_stand_in.library("libx.so.1", ("one", "two"), number, jump)
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == number
    assert len(image) == 0x10000 + 7 * 16 + 2 * ctypes.sizeof(ctypes.c_void_p)


def test_a_depthwise_kernel_takes_nothing_whatever_else_is_named():
    """lraspp, bf16, batch 16: without a GPU cuDNN names an engine that copies, 276,894,224 B; an H200 asked for nothing."""
    call = replace(pointwise(16, 16, 260, channels_last=True), weight_shape=(16, 1, 3, 3), padding=(1, 1), groups=16)
    reply = {"bytes": 276_894_224, "engine": 22, "knobs": {"2": 5}, "unshared_bytes": None}
    assert answered(reply, call).nominal_bytes == 0
    assert answered(reply, call).high_bytes == 276_894_224
    wide = replace(call, weight_shape=(16, 1, 9, 9), padding=(4, 4))
    assert answered(reply, wide).nominal_bytes == 276_894_224


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
