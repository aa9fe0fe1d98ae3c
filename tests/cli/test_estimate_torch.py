"""`vramplan estimate` of PyTorch modules: standard output, standard error and exit code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

CODE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.blocks(x)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, image):
        return self.conv(image)


class Chatty(Net):
    def forward(self, x):
        print("shape of x:", x.shape, x)
        return super().forward(x)


class Interrupted(Net):
    def forward(self, x):
        raise KeyboardInterrupt


def net():
    print("building")
    return Net()


def with_args():
    return Net(), (torch.zeros(4, 64),)


def fails():
    raise RuntimeError("no such width")


def wrong():
    return "a model"


def pretrained():
    raise OSError("We couldn't connect to 'https://huggingface.co' to load this file")
"""


@pytest.fixture
def net_py(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return str(path)


WORDS = ("--precision", "fp16", "--gpu", "h200")


def rows(outcome) -> list[dict]:
    return json.loads(outcome.out)["rows"]


def complaint(outcome, exit_code: int) -> str:
    """The one error on standard error, when nothing else was written."""
    assert (outcome.exit_code, outcome.out) == (exit_code, "")
    lines = outcome.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] + [False] * (len(lines) - 1)
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert "Traceback" not in outcome.err
    return outcome.err


def test_a_factory_in_a_file(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:Net", "--runtime", "torch", "--shape", "x:4x64", "--gpu", "h200")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith(("fp", "bf"))] == ["fp32", "fp16", "bf16"]
    assert "runs the code of net.py" in outcome.out


def test_the_runtime_follows_from_the_model(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:with_args", *WORDS, "--json")
    assert [(row["runtime"], row["batch"]) for row in rows(outcome)] == [("torch", 4)]


def test_json_has_every_phase_and_parts_that_add_up(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:net", *WORDS, "--shape", "x:4x64", "-b", "4,4096", "--json")
    assert outcome.err == "building\n"  # what the user's code prints
    assert [row["batch"] for row in rows(outcome)] == [4, 4096]
    for row in rows(outcome):
        assert sum(row["budget"].values()) == row["total_bytes"]
        assert list(row["phases"]) == ["load", "first_run", "steady"]
        for phase in row["phases"].values():
            assert 0 < phase["allocated_peak_bytes"] <= phase["reserved_peak_bytes"]
        assert set(row["evidence"]) == set(row["ranges"]) == {name.removesuffix("_bytes") for name in row["budget"]}
        assert row["evidence"]["weights"] == "exact"
    weights = 2 * (64 * 256 + 256 + 256 * 64 + 64)
    assert {row["budget"]["weights_bytes"] for row in rows(outcome)} == {weights * 2}


def test_the_peak_reads_like_the_users_code(vramplan: Callable, net_py: str):
    words = ("estimate", f"{net_py}:Net", *WORDS, "--shape", "x:65536x64", "--peak")
    out = vramplan(*words).out
    assert "\nPeak of fp16 at batch 65536: while blocks." in out
    names = [item["name"] for item in rows(vramplan(*words, "--json"))[0]["peak"]["live"]]
    assert {"blocks.0.first.weight", "blocks.1.second.bias"} <= set(names)
    assert any(name.startswith(("blocks.0.first ", "blocks.0 ", "blocks.1.first ", "blocks.1 ")) for name in names)


def test_layers_are_the_ops_by_module(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:Net", *WORDS, "--shape", "x:4x64", "--layers", "--json")
    names = [layer["name"] for layer in rows(outcome)[0]["layers"]]
    block = ["first linear", "relu", "second linear", "add"]
    assert names == [f"blocks.{number}{' ' if ' ' not in op else '.'}{op}" for number in (0, 1) for op in block]


def test_memory_format_and_dropped_outputs(vramplan: Callable, net_py: str):
    words = ("estimate", f"{net_py}:Image", *WORDS, "--shape", "image:8x3x256x256", "--json")
    plain, other, dropped = (
        rows(vramplan(*words, *more))[0] for more in ((), ("--memory-format", "channels_last"), ("--drop-outputs",))
    )
    assert (plain["memory_format"], other["memory_format"]) == ("contiguous", "channels_last")
    assert plain["budget"]["inputs_bytes"] == other["budget"]["inputs_bytes"] == 8 * 3 * 256 * 256 * 2
    output = 8 * 8 * 254 * 254 * 2
    held = plain["phases"]["steady"]["allocated_peak_bytes"] - dropped["phases"]["steady"]["allocated_peak_bytes"]
    assert 0 <= held - output < 512


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "x:4x64", "--compile"], "--compile: what torch.compile fuses is not modelled yet"),
        (["--shape", "x:4x64", "--cuda-graphs"], "--cuda-graphs: the pool of a CUDA graph is not modelled yet"),
        ([], "forward(x) needs a shape for x"),
        (["--shape", "y:4x64"], "no input is called"),
        (["--shape", "x:4x64", "--memory-format", "nchw"], "unknown memory format 'nchw'"),
        (["--shape", "x:4x64", "--runtime", "tensorrt"], "tensorrt takes an ONNX file"),
        (["--shape", "x:4x64", "--workspace", "1GiB"], "a workspace limit are TensorRT's"),
    ],
)
def test_usage_errors_are_one_message_and_exit_2(vramplan: Callable, net_py: str, words: list[str], message: str):
    assert message in complaint(vramplan("estimate", f"{net_py}:Net", *words), 2)


