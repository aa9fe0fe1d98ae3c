"""`vramplan streams --measure`: which rates are measured, what the plan makes of them, and what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.device_fakes import H200, FakeProbe
from vramplan import fleet_measured
from vramplan.device.decode import DecodeRate, DecodeRun
from vramplan.device.measurement import Latency, Measurement, Outcome, PhaseReading
from vramplan.errors import MachineError, MeasurementError
from vramplan.gpus import find_gpu
from vramplan.measuring import Machine
from vramplan.video import Codec, Video

ENVIRONMENT = {"gpu": "NVIDIA H200", "driver": "580.159.04", "date": "2026-11-25"}
READING = PhaseReading(
    requested_bytes=1, allocated_bytes=1, reserved_bytes=1, requested_peak_bytes=1, allocated_peak_bytes=1,
    reserved_peak_bytes=1, process_bytes=1,
)  # fmt: skip


class Lab:
    """Answers for the GPU; ``decoded`` and ``ran`` list what was asked of it."""

    def __init__(self) -> None:
        self.decoded: list[Video] = []
        self.ran: list[tuple[str, int, str]] = []
        self.decode_fps = 4950.0
        self.item_ms = 0.5
        self.failure: Exception | None = None
        self.notes: tuple[str, ...] = ()
        self.is_saturated = True

    def run_decode(self, probe: object, device: object, video: Video) -> DecodeRun:
        self.decoded.append(video)
        sizes = {"codec": video.codec, "width_px": video.width_px, "height_px": video.height_px}
        rates = [DecodeRate(**sizes, session_count=8, fps=self.decode_fps)] if not self.notes else []
        environment = ENVIRONMENT | {"PyNvVideoCodec": "2.2.4"}
        return DecodeRun(rates=tuple(rates), is_saturated=self.is_saturated, environment=environment, notes=self.notes)

    def measure(self, model: str, *, batch: int, precision: str, runtime: str, **_: object) -> Measurement:
        assert runtime == "torch"
        self.ran.append((model, batch, precision))
        if self.failure is not None:
            raise self.failure
        time_ms = self.item_ms * batch
        return Measurement(
            model=model,
            runtime="torch",
            precision=precision,
            batch=batch,
            memory_format="contiguous",
            outcome=Outcome.FINISHED,
            failure="",
            environment=ENVIRONMENT | {"torch": "2.11.0", "cudnn": "9.10"},
            phases={"load": READING, "first_run": READING, "steady": READING},
            steps=(),
            latency=Latency(median_ms=time_ms, low_ms=time_ms, high_ms=time_ms, run_count=50, batch=batch),
            limit_bytes=1,
            others=(),
            notes=(),
        )


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An H200 that answers at once."""
    lab = Lab()
    machine = Machine(probe=FakeProbe(), device=H200, gpu=find_gpu("h200"))
    monkeypatch.setattr(fleet_measured, "open_machine", lambda: machine)
    monkeypatch.setattr(fleet_measured, "run_decode", lab.run_decode)
    monkeypatch.setattr(fleet_measured, "measure", lab.measure)
    monkeypatch.setattr(fleet_measured, "measured_runtime", lambda *_: "torch")
    monkeypatch.setattr(fleet_measured, "gpu_lock", lambda *_: contextlib.nullcontext())
    return lab


def _card(vramplan: Callable, *words: str) -> dict:
    outcome = vramplan("streams", *words, "--measure", "--json")
    assert (outcome.exit_code, outcome.err) == (0, "")
    return json.loads(outcome.out)["cards"][0]


def test_both_rates_are_measured_and_say_where(vramplan: Callable, lab: Lab):
    card = _card(vramplan, "yolov8s", "--gpu", "auto")
    decode, compute = card["limits"]["decode"], card["limits"]["compute"]
    assert card["gpu"] == "h200-sxm"
    assert (decode["evidence"], compute["evidence"]) == ("measured", "measured")
    assert decode["capacity"] == 4950
    assert decode["streams_nominal"] == 4950 // 30
    assert "PyNvVideoCodec 2.2.4, 2026-11-25" in decode["sources"][0]
    assert decode["sources"][0].startswith(
        "4,950 fps of h264 1920 x 1080, 8 sessions, measured on NVIDIA H200, driver 580.159.04"
    )
    assert compute["capacity"] == 2000 * 0.86  # 1 / 0.5 ms, times the usual share of a pipeline
    assert "2,000 fps at batch" in compute["sources"][0]
    assert "torch 2.11.0" in compute["sources"][0]
    assert lab.ran[-1] == ("yolov8s", card["batch"], "fp16")
    assert [(video.codec, video.height_px) for video in lab.decoded] == [(Codec.H264, 1080)]


def test_the_plan_says_that_pytorch_is_slower(vramplan: Callable, lab: Lab):
    card = _card(vramplan)
    premise = card["assumptions"]["inference"]
    assert premise["value"] == f"measured with eager PyTorch at batch {card['batch']}: TensorRT is usually faster"
    assert (premise["evidence"], premise["flag"]) == ("measured", "--infer-fps")
    assert "engine_over_model" not in card["assumptions"]
    assert "decoder_over_note" not in card["assumptions"]
    assert "pipeline_over_engine" in card["assumptions"]
    out = " ".join(vramplan("streams", "--measure").out.split())
    assert "measured with eager PyTorch" in out
    assert "TensorRT is usually faster" in out


