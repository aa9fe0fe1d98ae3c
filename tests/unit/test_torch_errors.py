"""Exceptions of the user's code become one error: their own line, the shapes, what to do."""

import socket
import urllib.error
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.errors import ModelError, UsageError  # noqa: E402
from vramplan.sources.torch_errors import user_error  # noqa: E402


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x, mask):
        return self.linear(x)  # the line


def error_of(call, shapes=None):
    try:
        call()
    except BaseException as exception:
        return user_error(exception, "forward of Net failed", shapes)
    raise AssertionError("nothing was raised")


def line_of(text):
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(text))


def test_the_users_line_and_the_shapes():
    error = error_of(lambda: Net()(torch.zeros(1, 3), None), {"x": (1, 3), "scale": ()})
    assert isinstance(error, ModelError)
    assert error.message.startswith("forward of Net failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert f"test_torch_errors.py:{line_of('# the line')} `return self.linear(x)  # the line`" in error.message
    assert error.message.endswith("fed x: 1x3, scale: a scalar")
    assert "--shape" in error.hint
    assert "site-packages" not in str(error)


def test_missing_arguments_name_their_flags():
    error = error_of(lambda: Net()(torch.zeros(1, 4)), {"x": (1, 4)})
    assert "--shape mask:" in error.hint


def test_missing_arguments_of_several():
    error = error_of(Net())
    assert "--shape x:1x3x640x640 --shape mask:1x3x640x640" in error.hint


@pytest.mark.filterwarnings("ignore")
def test_torchscript_says_its_last_line():
    script = torch.jit.script(nn.Linear(4, 2))
    assert "mat1 and mat2 shapes" in error_of(lambda: script(torch.zeros(1, 3))).message
    assert "--shape input:" in error_of(script).hint


def raising(exception, cause=None):
    def call():
        raise exception from cause

    return call


@pytest.mark.parametrize(
    "call",
    [
        raising(urllib.error.URLError("no route")),
        raising(socket.gaierror(-3, "Temporary failure in name resolution")),
        raising(OSError("We couldn't connect to 'https://huggingface.co' to load the files")),
        raising(RuntimeError("could not build"), ConnectionRefusedError("refused")),
    ],
)
def test_downloads_are_recognised(call):
    assert error_of(call).hint.startswith("Build it without pretrained weights")


@pytest.mark.parametrize(
    ("exception", "hint"),
    [
        (MemoryError(), "meta device"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "Install it here, or run where it can be imported: timm."),
        (ValueError("depth"), "Run that code on its own"),
    ],
)
def test_hints(exception, hint):
    assert hint in error_of(raising(exception)).hint


def test_exceptions_without_text():
    assert error_of(raising(AssertionError())).message.startswith("forward of Net failed: AssertionError; at ")


def test_hostile_text_is_printable_and_short():
    error = error_of(raising(ValueError("\x1b[2J" + "x" * 5000)))
    assert error.message.isprintable()
    assert len(error.message) < 1000


def test_only_the_first_line_is_kept():
    assert "second" not in error_of(raising(ValueError("first\nsecond"))).message


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), UsageError("our own")])
def test_what_is_not_the_users_fault_passes_through(exception):
    with pytest.raises(type(exception)):
        error_of(raising(exception))


def test_a_line_of_a_library_counts_when_there_is_no_other(tmp_path):
    path = tmp_path / "site-packages" / "lib" / "net.py"
    path.parent.mkdir(parents=True)
    path.write_text("def build():\n    raise ValueError('x')\n")
    names: dict = {"__name__": "lib.net"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    try:
        names["build"]()
    except ValueError as exception:
        alone = exception.with_traceback(exception.__traceback__.tb_next)
        assert "lib/net.py:2 `raise ValueError('x')`" in user_error(alone, "build failed").message.replace("\\", "/")
