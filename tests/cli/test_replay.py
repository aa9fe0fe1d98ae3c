"""`vramplan replay`: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vramplan as vp
from tests.recordings import MARKS, RECORDING, changed
from vramplan.sources.recording import write_recording
from vramplan.units import MIB

DATA = Path(__file__).parents[1] / "traces" / "data"
YOLO = str(DATA / "yolov8s_fp16_contiguous_b8.json.gz")


@pytest.fixture
def toy(tmp_path: Path) -> str:
    write_recording(tmp_path / "toy.json", RECORDING)
    return str(tmp_path / "toy.json")


def _written(tmp_path: Path, **fields: object) -> str:
    write_recording(tmp_path / "other.json", changed(**fields), force=True)
    return str(tmp_path / "other.json")


def test_the_table_and_the_counters_are_on_stdout(vramplan: Callable, toy: str):
    outcome = vramplan("replay", toy)
    assert (outcome.exit_code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("toy · ")
    assert "note: recorded on NVIDIA H200, driver 580.159, torch 2.11.0+cu130" in lines
    assert "measured: weights, inputs, activations, outputs, workspace, slack, context" in lines
    assert f"first_run  allocated peak  {3 * MIB + 1024 + 5120:>10,}  {3 * MIB + 1024 + 5120:>10,}           0" in lines
    assert "All 10 recorded counters are equal to the byte in the replay." in lines
    assert lines[-2].startswith("Fits: takes ")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json.gz")), ids=lambda path: path.name)
def test_every_counter_of_the_recorded_networks_is_equal(vramplan: Callable, path: Path):
    assert "All 15 recorded counters are equal to the byte in the replay." in vramplan("replay", str(path)).out


def test_json_has_the_parts_the_environment_and_every_counter(vramplan: Callable, toy: str):
    outcome = vramplan("replay", toy, "--json", "--layers")
    content = json.loads(outcome.out)
    assert outcome.err == ""
    (row,) = content["rows"]
    assert sum(row["budget"].values()) == row["total_bytes"]
    assert row["total_bytes"] - row["budget"]["context_bytes"] == 22 * MIB  # what was reserved
    assert row["phases"]["first_run"]["allocated_peak_bytes"] == MARKS["first_run"]["allocated_peak_bytes"]
    assert [layer["name"] for layer in row["layers"]] == ["conv conv2d", "add"]
    assert content["model"]["parameters"] is None
    assert content["environment"]["gpu"] == "NVIDIA H200"
    assert content["counters_are_equal"] is True
    assert len(content["counters"]) == sum(map(len, MARKS.values()))
    assert content["counters"][0] == {
        "phase": "load",
        "name": "requested_bytes",
        "measured_bytes": 3 * MIB,
        "replayed_bytes": 3 * MIB,
        "difference_bytes": 0,
    }


def test_csv_goes_to_stdout_and_the_sentences_to_stderr(vramplan: Callable, toy: str):
    outcome = vramplan("replay", toy, "--csv")
    (row,) = csv.DictReader(io.StringIO(outcome.out))
    assert (row["weights_bytes"], row["workspace_bytes"]) == (str(3 * MIB), "0")
    assert outcome.err.startswith("All 10 recorded counters are equal")
    assert "\nFits: " in outcome.err


def test_markdown_has_the_counters_as_a_table(vramplan: Callable, toy: str):
    out = vramplan("replay", toy, "--markdown").out
    assert "| first\\_run | allocated peak |" in out
    assert "All 10 recorded counters are equal" in out


def test_peak_and_layers_are_sections(vramplan: Callable, toy: str):
    out = vramplan("replay", toy, "--peak", "--layers", "--top", "1").out
    assert "\nPeak of fp16 at batch 8: while add runs, step 3 of 3\n" in out
    assert "\nLayers of fp16 at batch 8, sizes in MiB\n" in out


def test_a_file_is_written_once(vramplan: Callable, toy: str, tmp_path: Path):
    target = str(tmp_path / "report.json")
    assert vramplan("replay", toy, "-o", target).exit_code == 0
    assert json.loads(Path(target).read_text())["counters_are_equal"] is True
    assert vramplan("replay", toy, "-o", target).exit_code == 2
    assert vramplan("replay", toy, "-o", target, "--force").exit_code == 0


def test_a_counter_that_differs_is_named(vramplan: Callable, tmp_path: Path):
    marks = MARKS | {"steady": MARKS["steady"] | {"reserved_peak_bytes": 24 * MIB}}
    outcome = vramplan("replay", _written(tmp_path, marks=marks))
    assert outcome.exit_code == 0
    words = " ".join(outcome.out.split())
    assert "1 of 10 recorded counters differ in the replay, most reserved peak of steady: -2,097,152 bytes." in words


def test_the_devices_own_reserved_bytes_are_the_total(tmp_path: Path):
    marks = MARKS | {"steady": MARKS["steady"] | {"reserved_peak_bytes": 24 * MIB}}
    found = vp.replay(_written(tmp_path, marks=marks, environment={"gpu": "NVIDIA H200", "context_bytes": "500000000"}))
    assert found.estimate.total_bytes == 24 * MIB + 500_000_000
    assert found.is_equal is False
    assert found.estimate.budget.context.evidence == "measured"


def test_without_counters_nothing_is_proved(vramplan: Callable, tmp_path: Path):
    path = _written(tmp_path, marks={})
    assert "The recording has no counters: nothing says whether the replay is right." in vramplan("replay", path).out
    found = vp.replay(path)
    assert found.is_equal is None
    assert found.estimate.budget.allocator_slack.evidence == "exact"
    assert vp.replay(_written(tmp_path, marks={}, segments=())).estimate.budget.allocator_slack.evidence == "bounded"


@pytest.mark.parametrize(
    ("environment", "note"),
    [({}, "the recording names no card"), ({"gpu": "Voodoo 2"}, "the recorded card 'Voodoo 2' is not in the catalogue")],
)
def test_an_unknown_card_has_a_context_of_any_card(vramplan: Callable, tmp_path: Path, environment: dict[str, str], note: str):
    path = _written(tmp_path, environment=environment)
    outcome = vramplan("replay", path)
    assert outcome.exit_code == 0
    assert note in " ".join(outcome.out.split())
    assert "--gpu NAME or --budget SIZE says whether it fits." in " ".join(outcome.out.split())
    context = vp.replay(path).estimate.budget.context
    assert 0 < context.low_bytes < context.high_bytes


def test_a_counter_that_is_no_peak_is_shown_when_there_is_no_other(vramplan: Callable, tmp_path: Path):
    out = vramplan("replay", _written(tmp_path, marks={"load": {"allocated_bytes": 3 * MIB}})).out
    assert f"load   allocated  {3 * MIB:,}  {3 * MIB:,}           0" in out
    assert "The only recorded counter is equal to the byte in the replay." in out


def test_another_card_and_a_budget_are_judged(vramplan: Callable):
    assert "judged on NVIDIA GeForce RTX 3090" in vramplan("replay", YOLO, "--gpu", "3090").out
    outcome = vramplan("replay", YOLO, "--budget", "500MiB")
    assert outcome.exit_code == 1
    assert "\nDoes not fit: " in outcome.out


def test_a_setting_of_the_recorded_allocator_is_replayed(vramplan: Callable, tmp_path: Path):
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "roundup_power2_divisions:1"}
    found = vp.replay(_written(tmp_path, environment=settings, marks={}))
    assert found.estimate.phases["load"].allocated_peak_bytes == 3 * MIB
    outcome = vramplan("replay", _written(tmp_path, environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}))
    assert (outcome.exit_code, outcome.out) == (3, "")
    assert "cannot be replayed: PYTORCH_CUDA_ALLOC_CONF: " in outcome.err


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["replay"], 2, "no recording is named"),
        (["replay", YOLO, "--top", "3"], 2, "--top needs --peak or --layers"),
        (["replay", YOLO, "--csv", "--peak", "--layers"], 2, "--csv has one table"),
        (["replay", YOLO, "--json", "--csv"], 2, "--json and --csv exclude each other"),
        (["replay", YOLO, "--gpu", "voodoo2"], 2, "unknown GPU 'voodoo2'"),
        (["replay", YOLO, "--budget", "lots"], 2, "--budget: cannot read 'lots'"),
        (["replay", "nothing.json"], 3, "no file is called 'nothing.json'"),
        (["replay", "tests"], 3, "'tests' is a folder"),
        (["replay", "pyproject.toml"], 3, "'pyproject.toml' is no recording that can be read: it is not JSON"),
    ],
)
def test_errors_are_one_message_and_a_hint(vramplan: Callable, words: list[str], exit_code: int, message: str):
    outcome = vramplan(*words)
    assert (outcome.exit_code, outcome.out) == (exit_code, "")
    first, *rest = outcome.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert all(line.startswith("hint: ") for line in rest)
    assert rest


def test_a_recording_without_a_first_run_is_exit_3(vramplan: Callable, tmp_path: Path):
    program = RECORDING.program
    renamed = type(program)(
        buffers=program.buffers,
        events=program.events,
        ops=program.ops,
        phases=tuple(phase._replace(name=f"part {index}") for index, phase in enumerate(program.phases)),
    )
    outcome = vramplan("replay", _written(tmp_path, program=renamed, marks={}))
    assert outcome.exit_code == 3
    assert "has no phase 'first_run', only: 'part 0', 'part 1', 'part 2'" in outcome.err


def test_a_replay_needs_no_torch_onnx_or_pandas():
    code = (
        "import sys\nfor name in ('torch', 'onnx', 'pandas', 'rich'): sys.modules[name] = None\n"
        "from vramplan.__main__ import main; sys.exit(main(['replay', sys.argv[1]]))"
    )
    outcome = subprocess.run([sys.executable, "-c", code, YOLO], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
