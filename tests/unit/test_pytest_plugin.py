"""The pytest plugin, run as a user runs it: in a pytest of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[2]

HEAD = """
import pytest
import torch
from torch import nn

X = torch.empty(4, 1024, device="meta")

def big():
    return nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))

@pytest.fixture
def model():
    return big(), (X,)

@pytest.fixture
def other():
    return big()
"""


def run(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    """In a process of its own: pytester forgets what a test imported, and PyTorch cannot be loaded twice into one."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    pytester.makepyfile(HEAD + source)
    return pytester.runpytest_subprocess(
        "-p", "vramplan.pytest_plugin", "--strict-markers", "-p", "no:cacheprovider", "-W", "error"
    )


def test_models_that_fit_pass(pytester: pytest.Pytester):
    result = run(
        pytester,
        """
@pytest.mark.vram(limit="2GiB", precision="fp16", batch=8)
def test_returned():
    return big(), (X,)

@pytest.mark.vram(limit="2GiB", precision="fp16", gpu="3090")
def test_provided(model):
    pass

@pytest.mark.vram(limit="2GiB", fixture="model")
def test_named(model, other):
    pass

@pytest.mark.vram(limit="2GiB", args=(X,))
class TestInAClass:
    def test_it(self, other):
        pass

@pytest.mark.vram(gpu="3090", precision="fp16")
def test_by_name():
    return "mobilenet_v2"

def test_estimate(vram):
    e = vram(big(), args=(X,), batch=8, precision="fp16", gpu="3090")
    assert e.batch == 8
    assert e.budget.weights_bytes == 2 * 2 * (1024 * 1024 + 1024)
    assert vram.assert_fits(e, limit="2GiB") is e
    assert vram.assert_fits("mobilenet_v2", limit=2**31).model.name == "mobilenet_v2"
""",
    )
    result.assert_outcomes(passed=6)


def test_a_model_that_does_not_fit_fails_with_its_peak(pytester: pytest.Pytester):
    result = run(
        pytester,
        """
@pytest.mark.vram(limit="1MiB")
def test_marked(model):
    pass

def test_asserted(vram):
    vram.assert_fits((big(), (X,)), limit="1MiB")

@pytest.mark.vram(limit="1MiB")
def test_failed_already(model):
    assert 1 == 2
""",
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*_ test_marked _*",
            "precision*weights*total*",
            "Peak of *",
            "4 weights *",
            "Does not fit: takes *",
            "*_ test_asserted _*",
            '>*vram.assert_fits((big(), (X,)), limit="1MiB")',
            "*Does not fit: takes *",
            "*assert 1 == 2*",
        ]
    )
    assert result.stdout.str().count("Does not fit: takes") == 2 + result.stdout.str().split("short test summary")[1].count(
        "Does"
    )


def test_what_makes_no_sense_is_said(pytester: pytest.Pytester):
    result = run(
        pytester,
        """
import unittest

@pytest.mark.vram(limitt="1MiB")
def test_keyword(model):
    pass

@pytest.mark.vram("1MiB")
def test_position(model):
    pass

@pytest.mark.vram(batch=1)
def test_limit(model):
    pass

@pytest.mark.vram(limit="1MiB")
def test_nothing():
    pass

@pytest.mark.vram(limit="1MiB")
def test_two(model, other):
    pass

@pytest.mark.vram(limit="1MiB", fixture="modell")
def test_fixture(model):
    pass

@pytest.mark.vram(limit="1MiB")
def test_inputs(other):
    pass

class TestOld(unittest.TestCase):
    @pytest.mark.vram(limit="1MiB")
    def test_method(self):
        pass

def test_option(vram):
    vram(big(), args=(X,), precison="fp16")
""",
    )
    assert result.parseoutcomes().get("passed") is None
    result.stdout.fnmatch_lines(
        [
            "*does not work in a unittest.TestCase*",
            "*marker vram: unknown keyword 'limitt'. Did you mean: limit?*",
            "*marker vram: write keywords*",
            "*there is nothing to fit into*",
            "*it returns no module, and no fixture is one*",
            "*several fixtures are modules: model, other*",
            "*the test has no fixture 'modell'. Did you mean: model?*",
            "*vramplan: *",
            "*vram: unknown option 'precison'*",
        ]
    )


def test_tests_without_it_are_as_they_were(pytester: pytest.Pytester):
    result = run(
        pytester,
        """
def test_plain(model):
    assert len(model) == 2

async def test_coroutine():
    pass
""",
    )
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") == 1
    assert sum(outcomes.values()) == 1  # pytest itself refuses coroutines


def test_loading_it_loads_nothing_heavy():
    code = "import sys, vramplan.pytest_plugin; print(sorted({'torch', 'onnx', 'pandas', 'rich', 'pynvml'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "[]\n"


def test_pytest_finds_it_by_itself():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "[project.entry-points.pytest11]" in text
    assert '"vramplan.pytest_plugin" = "vramplan.pytest_plugin"' in text
