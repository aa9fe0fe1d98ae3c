"""Run models on the GPU and write down what PyTorch's allocator did: peaks for each run, and events for each op.

    python benchmarks/torch/record.py OUT [--models guided,judged,probes] [--seconds 500] [--skip N]

Writes ``OUT/runs.jsonl.gz`` (one line a model × dtype × memory format × batch) and ``OUT/ops.jsonl.gz`` (one line for each
distinct call of an op: arguments, and the allocations made while it ran, in requested bytes). Only the op records need a
dispatch mode; the peaks are measured without one, in a fresh allocator.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import gzip
import json
import platform
import sys
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import zoo

DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
AUTOCAST = {"autocast-fp16": torch.float16, "autocast-bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Events = tuple[int, ...]
"""Positive: an allocation of that many bytes. Negative: the free of this op's -n-th allocation. 0: of an older one."""


def spec(value: Any) -> Any:
    """An argument as plain data: tensors by shape, strides, dtype and device."""
    if isinstance(value, torch.Tensor):
        where = "" if value.is_cuda else "@cpu"
        return {"t": list(value.shape), "s": list(value.stride()), "d": str(value.dtype).removeprefix("torch.") + where}
    if isinstance(value, list | tuple):
        return [spec(item) for item in value]
    if isinstance(value, dict):
        return {key: spec(item) for key, item in value.items()}
    return value if isinstance(value, int | float | bool | str | None) else str(value)


class Recorder(TorchDispatchMode):
    """Which events of the allocator's history belong to which op."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, int, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = events_so_far()
        out = func(*args, **(kwargs or {}))
        stop = events_so_far()
        key = json.dumps([str(func), spec(args), spec(kwargs or {})])
        self.calls.append((key, start, stop, json.dumps(spec(out))))
        return out


def events_so_far() -> int:
    stats = torch._C._cuda_memoryStats(0)["allocation"]["all"]
    return int(stats["allocated"]) + int(stats["freed"])


def clean() -> int:
    """Give everything back; the bytes that stay (should be none)."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def marks() -> dict[str, int]:
    stats = torch.cuda.memory_stats()
    names = ("allocated_bytes", "reserved_bytes", "requested_bytes")
    return {f"{name}.{when}": stats[f"{name}.all.{when}"] for name in names for when in ("current", "peak")}


def to_device(module: Any, inputs: Any, dtype: torch.dtype, memory_format: torch.memory_format) -> tuple[Any, Any, Any]:
    """A copy of the module and its inputs on the device; the module was cast on the CPU."""
    moved = copy.deepcopy(module).to("cuda", memory_format=memory_format)

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        value = value.to(dtype) if value.is_floating_point() else value
        return value.to(memory_format=memory_format).cuda() if value.dim() == 4 else value.cuda()

    args, kwargs = inputs
    return moved, tree_map(move, args), tree_map(move, kwargs)


def block(narrow: torch.dtype | None) -> Any:
    """An autocast block around one forward."""
    return torch.autocast("cuda", dtype=narrow) if narrow else contextlib.nullcontext()


def measure(module: Any, inputs: Any, dtype: torch.dtype, memory_format: torch.memory_format, narrow: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"left_bytes": clean()}
    moved, args, kwargs = to_device(module, inputs, dtype, memory_format)
    torch.cuda.synchronize()
    row["loaded"] = marks()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        with block(narrow):
            out = moved(*args, **kwargs)
        torch.cuda.synchronize()
        row["first_run"] = marks()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            with block(narrow):
                out = moved(*args, **kwargs)
        torch.cuda.synchronize()
        row["steady"] = marks()
    row["outputs"] = [spec(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    return row


def record(
    module: Any, inputs: Any, dtype: torch.dtype, memory_format: torch.memory_format, narrow: Any
) -> list[tuple[str, Events, str]]:
    clean()
    moved, args, kwargs = to_device(module, inputs, dtype, memory_format)
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=4_000_000)
    try:
        first = events_so_far()
        recorder = Recorder()
        with torch.inference_mode(), recorder, block(narrow):
            out = moved(*args, **kwargs)
        last = events_so_far()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    del out
    events = [
        (entry["action"], entry["addr"], entry["size"]) for entry in trace if entry["action"] in ("alloc", "free_completed")
    ]
    if len(events) != last - first:
        raise RuntimeError(f"{len(events)} events in the history, {last - first} by the counters")
    return [(key, local(events[start - first : stop - first]), out) for key, start, stop, out in recorder.calls]


def local(events: list[tuple[str, int, int]]) -> Events:
    alive: dict[int, int] = {}
    result, count = [], 0
    for action, address, size in events:
        if action == "alloc":
            count += 1
            alive[address] = count
            result.append(size)
        else:
            result.append(-alive.pop(address, 0))
    return tuple(result)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="guided,judged,probes")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--dtypes", default="fp16,fp32,bf16")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    sets = {
        "cases": zoo.case_names(),
        "guided": zoo.GUIDED,
        "judged": zoo.JUDGED,
        "fresh": zoo.FRESH,
        "blind": zoo.BLIND,
        "probes": zoo.PROBES,
    }
    names = [name for word in options.models.split(",") for name in sets.get(word, (word,))][options.skip :]
    warnings.filterwarnings("ignore")
    began, ops, outs = time.monotonic(), defaultdict(Counter), {}
    torch.zeros(1, device="cuda")
    about = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
    }  # fmt: skip
    with gzip.open(options.out / "runs.jsonl.gz", "wt") as runs:
        runs.write(json.dumps(about) + "\n")
        for index, name in enumerate(names):
            if time.monotonic() - began > options.seconds:
                print("stopped before", index, name)
                break
            started = time.monotonic()
            try:
                module, inputs = zoo.build(name)
            except Exception as error:
                runs.write(json.dumps({"model": name, "error": f"build: {error!r}"[:500]}) + "\n")
                continue
            gc.collect()
            gc.freeze()
            for dtype in options.dtypes.split(","):
                cast, narrow = DTYPES.get(dtype, torch.float32), AUTOCAST.get(dtype)
                module = module.to(cast)
                for memory_format, kind in FORMATS.items():
                    if (
                        name.startswith("case/")
                        and kind is not torch.contiguous_format
                        and all(t.dim() != 4 for t in inputs(1)[0])
                    ):
                        continue
                    for batch in map(int, options.batches.split(",")):
                        row = {"model": name, "dtype": dtype, "memory_format": memory_format, "batch": batch}
                        try:
                            if not name.startswith("case/"):
                                row |= measure(module, inputs(batch), cast, kind, narrow)
                            calls = record(module, inputs(batch), cast, kind, narrow)
                            row["calls"] = len(calls)
                            for key, events, out in calls:
                                ops[key][events] += 1
                                outs[key] = out
                        except Exception as error:
                            row["error"] = f"{type(error).__name__}: {error}"[:500]
                        runs.write(json.dumps(row) + "\n")
                        runs.flush()
            print(index, name, round(time.monotonic() - started, 1), "s", flush=True)
    with gzip.open(options.out / "ops.jsonl.gz", "wt") as lines:
        for key, counts in ops.items():
            func, args, kwargs = json.loads(key)
            events = [[list(events), count] for events, count in counts.most_common()]
            lines.write(
                json.dumps({"op": func, "args": args, "kwargs": kwargs, "out": json.loads(outs[key]), "events": events}) + "\n"
            )


if __name__ == "__main__":
    main()
