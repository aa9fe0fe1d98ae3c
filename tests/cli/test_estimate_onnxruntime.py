"""`vramplan estimate --runtime onnxruntime`: standard output, standard error and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from vramplan.estimate import estimate
from vramplan.units import MIB

MODEL = "resnet50"
FILE = str(Path(__file__).parents[2] / "models" / "onnx" / "resnet50.onnx")
OF_FILE = ["estimate", FILE, "--dim", "height=224", "--dim", "width=224"]
SESSION = ["estimate", MODEL, "--runtime", "onnxruntime", "--gpu", "h200"]
BY_REQUEST = ["--runtime-option", "arena_extend_strategy=kSameAsRequested"]


def test_a_session_has_its_phases_and_their_processes(vramplan: Callable):
    outcome = vramplan(*SESSION, "-b", "8", "--precision", "fp32", "--json")
    (row,) = json.loads(outcome.out)["rows"]
    assert (outcome.exit_code, outcome.err, row["runtime"]) == (0, "", "onnxruntime")
    assert list(row["phases"]) == ["session", "run1", "run2", "steady"]
    assert all(
        set(phase) == {"allocated_peak_bytes", "reserved_peak_bytes", "process_bytes"} for phase in row["phases"].values()
    )
    assert row["phases"]["steady"]["process_bytes"] == row["total_bytes"] == sum(row["budget"].values())
    assert sum(line["size_bytes"] for line in row["account"]) == row["total_bytes"]


def test_precisions_are_those_that_a_file_can_be_converted_to(vramplan: Callable):
    outcome = vramplan(*SESSION, "--csv")
    assert [line.split(",")[2] for line in outcome.out.splitlines()[1:]] == ["fp32", "fp16"]


def test_an_option_changes_the_arena(vramplan: Callable):
    usual = json.loads(vramplan(*SESSION, "-b", "8", "--precision", "fp32", "--json").out)["rows"][0]
    thrifty = json.loads(vramplan(*SESSION, *BY_REQUEST, "-b", "8", "--precision", "fp32", "--json").out)["rows"][0]
    assert thrifty["total_bytes"] < usual["total_bytes"]
    assert thrifty["budget"]["weights_bytes"] == usual["budget"]["weights_bytes"]


def test_a_thriftier_session_is_tried_and_solved(vramplan: Callable):
    outcome = vramplan(*SESSION, "-b", "8", "--precision", "fp32", "--json")
    row, best = json.loads(outcome.out)["rows"][0], json.loads(outcome.out)["verdict"]["try"][0]
    assert best["flags"].startswith("--runtime-option ")
    saved = f"{(row['total_bytes'] - best['total_bytes']) / MIB:.1f} MiB"
    assert f" (-{saved}, " in best["text"]
    again = vramplan(*SESSION, "-b", "8", "--precision", "fp32", "--json", *best["flags"].split())
    assert json.loads(again.out)["rows"][0]["total_bytes"] == best["total_bytes"]


def test_explain_sums_to_the_process(vramplan: Callable):
    outcome = vramplan(*SESSION, "--precision", "fp32", "--explain")
    assert outcome.exit_code == 0
    assert "Where the bytes go, onnxruntime, fp32 at batch 1" in outcome.out
    assert "regions that double, beyond what is asked for" in outcome.out
    assert "The process after each phase: session" in outcome.out


def test_all_runtimes_are_rows_of_one_table(vramplan: Callable):
    outcome = vramplan("estimate", MODEL, "--runtime", "all", "--csv")
    runtimes = [line.split(",")[1] for line in outcome.out.splitlines()[1:]]
    known = ["tensorrt", "onnxruntime", *(["torch"] if find_spec("torch") else [])]
    assert runtimes == [runtime for runtime in known for _ in ("fp32", "fp16")]
    table = vramplan("estimate", MODEL, "--runtime", "tensorrt,onnxruntime", "--precision", "fp32").out
    assert table.count("precision") == 1


def test_a_file_is_shown_in_both_runtimes_that_people_run_it_in(vramplan: Callable):
    outcome = vramplan(*OF_FILE, "-b", "1", "--gpu", "h200", "--json")
    content = json.loads(outcome.out)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert [(row["runtime"], row["precision"]) for row in content["rows"]] == [
        *(("tensorrt", precision) for precision in ("fp32", "fp16", "int8")),
        *(("onnxruntime", precision) for precision in ("fp32", "fp16")),
    ]
    (note,) = content["notes"]
    assert note.startswith("no row for int8 in onnxruntime: ONNX Runtime runs the types of the file")


def test_a_built_in_model_stays_with_tensorrt_and_so_does_the_api(vramplan: Callable):
    rows = json.loads(vramplan("estimate", MODEL, "--json").out)["rows"]
    assert {row["runtime"] for row in rows} == {"tensorrt"}
    sizes = {"height": 224, "width": 224}
    assert estimate(FILE, batch=1, dims=sizes).runtime == "tensorrt"
    assert estimate(FILE, batch=1, dims=sizes, runtime="onnxruntime").runtime == "onnxruntime"


def test_an_option_of_one_runtime_leaves_the_other_row_alone(vramplan: Callable):
    usual = json.loads(vramplan(*OF_FILE, "-b", "8", "--precision", "fp32", "--json").out)["rows"]
    with_limit = json.loads(vramplan(*OF_FILE, "-b", "8", "--precision", "fp32", "--workspace", "0", "--json").out)
    thrifty = json.loads(vramplan(*OF_FILE, "-b", "8", "--precision", "fp32", *BY_REQUEST, "--json").out)["rows"]
    assert with_limit["rows"][1]["total_bytes"] == usual[1]["total_bytes"]
    assert thrifty[0]["total_bytes"] == usual[0]["total_bytes"]
    assert thrifty[1]["total_bytes"] < usual[1]["total_bytes"]


def test_titles_tell_rows_of_two_runtimes_apart(vramplan: Callable):
    outcome = vramplan(*OF_FILE, "-b", "1", "--precision", "fp32", "--peak")
    assert "Peak of tensorrt, fp32 at batch 1" in outcome.out
    assert "Peak of onnxruntime, fp32 at batch 1" in outcome.out


def test_the_memory_of_a_pattern_is_opened_at_the_peak(vramplan: Callable):
    outcome = vramplan(*SESSION, "--precision", "fp32", "--peak")
    assert outcome.exit_code == 0
    assert "memory pattern" not in outcome.out.split("Peak of")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtime", "onnxruntime", "--runtime-option", "nope=1"], "unknown runtime option 'nope'"),
        (["--runtime", "onnxruntime", "--runtime-option", "nope"], "is not KEY=VALUE"),
        (["--runtime", "onnxruntime", "--runtime-option", "enable_cuda_graph=perhaps"], "is not 0 or 1"),
        (["--runtime", "onnxruntime", "--precision", "int8"], "does not quantise"),
        (["--runtime", "onnxruntime", "--workspace", "1GiB"], "are TensorRT's"),
        (["--runtime", "tensorrt", *BY_REQUEST], "runtime options are ONNX Runtime's"),
        (["--explain"], "--explain is for ONNX Runtime"),
        (["--runtime", "all,tensorrt"], "all has the others in it"),
    ],
)
def test_what_does_not_go_together_is_one_message_and_exit_2(vramplan: Callable, words: list[str], message: str):
    outcome = vramplan("estimate", MODEL, *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


IN_TURN = ["--shape", "input:8x3x224x224", "--shape", "input:1x3x224x224"]


def test_shapes_that_change_between_runs_are_run_in_turn(vramplan: Callable):
    outcome = vramplan("estimate", FILE, *IN_TURN, "--precision", "fp32", "--gpu", "h200", "--json")
    tensorrt, session = json.loads(outcome.out)["rows"]
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert [run["shapes"]["input"][0] for run in session["runs"]] == [8, 1, 8, 1]
    processes = [run["process_bytes"] for run in session["runs"]]
    assert processes == sorted(processes)  # an arena gives nothing back
    assert session["total_bytes"] >= processes[-1]
    assert session["inputs"][0]["shape"] == [8, 3, 224, 224]
    assert tensorrt["profile"]["max_shapes"] == {"input": [8, 3, 224, 224]}
    assert "runs" not in tensorrt


def test_the_order_of_the_shapes_does_not_change_which_is_the_largest(vramplan: Callable):
    small_first = ["--shape", "input:1x3x224x224", "--shape", "input:8x3x224x224"]
    found = json.loads(
        vramplan("estimate", FILE, *small_first, "--runtime", "onnxruntime", "--precision", "fp32", "--json").out
    )
    (row,) = found["rows"]
    assert [run["shapes"]["input"][0] for run in row["runs"]] == [1, 8, 1, 8]
    assert row["inputs"][0]["shape"][0] == 8
    assert row["runs"][0]["process_bytes"] < row["runs"][1]["process_bytes"]


def test_shapes_in_turn_hold_at_least_what_the_largest_alone_holds():
    small, large = {"input": (1, 3, 224, 224)}, {"input": (8, 3, 224, 224)}
    alone = estimate(FILE, shapes=large, runtime="onnxruntime", runtime_options={"arena_extend_strategy": "kSameAsRequested"})
    both = estimate(
        FILE, shapes=[small, large], runtime="onnxruntime", runtime_options={"arena_extend_strategy": "kSameAsRequested"}
    )
    assert both.lower_bound_bytes == alone.lower_bound_bytes
    assert both.total_bytes >= alone.total_bytes
    assert estimate(FILE, shapes=[large], runtime="onnxruntime").runs == ()


def test_the_table_shows_each_run(vramplan: Callable):
    outcome = vramplan("estimate", FILE, *IN_TURN, "--precision", "fp32", "--runtime", "onnxruntime")
    assert "Run after run, onnxruntime, fp32" in outcome.out
    assert outcome.out.count("input 8×3×224×224") == 3  # the headline and two runs
    assert max(map(len, outcome.out.splitlines())) <= 100
    assert "-b 8" not in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, "--runtime", "torch", *IN_TURN], "shapes that change between runs are not modelled for PyTorch"),
        ([FILE, "--shape", "input:8x3x224x224", "--shape", "input:1x3x224"], "axes"),
        ([FILE, "--shape", "nope:1x3", "--shape", "nope:2x3"], "no input 'nope'"),
        ([FILE, *(word for size in range(1, 40) for word in ("--shape", f"input:{size}x3x32x32"))], "are more than 32"),
    ],
)
def test_shapes_in_turn_that_cannot_be_are_one_message(vramplan: Callable, words: list[str], message: str):
    outcome = vramplan("estimate", *words)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert message in outcome.err


@pytest.fixture
def with_fallback(tmp_path: Path) -> str:
    """Conv → Hardmax, which has no CUDA kernel → Conv, on 1 × 8 × 32 × 32 floats: 32 KiB a result."""
    weights = numpy_helper.from_array(np.ones((8, 8, 3, 3), dtype=np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Hardmax", ["a"], ["b"], name="gate"),
        helper.make_node("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1], name="last"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 32, 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save(model, tmp_path / "hardmax.onnx")
    return str(tmp_path / "hardmax.onnx")


def test_nodes_on_the_cpu_are_named_with_what_is_copied(vramplan: Callable, with_fallback: str):
    words = ["estimate", with_fallback, "--runtime", "onnxruntime", "--precision", "as-is"]
    (row,) = json.loads(vramplan(*words, "--json").out)["rows"]
    assert row["fallbacks"] == [
        {
            "node": "gate",
            "op": "Hardmax",
            "to_cpu": [{"name": "a", "size_bytes": 8 * 32 * 32 * 4}],
            "to_gpu": [{"name": "b", "size_bytes": 8 * 32 * 32 * 4}],
        }
    ]
    assert any("on the CPU: gate (Hardmax)" in note for note in row["notes"])
    explained = vramplan(*words, "--explain").out
    assert "On the CPU, onnxruntime, as-is at batch 1" in explained
    assert "gate  Hardmax  1, 32.0 KiB      1, 32.0 KiB" in explained


def test_a_cuda_graph_is_kept_by_the_driver_kernel_by_kernel(vramplan: Callable):
    words = [*SESSION, "-b", "8", "--precision", "fp32", "--json", "--layers"]
    plain = json.loads(vramplan(*words).out)["rows"][0]
    graph = json.loads(vramplan(*words, "--runtime-option", "enable_cuda_graph=1").out)["rows"][0]
    kept = (64 << 10) * len(graph["layers"])
    assert graph["total_bytes"] == plain["total_bytes"] + kept
    assert graph["total_low_bytes"] == plain["total_low_bytes"]
    assert graph["phases"]["run1"] == graph["phases"]["run2"]
    assert {"name": "kernels of the CUDA graph", "size_bytes": kept} in graph["account"]
    assert sum(line["size_bytes"] for line in graph["account"]) == graph["total_bytes"]


def test_no_cuda_graph_is_captured_where_a_node_runs_on_the_cpu(vramplan: Callable, with_fallback: str):
    option = ["--runtime", "onnxruntime", "--runtime-option", "enable_cuda_graph=1"]
    refused = vramplan("estimate", with_fallback, *option)
    assert (refused.exit_code, refused.out) == (2, "")
    assert "'gate' (Hardmax)" in refused.err
    in_turn = vramplan("estimate", FILE, *IN_TURN, *option)
    assert "a CUDA graph has one set of shapes" in in_turn.err


def test_the_account_goes_from_the_file_to_the_process(vramplan: Callable):
    (row,) = json.loads(vramplan(*SESSION, "-b", "8", "--precision", "fp32", "--json").out)["rows"]
    account = {line["name"]: line["size_bytes"] for line in row["account"]}
    weights = account["weights, as in the file"] + account.get("weights that are folded, converted, or stay on the CPU", 0)
    assert weights == row["budget"]["weights_bytes"]
    assert account["scratch of kernels at the peak"] == row["budget"]["workspace_bytes"]
    assert account["results of kernels, in the block of the memory pattern"] == row["budget"]["activations_bytes"]
    assert all(size >= 0 for name, size in account.items() if not name.startswith("weights that"))
    assert sum(account.values()) == row["total_bytes"]
