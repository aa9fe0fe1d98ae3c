"""`vramplan measure` and `vramplan verify`, with a GPU and a child that only say what real ones said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.device_fakes import H200_IDLE, FakeProbe, with_used
from tests.measured import STEPS, TOLD, USED_MIB, counters, probe, speaking, used
from vramplan.device import run as device_run
from vramplan.errors import MachineError

MODEL = ("resnet50", "-b", "1", "--precision", "fp16")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("VRAMPLAN_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An H200 on which every model does what *messages* say."""

    def install(messages: list[dict] | None = None, **answers: object) -> None:
        monkeypatch.setattr("vramplan.measuring.open_probe", lambda: probe(**answers))
        monkeypatch.setattr(device_run, "module_command", lambda _: speaking(messages or TOLD))

    return install


GUARDED = used(0, 0, *USED_MIB)
"""The card is read twice before the run: to know it, and by the guard."""


@pytest.mark.parametrize("command", ["measure", "verify"])
def test_without_a_driver_the_machine_lacks_something(vramplan, monkeypatch, command):
    def no_driver():
        raise MachineError("NVML: NVML Shared Library Not Found (LibraryNotFound)", hint="There is no NVIDIA driver here.")

    monkeypatch.setattr("vramplan.measuring.open_probe", no_driver)
    outcome = vramplan(command, *MODEL)
    assert (outcome.exit_code, outcome.out) == (4, "")
    assert outcome.err.splitlines()[0].startswith("error: NVML: ")