def test_a_file_without_a_factory_names_those_it_has(vramplan: Callable, net_py: str):
    assert f"{net_py}:Net" in complaint(vramplan("estimate", net_py), 2)


@pytest.mark.parametrize(
    ("factory", "message", "hint"),
    [
        ("fails", "RuntimeError: no such width", ""),
        ("wrong", "returned a value of type str", "Let it return"),
        ("pretrained", "couldn't connect", "Build it without pretrained weights"),
        ("nowhere", "has no 'nowhere'", ""),
    ],
)
def test_a_factory_that_fails_is_one_error_and_exit_3(vramplan: Callable, net_py: str, factory: str, message: str, hint: str):
    text = complaint(vramplan("estimate", f"{net_py}:{factory}", "--shape", "x:4x64"), 3)
    assert message in text
    assert hint in text


def test_an_error_shows_the_users_own_line(vramplan: Callable, net_py: str):
    text = complaint(vramplan("estimate", f"{net_py}:fails"), 3)
    line = CODE.splitlines().index('    raise RuntimeError("no such width")') + 1
    assert f'at {net_py}:{line} `raise RuntimeError("no such width")`' in text


def test_a_wrong_shape_shows_the_line_and_what_was_fed(vramplan: Callable, net_py: str):
    text = complaint(vramplan("estimate", f"{net_py}:Net", "--shape", "x:4x65"), 3)
    assert "`return x + self.second(torch.relu(self.first(x)))`" in text
    assert "fed x: 4x65" in text
    assert "vramplan/runtimes" not in text


def test_a_forward_that_prints_does_not_disturb_the_report(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:Chatty", *WORDS, "--shape", "x:4x64", "--json")
    assert rows(outcome)[0]["batch"] == 4
    assert outcome.err.startswith("shape of x: torch.Size([4, 64]) tensor(...")


def test_ctrl_c_in_a_forward_is_quiet(vramplan: Callable, net_py: str):
    outcome = vramplan("estimate", f"{net_py}:Interrupted", "--shape", "x:4x64")
    assert (outcome.exit_code, outcome.out, outcome.err) == (130, "", "")


def test_a_pickle_is_refused_with_the_ways_out(vramplan: Callable, tmp_path: Path):
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Linear(64, 8)), path, pickle_protocol=pickle.DEFAULT_PROTOCOL)
    text = complaint(vramplan("estimate", str(path), "--shape", "input:4x64"), 3)
    assert "loading it would run code that the file brings along" in text
    assert "--allow-pickle" in text
    outcome = vramplan("estimate", str(path), "--shape", "input:4x64", "--allow-pickle", *WORDS)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "loading it runs the code of the file" in outcome.out


def test_a_state_dict_says_that_it_is_weights_only(vramplan: Callable, tmp_path: Path):
    path = tmp_path / "net.pt"
    torch.save(nn.Linear(64, 8).state_dict(), path)
    outcome = vramplan("estimate", str(path), "--precision", "as-is")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "weights only" in outcome.out


def test_a_budget_is_judged(vramplan: Callable, net_py: str):
    words = ("estimate", f"{net_py}:Net", "--precision", "fp16", "--shape", "x:4x64")
    assert vramplan(*words, "--vram", "24GiB").exit_code == 0
    assert vramplan(*words, "--budget", "1MiB").exit_code == 1
