"""``vramplan calibrate`` with a GPU that is not there and a child that only says what one would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.calibrations import REPORTS, USED, child, content, put
from tests.cli.conftest import Outcome
from tests.device_fakes import H200, H200_IDLE, FakeProbe, with_used
from vramplan import learning, measuring
from vramplan.device import calibrate, decode, workspaces
from vramplan.device.lock import gpu_lock
from vramplan.device.probe import Activity, GpuProcess
from vramplan.dtypes import DType
from vramplan.errors import MachineError
from vramplan.folders import cache_folder
from vramplan.gpus import find_gpu
from vramplan.ranges import Evidence
from vramplan.video import Codec
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnAnswers
from vramplan.workspace.cudnn_devices import device_json

Run = Callable[..., Outcome]
CALLS = tuple(
    ConvCall(
        input_shape=(1, 8, side, side),
        weight_shape=(8, 8, 3, 3),
        dtype=DType.FLOAT16,
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
    )
    for side in (20, 40)
)
CONVOLVED: list[dict[str, Any]] = [{"cudnn": 91900}, {"workspaces": [[0, 5_000], [1, 1 << 20]]}, {"done": True}]
FILE = "h200-sxm_580.159.04_2.11.0+cu130.json"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMPLAN_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate._Run, "add_decode", lambda self, timeout_s: None)
    monkeypatch.setattr(calibrate, "_LOOK_S", 0.0)
    monkeypatch.setattr(learning, "zoo_convolutions", lambda: CALLS)
    return tmp_path / "settings"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Path) -> Callable[..., FakeProbe]:
    """An H200 whose child reports *reports*; the memory readings are those before, and at each barrier."""

    def build(
        reports: list[dict[str, Any]] = REPORTS,
        *,
        then: str = "",
        used: Any = None,
        convolved: list[dict[str, Any]] = CONVOLVED,
        **answers: Any,
    ) -> FakeProbe:
        memory = [with_used(H200_IDLE, size) for size in (used or (0, 0, *USED))]
        probe = FakeProbe(memory=memory, **answers)
        monkeypatch.setattr(measuring, "open_probe", lambda: probe)
        monkeypatch.setattr(calibrate, "module_command", lambda module: child(tmp_path, reports, then=then))
        monkeypatch.setattr(workspaces, "module_command", lambda module: child(tmp_path, convolved, name="convolving.py"))
        return probe

    return build


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, settings: Path) -> None:
    def refuse() -> None:
        raise MachineError("NVML: not found", hint="`vramplan doctor` says what is missing.")

    monkeypatch.setattr(measuring, "open_probe", refuse)


def test_it_measures_prints_and_stores(vramplan: Run, machine: Callable[..., FakeProbe], settings: Path):
    probe = machine(used=(0, 0, 0, 0, *USED[1:]))
    outcome = vramplan("calibrate")
    assert (outcome.exit_code, outcome.err) == (0, "learned the workspace of 2 convolutions for later estimates on this card\n")
    assert outcome.out.startswith("NVIDIA H200 (h200-sxm) · driver 580.159.04 · torch 2.11.0+cu130")
    stored = json.loads((settings / "calibrations" / FILE).read_text())
    sizes = {row["stage"]: row["context_bytes"] for row in stored["context"]}
    assert probe.asked.count("memory") >= 6
    assert sizes == {
        "context": 552_402_944,
        "first_tensor": 648_871_936,
        "first_convolution": 659_357_696,
        "first_gemm": 726_466_560,
    }
    assert stored["cublas_workspace_bytes"] == 33_562_624
    assert stored["compute"] == [{"dtype": "fp16", "tflops": 700.0}]
    assert stored["gpu"]["cuda_visible_total_bytes"] == 150_109_880_320
    assert stored["disturbed"] is False
    for text in ("692.8 MiB", "700.0e12 op/s", "4,100.0 GB/s", "fp8 was not measured", "not measured"):
        assert text in outcome.out


def test_convolutions_are_learned(vramplan: Run, machine: Callable[..., FakeProbe]):
    machine(used=(0, 0, 0, 0, *USED[1:]))
    vramplan("calibrate")
    gpu = find_gpu("h200")
    answers = CudnnAnswers(NoProcess(), device=device_json(gpu), folder=cache_folder(), version=91900)  # type: ignore[arg-type]
    found = ConvWorkspaces(gpu, answers=answers).of_many(CALLS)
    assert [(each.low_bytes, each.nominal_bytes, each.high_bytes) for each in found] == [(5_000,) * 3, (1 << 20,) * 3]
    assert {each.evidence for each in found} == {Evidence.MEASURED}


class NoProcess:
    """cuDNN is not asked for what is known."""

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        assert not requests
        return []


@pytest.mark.parametrize(
    ("convolved", "said"),
    [
        ([{"cudnn": 91900}, {"workspaces": [[2, 5_000]]}, {"done": True}], "what cannot be: '[2, 5000]'"),
        ([{"cudnn": 91900}, {"workspaces": [[0, -1]]}, {"done": True}], "what cannot be: '-1'"),
        ([{"cudnn": "9"}, {"done": True}], "what cannot be"),
        ([{"workspaces": [[0, 5_000]]}, {"done": True}], "learned the workspace of 0 convolutions"),
        ([{"cudnn": 91900}], "the child process ended with exit code 0"),
        ([{"error": {"kind": "out_of_memory", "message": "full", "hint": ""}}], "the card had too little memory: full"),
    ],
)
def test_without_workspaces_the_rest_is_kept(
    vramplan: Run, machine: Callable[..., FakeProbe], settings: Path, convolved: list[dict[str, Any]], said: str
):
    machine(convolved=convolved, used=(0, 0, 0, 0, *USED[1:]))
    outcome = vramplan("calibrate")
    assert outcome.exit_code == 0
    assert said in outcome.err
    assert (settings / "calibrations" / FILE).exists()
    assert not list((settings.parent / "cache").glob("cudnn-*"))


def test_estimates_use_what_was_measured(vramplan: Run, settings: Path):
    put(settings)
    outcome = vramplan("estimate", "yolov8s", "--runtime", "torch", "--precision", "fp16", "--gpu", "3090", "--json")
    row = json.loads(outcome.out)["rows"][0]
    assert row["evidence"]["context"] == "measured"
    assert "570.1" in row["context_reason"]
    assert outcome.err == ""


def test_json_is_alone_on_stdout(vramplan: Run, machine: Callable[..., FakeProbe], settings: Path):
    machine(used=(0, 0, 0, 0, *USED[1:]))
    outcome = vramplan("calibrate", "--json")
    answer = json.loads(outcome.out)
    assert answer["schema_version"] == 1
    assert answer["path"].endswith(FILE)
    assert answer["calibration"]["gpu"]["key"] == "h200-sxm"
    assert answer["processes"] == []


@pytest.mark.parametrize(("sm_ratio", "is_disturbed"), [(0.9, True), (None, True), (0.0, False)])
def test_other_processes_are_named_and_subtracted_and_disturb_when_busy(
    vramplan: Run, machine: Callable[..., FakeProbe], settings: Path, sm_ratio: float | None, is_disturbed: bool
):
    held = 1 << 30
    other = GpuProcess(pid=7, name="evil\x1b[31m", used_bytes=held)
    activity = Activity(sm_ratio=sm_ratio)
    machine(used=[held] * 4 + [held + size for size in USED[1:]], processes=(other,), activity=activity)
    outcome = vramplan("calibrate")
    assert outcome.exit_code == 0
    assert "\x1b" not in outcome.out
    assert "(7) held 1.00 GiB, which is subtracted" in outcome.out
    assert ("estimates take the context from it, and no rates" in outcome.out) == is_disturbed
    stored = json.loads((settings / "calibrations" / FILE).read_text())
    assert stored["disturbed"] is is_disturbed
    assert stored["context"][0]["context_bytes"] == 552_402_944


@pytest.mark.parametrize(
    ("reports", "then", "said"),
    [
        (REPORTS[:5], "os.kill(os.getpid(), 11)", "SIGSEGV"),
        (
            [*REPORTS[:3], {"error": {"kind": "out_of_memory", "message": "CUDA out of memory", "hint": ""}}],
            "",
            "out of memory",
        ),
        ([*REPORTS[:6], {"compute": {"fp16": -1}}, {"done": True}], "", "compute[0].tflops"),
        ([*REPORTS[:6], {"compute": 5}, {"done": True}], "", "what cannot be"),
        ([{"stage": "context", "reserved_bytes": 1 << 62, "wait": True}, *REPORTS[4:]], "", "context[0].context_bytes"),
        ([*REPORTS[:5], {"done": True}], "", "environment has no 'torch'"),
    ],
)
def test_nothing_is_stored_when_it_fails_half_way(
    vramplan: Run, machine: Callable[..., FakeProbe], settings: Path, reports: list[dict[str, Any]], then: str, said: str
):
    machine(reports, then=then, used=(0, 0, 0, 0, *USED[1:]))
    outcome = vramplan("calibrate")
    assert (outcome.exit_code, outcome.out) == (5, "")
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not settings.exists()


def test_a_child_that_hangs_is_ended(vramplan: Run, machine: Callable[..., FakeProbe], settings: Path):
    machine(REPORTS[:2], then="time.sleep(60)", used=(0, 0, 0, 0, *USED[1:]))
    outcome = vramplan("calibrate", "--timeout", "1")
    assert outcome.exit_code == 5
    assert "the calibration did not finish within 1 s" in outcome.err
    assert not settings.exists()


def test_two_measurements_at_once_are_refused(vramplan: Run, machine: Callable[..., FakeProbe], settings: Path):
    machine(used=(0, 0, 0, 0, *USED[1:]))
    with gpu_lock(cache_folder() / "locks", H200.uuid):
        outcome = vramplan("calibrate")
    assert outcome.exit_code == 5
    assert "another measurement runs" in outcome.err
    assert not settings.exists()


def test_a_full_card_is_refused_unless_forced(vramplan: Run, machine: Callable[..., FakeProbe], settings: Path):
    full = H200_IDLE.free_bytes - (1 << 30)
    machine(used=[full] * 4 + [full + size for size in USED[1:]])
    outcome = vramplan("calibrate")
    assert (outcome.exit_code, outcome.out) == (5, "")
    assert "less than 4 GiB" in outcome.err
    assert "--force" in outcome.err
    machine(used=[full] * 4 + [full + size for size in USED[1:]])
    assert vramplan("calibrate", "--force").exit_code == 0


def test_no_gpu_is_exit_4(vramplan: Run, no_gpu: None):
    outcome = vramplan("calibrate")
    assert (outcome.exit_code, outcome.out) == (4, "")
    assert "doctor" in outcome.err


def test_a_number_that_no_gpu_has_is_exit_2(vramplan: Run, machine: Callable[..., FakeProbe]):
    machine()
    outcome = vramplan("calibrate", "--gpu-index", "3")
    assert outcome.exit_code == 2
    assert "0 (NVIDIA H200)" in outcome.err


def test_show_export_and_import_need_no_gpu(vramplan: Run, no_gpu: None, settings: Path, tmp_path: Path):
    put(settings, "rtx3090_570.1_2.11.0+cu130.json")
    shown = vramplan("calibrate", "--show")
    assert shown.exit_code == 0
    assert "decode, h264 1920×1080, 4 sessions" in shown.out
    target = tmp_path / "mine.json"
    assert vramplan("calibrate", "--export", str(target)).exit_code == 0
    assert json.loads(target.read_text())["gpu"]["key"] == "rtx3090"
    assert vramplan("calibrate", "--export", str(target)).exit_code == 2
    assert vramplan("calibrate", "--import", str(target)).exit_code == 2  # it is there already
    assert vramplan("calibrate", "--import", str(target), "--force", "--json").exit_code == 0


def test_show_by_card(vramplan: Run, settings: Path):
    put(settings)
    assert vramplan("calibrate", "--show", "--gpu", "3090").exit_code == 0
    outcome = vramplan("calibrate", "--show", "--gpu", "t4")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "no calibration of 't4'" in outcome.err


def test_a_bad_import_says_where_and_what(vramplan: Run, settings: Path, tmp_path: Path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content(memory_bandwith_gb_s=1)))
    outcome = vramplan("calibrate", "--import", str(path))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "unknown key 'memory_bandwith_gb_s'. Did you mean: memory_bandwidth_gb_s?" in outcome.err
    assert vramplan("calibrate", "--import", str(tmp_path / "none.json")).exit_code == 2
    assert not settings.exists()


@pytest.mark.parametrize("words", [("--show", "--export", "x"), ("--gpu", "t4"), ("--timeout", "0"), ("--wait", "-1")])
def test_flags_that_make_no_sense(vramplan: Run, settings: Path, words: tuple[str, ...]):
    outcome = vramplan("calibrate", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")


def test_auto_is_this_machines_card(vramplan: Run, monkeypatch: pytest.MonkeyPatch, settings: Path):
    from vramplan.device import nvml  # noqa: PLC0415

    monkeypatch.setattr(nvml, "open_probe", lambda: FakeProbe(devices=(H200,)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for words in (("estimate", "mobilenet_v2", "--precision", "fp16"), ("streams",)):
        outcome = vramplan(*words, "--gpu", "auto")
        assert outcome.exit_code == 0
        assert "H200" in outcome.out
        assert outcome.err == ""


def test_decode_rates_are_stored_and_shown(
    vramplan: Run, machine: Callable[..., FakeProbe], settings: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    monkeypatch.setenv("VRAMPLAN_CONFIG_DIR", str(settings))
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(settings.parent / "cache"))
    machine(used=(0, 0, 0, 0, *USED[1:]))
    rate = decode.DecodeRate(
        codec=Codec.H264, width_px=1920, height_px=1080, session_count=8, fps=4941.26, session_bytes=1 << 26, decoder_ratio=0.0
    )
    monkeypatch.setattr(decode, "measure_decode", lambda probe, device, timeout_s: (rate,))
    outcome = vramplan("calibrate")
    assert outcome.exit_code == 0
    assert "decode, h264 1920×1080, 8 sessions" in outcome.out
    assert "4,941 fps, 64.0 MiB a session" in outcome.out
    (row,) = json.loads((settings / "calibrations" / FILE).read_text())["decode"]
    assert row["fps"] == 4941.3

    def refuse(probe: FakeProbe, device: object, timeout_s: float) -> None:
        raise MachineError("the package PyNvVideoCodec is not installed", hint="Type: pip install PyNvVideoCodec")

    machine(used=(0, 0, 0, 0, *USED[1:]))
    monkeypatch.setattr(decode, "measure_decode", refuse)
    outcome = vramplan("calibrate")
    assert outcome.exit_code == 0
    assert "pip install PyNvVideoCodec" in " ".join(outcome.out.split())
