"""Decoders of a real GPU."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from vramplan import streams
from vramplan.__main__ import main
from vramplan.device.decode import DecodeRun, run_decode
from vramplan.ranges import Evidence
from vramplan.units import MIB
from vramplan.video import Codec, Video

FHD = Video(width_px=1920, height_px=1080)


@pytest.fixture(scope="module")
def libraries():
    for name in ("av", "PyNvVideoCodec"):
        pytest.importorskip(name, reason="pip install 'vramplan[video]'", exc_type=ImportError)


@pytest.fixture(scope="module", params=[Codec.H264, Codec.HEVC])
def run(request, probe, device, libraries) -> DecodeRun:
    found = run_decode(probe, device, replace(FHD, codec=request.param))
    print(*(f"{rate}\n" for rate in found.rates), *found.notes)
    return found


def test_decoders_become_busy(run: DecodeRun):
    assert run.failure is None, run.notes
    assert run.is_saturated
    assert run.fastest.fps >= 300  # the slowest engine of NVIDIA's note decodes more than ten 1080p30 streams
    assert run.fastest.fps >= run.rates[0].fps


def test_a_session_takes_what_a_few_frames_take(run: DecodeRun):
    sizes = [rate.session_bytes for rate in run.rates if rate.session_bytes]
    assert sizes
    assert all(20 * MIB < size < 400 * MIB for size in sizes)


def test_nothing_is_left_on_the_card(run: DecodeRun, probe, device):
    children = [
        process for process in probe.processes(device) if process.name.startswith("python") and process.pid != os.getpid()
    ]
    assert children == []


def test_a_plan_by_measured_rates(libraries, capsys: pytest.CaptureFixture[str]):
    assert main(["streams", "yolov8s", "--gpu", "auto", "--measure", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["cards"][0]
    for name in ("decode", "compute"):
        assert card["limits"][name]["evidence"] == Evidence.MEASURED.value
        assert "driver" in card["limits"][name]["sources"][0]
    assert "eager PyTorch" in card["assumptions"]["inference"]["value"]


def test_what_is_given_is_not_measured():
    plan = streams("yolov8s", gpu="auto", measure=True, decode_fps=900, infer_fps=600)
    assert plan.limits["decode"].capacity.nominal == 900
    assert plan.limits["compute"].capacity.nominal == 600