def test_no_modelled_precision_is_advised_beside_a_measured_one(vramplan: Callable, lab: Lab):
    lab.item_ms = 2.0
    card = _card(vramplan)
    assert card["binding"] == "compute"
    assert not any("--precision" in each["flags"] for each in card["try"])


def test_what_the_user_gives_is_not_measured(vramplan: Callable, lab: Lab):
    card = _card(vramplan, "--decode-fps", "900", "--infer-fps", "600")
    assert (lab.decoded, lab.ran) == ([], [])
    assert (card["limits"]["decode"]["capacity"], card["limits"]["compute"]["capacity"]) == (900, 600)
    assert card["limits"]["decode"]["evidence"] == "assumed"


def test_the_given_batch_is_the_one_that_runs(vramplan: Callable, lab: Lab):
    card = _card(vramplan, "--batch", "4")
    assert (card["batch"], lab.ran) == (4, [("yolov8s", 4, "fp16")])


def test_a_batch_that_turns_out_too_large_is_measured_smaller(vramplan: Callable, lab: Lab):
    lab.item_ms = 10.0  # 86 fps are 2 streams: a batch holds one frame of each
    card = _card(vramplan)
    assert card["batch"] == 2
    assert lab.ran[-1][1] == 2
    assert card["streams"]["nominal"] == 2


def test_models_run_one_after_the_other(vramplan: Callable, lab: Lab):
    card = _card(vramplan, "yolov8s", "resnet50", "--batch", "4")
    assert [model for model, _, _ in lab.ran] == ["yolov8s", "resnet50"]
    assert card["limits"]["compute"]["capacity"] == 1000 * 0.86


def test_every_kind_of_a_mix_is_decoded_once(vramplan: Callable, lab: Lab):
    card = _card(vramplan, "--stream", "2x1080p30/h264", "--stream", "1x4k25/hevc", "--stream", "1x1080p15/h264")
    assert [(video.codec, video.height_px) for video in lab.decoded] == [(Codec.H264, 1080), (Codec.HEVC, 2160)]
    assert any("hevc 3840 x 2160" in source for source in card["limits"]["decode"]["sources"])


def test_a_decoder_that_cannot_be_measured_is_a_note(vramplan: Callable, lab: Lab):
    lab.notes = ("h264 1920 x 1080: not measured: PyNvVideoCodec is not installed",)
    card = _card(vramplan)
    assert "PyNvVideoCodec" not in " ".join(card["limits"]["decode"]["sources"])
    assert card["limits"]["compute"]["evidence"] == "measured"
    assert "note: decode rate, h264 1920 x 1080: not measured: PyNvVideoCodec is not installed" in card["notes"]


def test_a_rate_that_still_grew_is_a_lower_bound(vramplan: Callable, lab: Lab):
    lab.is_saturated, lab.decode_fps = False, 800.0
    card = _card(vramplan)
    assert card["missing"] == ["decode rate of NVIDIA H200 SXM 141 GB with more sessions"]
    assert card["limits"]["decode"]["capacity_high"] > 3000


def test_the_cpu_decodes_nothing_to_measure(vramplan: Callable, lab: Lab):
    _card(vramplan, "--decode", "cpu")
    assert lab.decoded == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--gpu", "3090"),
            "--measure runs on this machine's GPU, NVIDIA H200 SXM 141 GB, and the plan is for NVIDIA GeForce RTX 3090",
        ),
        (("--gpu", "3090,t4"), "--measure needs one card"),
        (("--gpu", "all"), "--measure needs one card"),
        (("model.onnx",), "PyTorch runs modules, not ONNX files"),
        (("--precision", "int8"), "int8 cannot be measured"),
    ],
)
def test_refused(vramplan: Callable, lab: Lab, words: tuple[str, ...], says: str):
    outcome = vramplan("streams", *words, "--measure")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert says in outcome.err
    assert "hint: " in outcome.err
    assert (lab.decoded, lab.ran) == ([], [])


def test_without_a_gpu(vramplan: Callable, monkeypatch: pytest.MonkeyPatch):
    def none() -> Machine:
        raise MachineError("the NVIDIA driver sees no GPU", hint="`vramplan doctor` says what this machine has.")

    monkeypatch.setattr(fleet_measured, "open_machine", none)
    outcome = vramplan("streams", "--measure", "--infer-fps", "100")
    assert (outcome.exit_code, outcome.out) == (4, "")
    assert "sees no GPU" in outcome.err


def test_a_model_that_does_not_run_ends_the_plan(vramplan: Callable, lab: Lab):
    lab.failure = MeasurementError("forward of yolov8s failed")
    outcome = vramplan("streams", "--measure")
    assert (outcome.exit_code, outcome.out) == (5, "")


def test_a_model_that_does_not_fit_ends_the_plan(vramplan: Callable, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    def out_of_memory(model: str, **options: object) -> Measurement:
        return replace(lab.measure(model, **options), outcome=Outcome.OUT_OF_MEMORY, failure="CUDA out of memory", latency=None)

    monkeypatch.setattr(fleet_measured, "measure", out_of_memory)
    outcome = vramplan("streams", "--measure")
    assert outcome.exit_code == 5
    assert "CUDA out of memory" in outcome.err
    assert "hint: Try a smaller batch" in outcome.err
