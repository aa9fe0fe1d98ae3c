"""A terminal obeys escape sequences, and every name may come from a stranger's file: none gets out, in no format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers whose every name clears the screen, in a file that does so too."""
    image, result = (
        helper.make_tensor_value_info(f"{name}{EVIL}", TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("image", "result")
    )
    nodes = [
        helper.make_node("Sigmoid", [f"image{EVIL}"], [f"middle{EVIL}"], name=f"first{EVIL}"),
        helper.make_node(f"Odd{EVIL}", [f"middle{EVIL}"], [f"result{EVIL}"], name=f"second{EVIL}", domain="stranger"),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
    path = tmp_path / f"model{EVIL}.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, f"g{EVIL}", [image], [result]), opset_imports=opsets), path)
    return path


@pytest.mark.parametrize("flags", [(), ("--peak", "--layers"), ("--markdown", "--peak", "--layers"), ("--csv",), ("--json",)])
@pytest.mark.parametrize("command", ["estimate", "streams"])
def test_no_control_character_is_printed(vramplan: Callable, model: Path, command: str, flags: tuple[str, ...]):
    if command == "streams" and "--peak" in flags:
        flags = tuple(flag for flag in flags if flag == "--markdown")
    outcome = vramplan(command, str(model), "--gpu", "3090", *flags)
    assert outcome.exit_code in (0, 1), outcome.err
    assert outcome.out
    assert not [char for char in outcome.out + outcome.err if not char.isprintable() and char != "\n"]


def test_nor_does_one_reach_a_page(vramplan: Callable, model: Path, tmp_path: Path):
    for command in ("estimate", "streams"):
        page = tmp_path / f"{command}.html"
        assert vramplan(command, str(model), "--gpu", "3090", "--html", str(page)).exit_code in (0, 1)
        assert not [char for char in page.read_text(encoding="utf-8") if not char.isprintable() and char != "\n"]