def test_a_measurement_as_a_table(vramplan, gpu):
    gpu(memory=GUARDED)
    outcome = vramplan("measure", *MODEL)
    assert (outcome.exit_code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "net · fp16 · batch 4 · contiguous · torch"
    assert lines[1] == "measured: NVIDIA H200, driver 580.159.04, torch 2.11.0, cudnn 91900, date " + lines[1][-10:]
    assert lines[-1] == "It takes 728.0 MiB of the card."
    assert "5.00 ms a forward (median of 50, 4.00 to 9.00): 800 items a second, eagerly." in lines
    assert max(map(len, lines)) <= 100


def test_a_measurement_as_json(vramplan, gpu):
    gpu(memory=GUARDED)
    content = json.loads(vramplan("measure", *MODEL, "--json").out)
    assert content["schema_version"] == 1
    assert content["outcome"] == "finished"
    assert content["phases"]["steady"]["context_bytes"] == (728 - 120) << 20
    assert content["latency"]["throughput_per_s"] == 800
    assert [step["name"] for step in content["context_steps"]] == ["init", "first_kernel", "first_convolution"]


@pytest.mark.parametrize("flag", ["--csv", "--markdown"])
def test_other_formats_put_the_sentence_aside(vramplan, gpu, flag):
    gpu(memory=GUARDED)
    outcome = vramplan("measure", *MODEL, flag)
    assert outcome.exit_code == 0
    assert "steady" in outcome.out


def test_what_does_not_fit_is_not_started(vramplan, gpu):
    gpu(memory=with_used(H200_IDLE, H200_IDLE.free_bytes - (300 << 20)))
    outcome = vramplan("measure", *MODEL)
    assert (outcome.exit_code, outcome.out) == (5, "")
    assert "and 300.0 MiB of NVIDIA H200 are free" in outcome.err
    assert "--force" in outcome.err


def test_force_starts_it_all_the_same(vramplan, gpu):
    free = H200_IDLE.free_bytes - (300 << 20)
    gpu(memory=[with_used(H200_IDLE, free)] * 3 + [with_used(H200_IDLE, free + (mib << 20)) for mib in (1,) * 7])
    messages_ok = vramplan("measure", *MODEL, "--force")
    assert messages_ok.exit_code == 0


def test_out_of_memory_is_the_answer_no(vramplan, gpu):
    failure = {"kind": "out_of_memory", "message": "OutOfMemoryError: Tried to allocate 8.00 GiB. GPU 0 has", "hint": ""}
    gpu([*STEPS[:4], {"phase": "out_of_memory", "counters": counters(90)}, {"error": failure}], memory=GUARDED)
    outcome = vramplan("measure", *MODEL)
    assert outcome.exit_code == 1
    assert outcome.err == ""
    assert "Out of memory: it had taken" in outcome.out
    assert "Tried to allocate 8.00 GiB." in outcome.out


@pytest.mark.parametrize(("error", "exit_code"), [("model", 3), ("machine", 4), ("usage", 2), ("measurement", 5)])
def test_an_error_of_the_child_is_one_error_here(vramplan, gpu, error, exit_code):
    gpu([{"error": {"kind": error, "message": "it broke", "hint": "mend it"}}], memory=GUARDED)
    outcome = vramplan("measure", *MODEL)
    assert (outcome.exit_code, outcome.out) == (exit_code, "")
    assert outcome.err == "error: it broke\nhint: mend it\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no model is named"),
        (("yolov8s", "-b", "1,2"), "runs one batch at one precision"),
        (("yolov8s", "--precision", "fp32,fp16"), "runs one batch at one precision"),
        (("yolov8s", "--memory-format", "nchw"), "unknown memory format 'nchw'"),
        (("yolov8s", "--timeout", "0"), "--timeout: 0 is no number of seconds"),
        (("yolov8s", "--wait", "-1"), "--wait: -1 is no number of seconds"),
        (("yolov8s", "--memory-limit", "much"), "--memory-limit: cannot read 'much'"),
        (("yolov8s", "--runtime", "tensorrt"), "TensorRT engines cannot be measured"),
    ],
)
def test_bad_flags(vramplan, gpu, words, said):
    gpu()
    for command in ("measure", "verify"):
        outcome = vramplan(command, *words)
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert said in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--record", "run.txt"), "neither .json nor .json.gz"),
        (("--record", "/no/such/folder/run.json"), "does not exist"),
        (("--find-max-batch", "-b", "2"), "chooses the batches itself"),
        (("--gpu-index", "7"), "there is no GPU number 7"),
    ],
)
def test_bad_flags_of_measure(vramplan, gpu, words, said):
    gpu()
    outcome = vramplan("measure", "yolov8s", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert said in outcome.err


@pytest.mark.parametrize("tolerance", ["fast", "-1%", "100%", "nan"])
def test_bad_tolerance(vramplan, gpu, tolerance):
    gpu()
    outcome = vramplan("verify", "yolov8s", "--tolerance", tolerance)
    assert outcome.exit_code == 2
    assert "--tolerance" in outcome.err


def test_verify_answers_no_beyond_the_tolerance_and_yes_within(vramplan, gpu):
    """The estimate of ResNet-50 is some 800 MiB; the run that did not happen took 728."""
    for tolerance, exit_code in (("0.01%", 1), ("60%", 0)):
        gpu(memory=GUARDED)
        outcome = vramplan("verify", *MODEL, "--tolerance", tolerance)
        assert outcome.exit_code == exit_code
        assert "measured 728.0 MiB: residual" in outcome.out
        assert ("within" if exit_code == 0 else "beyond") in outcome.out.splitlines()[-1] + outcome.out.splitlines()[-2]


def test_verify_as_json(vramplan, gpu):
    gpu(memory=GUARDED)
    content = json.loads(vramplan("verify", *MODEL, "--json").out)
    assert content["within_tolerance"] in (True, False)
    assert content["rows"][-1]["measured_bytes"] == 728 << 20


def test_a_recording_that_was_not_made_is_said(vramplan, gpu, tmp_path: Path):
    path = tmp_path / "run.json.gz"
    note = {"note": "not recorded: the module cannot be copied"}
    gpu([*TOLD[:-1], note, TOLD[-1]], memory=GUARDED)
    outcome = vramplan("measure", *MODEL, "--record", str(path))
    assert outcome.exit_code == 0
    assert "not recorded: the module cannot be copied" in outcome.out
    assert not path.exists()


def test_a_file_that_exists_is_not_replaced(vramplan, gpu, tmp_path: Path):
    path = tmp_path / "run.json"
    path.write_text("mine")
    gpu()
    outcome = vramplan("measure", *MODEL, "--record", str(path))
    assert outcome.exit_code == 2
    assert path.read_text() == "mine"


def test_what_goes_with_which_runtime(vramplan, gpu, tmp_path: Path):
    gpu()
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    for words, said in (
        (("--runtime", "torch"), "PyTorch runs modules, not ONNX files"),
        (("--precision", "fp16"), "ONNX Runtime runs a file as it is"),
        (("--record", str(tmp_path / "run.json")), "only PyTorch can be recorded"),
        (("--runtime-option", "fast"), "is not KEY=VALUE"),
        (("--runtime-option", "a=1", "--runtime-option", "a=2"), "is there twice"),
    ):
        outcome = vramplan("measure", str(path), *words)
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert said in outcome.err
    assert "runs .onnx files" in vramplan("measure", "yolov8s", "--runtime", "onnxruntime").err
    assert "runtime options are ONNX Runtime's" in vramplan("verify", "yolov8s", "--runtime-option", "a=1").err


def test_names_from_outside_do_not_reach_the_terminal(vramplan, gpu):
    named = {"model": {"name": "evil\x1b[31m", "batch": 1, "notes": ["\x07ring"]}}
    gpu([named, *TOLD[1:]], memory=GUARDED)
    out = vramplan("measure", *MODEL).out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_a_fake_probe_is_what_the_protocol_says():
    assert FakeProbe().devices()[0].name == "NVIDIA H200"
