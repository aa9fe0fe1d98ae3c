"""The board's answers are those of the API, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vramplan as vp
from tests.serve.conftest import Asking
from tests.serve.models import chain_onnx, tiny_onnx
from vramplan.gpus import find_gpu
from vramplan.report.streams_export import streams_json
from vramplan.serve.questions import Named, read_estimate
from vramplan.serve.solver import Solver, _Model

SIZES = ("dim=height%3D64", "dim=width%3D64")


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime"])
def test_an_estimate_is_that_of_the_api(ask: Asking, runtime: str):
    answer = ask.get("/api/estimate", model="yolov8n", runtime=runtime, precision="fp16", batch=3, gpu="rtx-3090")
    expected = vp.estimate("yolov8n", runtime=runtime, precision="fp16", batch=3, gpu="3090")
    (row,) = answer.json["report"]["rows"]
    assert answer.status == 200
    assert row["total_bytes"] == expected.total_bytes
    assert row["budget"]["activations_bytes"] == expected.budget.activations_bytes
    assert row["total_high_bytes"] == expected.total_high_bytes


def test_advice_comes_afterwards_and_changes_nothing_else(ask: Asking):
    asked = {"model": "yolov8n", "precision": "fp32", "batch": 8, "gpu": "rtx-3090"}
    first, second = ask.get("/api/estimate", **asked).json, ask.get("/api/estimate", **asked, advice="yes").json
    assert (first["advised"], second["advised"]) == (False, True)
    assert first["report"]["verdict"]["try"] == []
    assert second["report"]["verdict"]["try"]
    assert first["report"]["rows"] == second["report"]["rows"]
    assert first["report"]["verdict"]["sentence"] == second["report"]["verdict"]["sentence"]


def test_the_streams_are_those_of_the_api(ask: Asking):
    answer = ask.get("/api/streams", model="yolov8n", gpu="t4", video="720p25", codec="hevc", require=30, advice="yes")
    expected = vp.streams("yolov8n", gpu="t4", video="720p25", codec="hevc", require=30)
    assert answer.json["report"] == json.loads(streams_json(expected))


def test_a_batch_that_was_asked_for_once_costs_no_second_binding():
    solver = Solver()
    for precision in ("fp16", "fp32"):
        pairs = [("model", "yolov8n"), ("batch", "2"), ("precision", precision)]
        solver.answer(read_estimate(pairs, lambda name: Named(name=name)))
    model = solver.models[Named(name="yolov8n")]
    assert len(model.bounds) == 1
    assert len(model.cells) == 2


def test_a_file_of_the_folder_is_estimated_at_the_sizes_that_are_given(ask: Asking):
    path = "/api/estimate?model=tiny.onnx&precision=fp32&batch=2&" + "&".join(SIZES)
    (row,) = ask(path).json["report"]["rows"]
    assert row["budget"]["inputs_bytes"] == 2 * 3 * 64 * 64 * 4


def test_a_size_that_is_missing_is_named(ask: Asking):
    answer = ask.get("/api/estimate", model="tiny.onnx", batch=2)
    assert answer.status == 400
    assert "'height'" in answer.error


def test_what_can_be_chosen_for_a_model(ask: Asking):
    zoo, own = ask.get("/api/model", model="yolov8n").json, ask.get("/api/model", model="tiny.onnx").json
    assert zoo["dims"] == {"height": 640, "width": 640}
    assert own["dims"] == {"height": None, "width": None}
    assert own["fixed_batch"] is None
    assert "torch" not in own["precisions"]
    assert "int8" not in own["precisions"]["onnxruntime"]


def test_the_folder_is_listed_without_what_leads_out_of_it(ask: Asking):
    assert ask("/api/choices").json["files"] == ["tiny.onnx", "sub/deep.onnx"]


def test_this_machine_s_own_card_is_offered_first(ask: Asking, monkeypatch: pytest.MonkeyPatch):
    assert ask("/api/choices").json["own_gpu"] is None
    monkeypatch.setattr("vramplan.serve.app.this_gpu", lambda: find_gpu("l4"))
    assert ask("/api/choices").json["own_gpu"] == "l4"


def test_of_a_large_model_less_is_kept(tmp_path: Path):
    (tmp_path / "long.onnx").write_bytes(chain_onnx(20_001))
    assert _Model.read(Named(name="long.onnx", path=str(tmp_path / "long.onnx"))).cells.most == 2
    assert _Model.read(Named(name="yolov8n")).cells.most == 64


def test_an_uploaded_model_is_estimated(ask: Asking):
    sent = ask.upload(tiny_onnx(batch=4), name="../../mine !.onnx")
    assert sent.status == 201
    assert sent.json["name"] == "mine_.onnx"
    name = sent.json["model"].replace(":", "%3A")
    assert ask(f"/api/model?model={name}").json["fixed_batch"] == 4
    (row,) = ask(f"/api/estimate?model={name}&precision=fp32&" + "&".join(SIZES)).json["report"]["rows"]
    assert row["batch"] == 4


def test_the_same_question_is_answered_from_what_is_kept(ask: Asking):
    asked = {"model": "yolov8n", "precision": "fp16", "batch": 5}
    first = ask.get("/api/estimate", **asked)
    process = ask.board.now.process
    before, process.ask = process.ask, None  # type: ignore[method-assign, assignment]
    try:
        assert ask.get("/api/estimate", **asked).body == first.body
    finally:
        process.ask = before  # type: ignore[method-assign]


def test_what_is_solved_ahead_is_there_when_it_is_asked_for(ask: Asking):
    asked = {"model": "yolov8n", "precision": "fp16", "batch": 21}
    ahead = ask.get("/api/ahead/estimate", **asked)
    assert (ahead.status, ahead.body) == (204, b"")
    process = ask.board.now.process
    before, process.ask = process.ask, None  # type: ignore[method-assign, assignment]
    try:
        assert ask.get("/api/estimate", **asked).json["report"]["rows"][0]["batch"] == 21
    finally:
        process.ask = before  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("/api/estimate", {"batch": 0}, "batch: '0' is not a whole number"),
        ("/api/estimate", {"batch": "1e9"}, "not a whole number"),
        ("/api/estimate", {"precision": "fp17"}, "unknown precision"),
        ("/api/estimate", {"runtime": "tensorflow"}, "unknown value"),
        ("/api/estimate", {"gpu": "9090"}, "9090"),
        ("/api/estimate", {"gpu": "t4", "vram": "8GiB"}, "exclude each other"),
        ("/api/estimate", {"dim": "height"}, "NAME=SIZE"),
        ("/api/estimate", {"shape": "images:axb"}, "NAME:SHAPE"),
        ("/api/estimate", {"allow_pickle": "yes"}, "unknown parameter"),
        ("/api/estimate", {"batch": "1" * 400}, "too many"),
        ("/api/streams", {"video": "wide"}, "wide"),
        ("/api/streams", {"margin": "100%", "gpu": "t4"}, "margin"),
        ("/api/streams", {}, "no card is named"),
        ("/api/model", {"batch": 3}, "unknown parameter"),
    ],
)
def test_a_wrong_question_is_one_clear_error(ask: Asking, path: str, asked: dict[str, object], said: str):
    answer = ask.get(path, **asked)
    assert answer.status == 400
    assert said in answer.error
    assert "Traceback" not in answer.body.decode()
