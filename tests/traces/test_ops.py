"""Ops recorded on an H200 (torch 2.11, cuDNN 9.19), run again on shadows: same allocations, same order, same strides.

The file holds single ops (`benchmarks/torch/cases.py`) and up to 20 calls of each op in whole models; a bfloat16 call is left
out where the float16 one has the same events.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).parent / "data" / "ops_h200.jsonl.gz"

DIFFERENT = {
    # cuDNN says only on a device how much a recurrent network takes; the estimate is 0.03 to 0.4 % more.
    "aten.gru.input": 9,
    "aten.lstm.input": 9,
    # Recorded on one tensor compared with itself, which takes nothing; the file cannot say that two operands are one.
    "aten.equal.default": 12,
    # No rule: solvers, random choices and transforms of strided data, too rare in models of vision.
    "aten.cdist.default": 1,
    "aten.fft_fft.default": 1,
    "aten.fft_rfft2.default": 1,
    "aten.linalg_inv.default": 1,
    "aten.multinomial.default": 1,
    "aten.randperm.default": 1,
}


def _replay():
    spec = importlib.util.spec_from_file_location("replay", ROOT / "benchmarks" / "torch" / "replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recorded_ops_are_repeated():
    replay = _replay()
    replayer, different = replay.Replayer(), Counter()
    for call in replay.read_calls(OPS):
        different[call["op"]] += not _agrees(replay, replayer, call)
    assert {op: count for op, count in different.items() if count and _is_loaded(op)} == {
        op: count for op, count in DIFFERENT.items() if _is_loaded(op)
    }


def _is_loaded(op):
    """Torchvision is not there in every environment; without it its ops have no shapes."""
    return not op.startswith("torchvision")


def _agrees(replay, replayer, call):
    """Events with or without what the libraries allocate at their first product; a convolution with its recorded workspace."""
    real = [events for events, _ in call["events"]]
    real += [replay.strip_libraries(events, "matmul") for events in real]
    strides = [leaf["s"] for leaf in replay._specs(call["out"])]
    try:
        ran = replayer.run(call)
        if "conv" in call["op"] and ran[0] not in real:
            for size in replay.transients(call):
                given = replay.Replayer(conv_workspace=lambda _, size=size: replay.Range.exact(size)).run(call)
                if given[0] in real:
                    ran = given
                    break
    except Exception:  # an op that the rules cannot run is a disagreement like any other
        return False
    return ran[0] in real and ran[1] == strides
