"""Every op that was recorded on a GPU, run again on shadows: the same allocations, in the same order.

    python benchmarks/torch/replay.py OPS.jsonl.gz [--op NAME] [--show N]

One line an op: distinct calls, and how many of them agree in events and in the strides of their results.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from vramplan.program import Action
from vramplan.ranges import Range
from vramplan.runtimes.torch_eager.device import pretended
from vramplan.runtimes.torch_eager.ledger import Ledger
from vramplan.runtimes.torch_eager.rules import find_rule
from vramplan.runtimes.torch_eager.shadow import Shadow, Target

H200 = {"capability": (9, 0), "sm_count": 132, "torch_version": (2, 11)}
Call = dict[str, Any]


def read_calls(path: Path) -> Iterator[Call]:
    """The recorded calls of a file."""
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def transients(call: Call) -> list[int]:
    """What was held only while the op ran: for a convolution cuDNN's workspace is one of these."""
    events = call["events"][0][0]
    made = [size for size in events if size > 0]
    return [0] + [made[-event - 1] for event in events if event < 0]


class Replayer:
    """Runs recorded calls on shadows."""

    def __init__(self, **target: Any) -> None:
        self.target = Target(**{**H200, "conv_workspace": lambda call: Range.exact(0), **target})

    def run(self, call: Call) -> tuple[list[int], list[Any]]:
        """Events as the recorder writes them, and the results' strides."""
        func = find_op(call["op"])
        ledger = Ledger()
        shadow = Shadow(self.target, ledger, find_rule)
        shadow.once |= {"cublas": -1, "cublaslt": -1}
        args, kwargs = _built(call["args"], call["op"]), _built(call["kwargs"], call["op"])
        with pretended(self.target.capability), torch.inference_mode():
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    ledger.watch(tensor, "input", "input")
            start = len(ledger.events)
            with shadow.looks, shadow:
                out = func(*args, **kwargs)
            events = ledger.events[start:]
            strides = [list(leaf.stride()) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        numbers: dict[int, int] = {}
        local = []
        for action, index, _ in events:
            if action is Action.HOLD:
                numbers[index] = len(numbers) + 1
                local.append(ledger.held[index].size_bytes)
            else:
                local.append(-numbers.get(index, 0))
        return local, strides


def find_op(name: str) -> Any:
    """``aten.conv2d.default`` as PyTorch's op."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _built(value: Any, op: str) -> Any:
    if isinstance(value, dict):
        if "t" in value and "s" in value:
            dtype, _, where = value["d"].partition("@")
            device = "cpu" if where else "meta"
            strided = torch.empty_strided(value["t"], value["s"], dtype=getattr(torch, dtype), device=device)
            return strided.zero_() if where else strided
        return {key: _built(item, op) for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item, op) for item in value]
    if isinstance(value, str):
        if value.startswith("torch."):
            return getattr(torch, value.removeprefix("torch."))
        if value.startswith(("cuda", "cpu")):
            return torch.device("meta" if value.startswith("cuda") else "cpu")
    return value


PRODUCTS = (
    "linear",
    "matmul",
    "addmm",
    "mm",
    "einsum",
    "attention",
    "addmv",
    "mv",
    "conv_transpose",
    "encoder",
    "cdist",
    "lstm",
    "gru",
    "affine_grid",
)


def strip_libraries(events: list[int], op: str) -> list[int]:
    """Without the workspaces that the libraries allocate once for a process, at their first product."""
    if not any(word in op for word in PRODUCTS):
        return events
    made = [size for size in events if size > 0]
    gone = {
        index for index, size in enumerate(made, 1) if size in (33_554_432, 1_048_576) and -index not in events and index > 1
    }
    renumbered: dict[int, int] = {}
    kept, count = [], 0
    for event in events:
        if event > 0:
            count += 1
            if count in gone:
                continue
            renumbered[count] = len(renumbered) + 1
            kept.append(event)
        else:
            kept.append(-renumbered[-event] if event else 0)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--op", default="")
    parser.add_argument("--show", type=int, default=0)
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    replayer = Replayer()
    for path in options.files:
        for call in read_calls(path):
            if options.op and options.op not in call["op"]:
                continue
            name = call["op"]
            counts[name]["calls"] += 1
            real = [strip_libraries(events, name) for events, _ in call["events"]]
            try:
                events, strides = replayer.run(call)
                if "conv" in name and events not in real:
                    for size in transients(call):
                        tried = Replayer(conv_workspace=lambda _, size=size: Range.exact(size)).run(call)
                        if tried[0] in real:
                            events, strides = tried
                            break
            except Exception as error:
                counts[name]["failed"] += 1
                if counts[name]["failed"] <= options.show:
                    print("FAILED", name, repr(error)[:300], json.dumps(call["args"])[:300])
                continue
            same = events in real or any(events == raw for raw, _ in call["events"])
            expected = [leaf["s"] for leaf in _specs(call["out"])]
            counts[name]["events"] += same
            counts[name]["strides"] += strides == expected
            if (not same or strides != expected) and counts[name]["shown"] < options.show:
                counts[name]["shown"] += 1
                print(
                    name,
                    json.dumps(call["args"])[:420],
                    json.dumps(call["kwargs"]),
                    "\n    real",
                    real[:2],
                    expected,
                    "\n    ours",
                    events,
                    strides,
                )
    for name, count in sorted(counts.items(), key=lambda item: item[1]["events"] - item[1]["calls"]):
        bad = count["calls"] - min(count["events"], count["strides"])
        if bad or options.op:
            print(
                f"{name:60} {count['calls']:6} calls, {count['events']:6} events,"
                f" {count['strides']:6} strides, {count['failed']} failed"
            )
    print(
        len(counts),
        "ops,",
        sum(c["calls"] for c in counts.values()),
        "calls,",
        sum(c["events"] for c in counts.values()),
        "same events,",
        sum(c["strides"] for c in counts.values()),
        "same strides",
    )


def _specs(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "t" in value:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _specs(item)


if __name__ == "__main__":
    main()
