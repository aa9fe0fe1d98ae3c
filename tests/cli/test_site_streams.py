"""`vramplan streams` where a `vramplan.toml` is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SITE = """
[site]
gpu = "t4"
margin = "10%"
video = "720p25"
codec = "hevc"

[[model]]
model = "yolov8n"
precision = "int8"
"""


@pytest.fixture
def streams(vramplan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run `vramplan streams --json` where a site is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vramplan.toml").write_text(SITE)

    def run(*words: str):
        outcome = vramplan("streams", *words, "--json")
        assert outcome.exit_code == 0, outcome.err
        return json.loads(outcome.out), outcome.err

    return run


def test_streams_without_arguments_are_those_of_the_site(streams: Callable, vramplan: Callable):
    content, told = streams()
    assert told == ("from vramplan.toml: model yolov8n · gpu t4 · precision int8 · margin 10% · video 720p25 · codec hevc\n")
    words = ["yolov8n", "--gpu", "t4", "--precision", "int8", "--margin", "10%", "--video", "720p25", "--codec", "hevc"]
    assert json.loads(vramplan("streams", *words, "--json").out) == content


def test_flags_come_before_the_site(streams: Callable):
    content, told = streams("--gpu", "l4", "--video", "1080p30", "--precision", "fp16", "--margin", "30%")
    assert content["cards"][0]["gpu"] == "l4"
    assert told == "from vramplan.toml: model yolov8n · codec hevc\n"


def test_cameras_of_the_command_line_are_not_the_sites(streams: Callable):
    _, told = streams("--stream", "1x1080p30/h264")
    assert "video" not in told
    assert "codec" not in told


def test_a_named_model_asks_no_site(streams: Callable):
    _, told = streams("yolov8s", "--gpu", "l4")
    assert told == ""
