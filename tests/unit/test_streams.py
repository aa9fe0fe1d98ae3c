"""`vp.streams`: from arguments to a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

import vramplan as vp
from vramplan.cameras import read_cameras
from vramplan.errors import ModelError, UsageError


def test_the_main_question():
    plan = vp.streams("yolov8s", gpu="3090", video="1080p30", codec="h264", margin=0.30)
    assert plan.binding == "decode"
    assert 22 <= plan.streams <= 29
    assert plan.limits["decode"].low <= plan.limits["decode"].nominal <= plan.limits["decode"].high
    assert plan.limits["vram"].nominal > 100
    assert 27 <= plan.limits["compute"].nominal <= 54
    assert plan.fits is None


def test_cpu_decode_is_limited_by_pcie_at_about_268():
    plan = vp.streams(gpu="3090", decode="cpu")
    assert plan.limits["pcie"].nominal == pytest.approx(268, rel=0.02)


def test_several_cards_and_all():
    assert [card.gpu.key for card in vp.streams(gpu=["t4", "l4"]).cards] == ["t4", "l4"]
    ranked = vp.streams(gpu="all").cards
    assert len(ranked) == len(vp.gpus())
    assert [card.streams for card in ranked] == sorted((card.streams for card in ranked), reverse=True)


def test_a_card_of_which_only_the_memory_is_known():
    plan = vp.streams(vram="24GiB", nvdec=1, infer_fps=900)
    assert plan.card.missing
    assert plan.limits["compute"].nominal == 30


def test_two_models_take_longer_than_one():
    one, two = vp.streams(gpu="t4"), vp.streams(["yolov8s", "resnet50"], gpu="t4")
    assert two.limits["compute"].nominal < one.limits["compute"].nominal
    assert two.limits["vram"].capacity.nominal < one.limits["vram"].capacity.nominal
    apart = vp.streams(["yolov8s", "resnet50"], gpu="t4", separate_models=True)
    assert apart.limits["vram"].capacity.nominal < two.limits["vram"].capacity.nominal


def test_requirements():
    assert vp.streams(gpu="3090", require=10).fits is True
    assert vp.streams(gpu="3090", require=500).fits is False
    mix = vp.streams(gpu="t4", mix=["2x1080p30/h264", "1x4k25/hevc"])
    assert mix.required == 3
    assert mix.fits is True


def test_narrower_arithmetic_computes_more():
    fp16, int8 = (vp.streams(gpu="t4", precision=name).limits["compute"].nominal for name in ("fp16", "int8"))
    assert 1.2 < int8 / fp16 < 2.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpu": "4100"},
        {"gpu": None},
        {"gpu": []},
        {"codec": "h266"},
        {"video": "1080q"},
        {"video": "1080p0"},
        {"margin": 1.2},
        {"margin": "130%"},
        {"margin": "lots"},
        {"margin": -0.1},
        {"batch": "many"},
        {"batch": 64, "require": 8},
        {"processes": "each"},
        {"processes": "per-stream", "batch": 4},
        {"decode": "tpu"},
        {"infer_every": 0},
        {"nvdec": 0},
        {"decode_fps": -1},
        {"require": 0},
        {"precision": "fp5"},
        {"mix": ["12x1080p30/h264", "4k25/hevc"], "decode_fps": 100},
        {"per_stream_extra": "much"},
    ],
    ids=str,
)
def test_bad_arguments_are_one_clear_error(wrong):
    with pytest.raises(UsageError) as error:
        vp.streams(**{"gpu": "3090", **wrong})
    assert error.value.message


def test_a_model_that_is_not_there():
    with pytest.raises(ModelError):
        vp.streams("no-such-model", gpu="3090")


def test_camera_files(tmp_path):
    path = tmp_path / "cameras.toml"
    cameras = ('count = 12\nvideo = "1080p30"', 'video = "4k25"\ncodec = "hevc"\nbit_depth = 10\ninfer_every = 2')
    path.write_text("".join(f"[[camera]]\n{camera}\n" for camera in cameras))
    first, second = read_cameras(path)
    assert (first.count, str(first.video)) == (12, "1080p30 h264")
    assert (second.count, second.video.bit_depth, second.infer_every) == (1, 10, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no"),
        ("camera = 3", "names no"),
        ("[[camera]]\nfps = 3", "unknown key 'fps'"),
        ("[[cameras]]\nvideo = '1080p'", "unknown key 'cameras'"),
        ("[[camera]]\nvideo = 3", "must be text"),
        ("[[camera]]\ncount = 3", "must be text"),
        ("[[camera]]\nvideo = '1080p'\ncount = 0", "whole number"),
        ("[[camera]]\nvideo = '1080p'\ncount = true", "whole number"),
        ("[[camera", "not TOML"),
        ("\x00", "not TOML"),
    ],
)
def test_broken_camera_files(tmp_path, text, said):
    path = tmp_path / "cameras.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_cameras(path)


def test_a_camera_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError):
            read_cameras(path)


def test_a_shape_says_how_large_a_frame_is_and_the_cameras_how_many() -> None:
    by_dims = vp.streams("yolov8n", gpu="t4", dims={"height": 320, "width": 320})
    by_shape = vp.streams("yolov8n", gpu="t4", shapes={"images": (1, 3, 320, 320)})
    assert by_shape.streams == by_dims.streams


def test_an_engine_cannot_say_what_it_computes(tmp_path: Path) -> None:
    engine = tmp_path / "yolov8s.engine"
    engine.write_bytes(b"engine")
    with pytest.raises(vp.ModelError, match="does not say what it computes"):
        vp.streams(engine, gpu="t4")
