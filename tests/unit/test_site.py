"""`vramplan.toml`: what it may say, and what it is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from vramplan.errors import UsageError
from vramplan.locking import want_all
from vramplan.site import find_site, read_site

WHOLE = """
[site]
gpu = "3090"
margin = "20%"
video = "720p25"
codec = "hevc"
bit_depth = 10
infer_every = 2

[[model]]
model = "yolov8s"
batch = [1, 8]
precision = ["fp16", "int8"]
runtime = "tensorrt"
dims = { height = 480, width = 640 }
budget = "2GiB"
tolerance = "3%"

[[model]]
model = "resnet50"
runtime = "torch"
memory_format = "channels_last"
shapes = { images = [2, 3, 224, 224] }
gpu = "t4"
"""


def site(folder: Path, text: str):
    path = folder / "vramplan.toml"
    path.write_text(text)
    return read_site(path)


def test_all_that_it_may_say(tmp_path: Path):
    found = site(tmp_path, WHOLE)
    assert (found.gpu, found.margin, found.video, found.codec, found.bit_depth, found.infer_every) == (
        "3090", "20%", "720p25", "hevc", 10, 2,
    )  # fmt: skip
    first, second = found.models
    assert (first.batches, first.precisions, first.runtimes, first.gpu) == ((1, 8), ("fp16", "int8"), ("tensorrt",), "3090")
    assert (first.dims, first.budget_bytes, first.tolerance_ratio) == ({"height": 480, "width": 640}, 2 << 30, 0.03)
    assert (second.batches, second.precisions, second.gpu) == ((None,), ("as-is",), "t4")
    assert (second.shapes, second.memory_format, second.tolerance_ratio) == (
        {"images": (2, 3, 224, 224)},
        "channels_last",
        0.05,
    )


def test_cells_are_the_product_of_lists(tmp_path: Path):
    first, second = want_all(site(tmp_path, WHOLE))
    assert [(key.precision, key.batch) for key in first.keys] == [("fp16", 1), ("fp16", 8), ("int8", 1), ("int8", 8)]
    assert {key.gpu for key in first.keys} == {"rtx3090"}
    assert [key.memory_format for key in second.keys] == ["channels_last"]


def test_a_folder_without_the_file_has_no_site(tmp_path: Path):
    assert find_site(tmp_path) is None


def test_aliases_of_a_precision_are_its_name(tmp_path: Path):
    assert site(tmp_path, '[[model]]\nmodel = "a"\nprecision = "half"\n').models[0].precisions == ("fp16",)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[sit]\n", "unknown key 'sit'", "site"),
        ('[site]\ngpuu = "3090"\n', "[site]: unknown key 'gpuu'", "gpu"),
        ('[[model]]\nmodel = "a"\nbach = 1\n', "model 1: unknown key 'bach'", "batch"),
        ("[[model]]\nbatch = 1\n", "model is not named", "model ="),
        ('[[model]]\nmodel = "a"\nbatch = 0\n', "batch must be a whole number", "digits"),
        ('[[model]]\nmodel = "a"\nbatch = true\n', "batch must be a whole number", "digits"),
        ('[[model]]\nmodel = "a"\nbatch = [1, 1]\n', "'1' is there twice", "once"),
        ('[[model]]\nmodel = "a"\nprecision = "fp17"\n', "unknown precision 'fp17'", "fp16"),
        ('[[model]]\nmodel = "a"\nprecision = ["fp16", "half"]\n', "'fp16' is there twice", "once"),
        ('[[model]]\nmodel = "a"\nprecision = 16\n', "precision must be text", "precision ="),
        ('[[model]]\nmodel = "a"\nruntime = "tensort"\n', "'tensort' is not known", "tensorrt"),
        ('[[model]]\nmodel = "a"\nmemory_format = "nhwc"\n', "'nhwc' is not known", "channels_last"),
        ('[[model]]\nmodel = "a"\nbudget = "much"\n', "cannot read 'much' as a size", "8GiB"),
        ('[[model]]\nmodel = "a"\nbudget = "0"\n', "no memory at all", "8GiB"),
        ('[[model]]\nmodel = "a"\ntolerance = "5"\n', "no share below 100 %", "5%"),
        ('[[model]]\nmodel = "a"\nshapes = { x = "1x3" }\n', "shapes.x must be a list", "[1, 3"),
        ('[[model]]\nmodel = "a"\nshapes = { x = [1, 0] }\n', "shapes.x must be a whole number", "digits"),
        ('[[model]]\nmodel = "a"\ndims = 4\n', "dims must be a table", "height"),
        ('[model]\nmodel = "a"\n', "not a list of tables", "[[model]]"),
        ("site = 3\n", "site is not a table", "[site]"),
        ("[site]\ngpu = 3090\n", "gpu must be text", 'gpu = "…"'),
        ('[site]\ngpu = "\\u001b[2J"\n', "gpu must be text in one line", "gpu"),
        ("[site]\nbit_depth = 0\n", "bit_depth must be a whole number", "digits"),
        ('[site]\ngpu = "3090\n', "is not TOML", "docs"),
        ('[site]\ngpu = "a"\ngpu = "b"\n', "line 3", "docs"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, text: str, message: str, hint: str):
    with pytest.raises(UsageError) as raised:
        site(tmp_path, text)
    assert message in raised.value.message
    assert "vramplan.toml" in raised.value.message or "precision" in raised.value.message
    assert hint in raised.value.hint


def test_a_model_twice_is_one_entry_too_many(tmp_path: Path):
    with pytest.raises(UsageError, match="there twice"):
        want_all(site(tmp_path, '[[model]]\nmodel = "yolov8s"\n[[model]]\nmodel = "yolov8s"\nbatch = 2\n'))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    with pytest.raises(UsageError, match="larger than"):
        site(tmp_path, "#" * (1 << 20) + "\n")
