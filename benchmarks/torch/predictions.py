"""What vramplan predicts for the runs that were measured, in three ways, as lines of ``predicted.csv``.

The workspace of convolutions is taken as it was recorded, so that only the trace and the allocator are judged; from cuDNN,
asked without a GPU; and from the closed form that needs no library.
"""

from __future__ import annotations

import functools
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zoo
from record import AUTOCAST, DTYPES
from replay import H200, Replayer, read_calls
from rows import KEY, OPS, key_of, read_runs

from vramplan.allocators.caching import replay
from vramplan.gpus import Gpu, find_gpu
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.torch_eager.shadow import Target
from vramplan.runtimes.torch_eager.trace import Traced, trace
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces
from vramplan.workspace.cudnn_libraries import libraries_below


def measured_workspaces() -> dict[Any, int]:
    """What each recorded convolution asked cuDNN for, by its call."""
    asked: list[Any] = []
    replayer = Replayer(conv_workspace=lambda call: (asked.append(call), Range.exact(0))[1])
    found: dict[Any, int] = {}
    for call in read_calls(OPS):
        if "conv" not in call["op"] or "torchvision" in call["op"]:
            continue
        asked.clear()
        events, _ = replayer.run(call)
        if len(asked) == 1:
            more = Counter(_transient(call["events"][0][0])) - Counter(_transient(events))
            found[asked[0]] = max(more, default=0)
    return found


def _transient(events: Sequence[int]) -> list[int]:
    made = [size for size in events if size > 0]
    return [made[-event - 1] for event in events if event < 0]


def predict(nvidia: Path | None) -> list[dict[str, Any]]:
    """Every run, predicted in every way; one process a core."""
    runs = read_runs()[1]
    models = dict.fromkeys(run["model"] for run in runs)
    with multiprocessing.Pool() as pool:
        tasks = [(model, [run for run in runs if run["model"] == model], nvidia) for model in models]
        found = {key_of(row): row for rows in pool.imap(_predict, tasks, 1) for row in rows}
    return [found[key_of(run)] for run in runs]


def cudnn_on(gpu: Gpu, nvidia: Path | None) -> ConvWorkspaces:
    """Answers of cuDNN for the card, by the libraries below *nvidia*; the closed form without."""
    return conv_workspaces(gpu, libraries=libraries_below(nvidia) if nvidia else ())


@functools.cache
def _cudnn(nvidia: Path | None) -> ConvWorkspaces:
    return cudnn_on(find_gpu("h200"), nvidia)


@functools.cache
def _providers(nvidia: Path | None) -> dict[str, Callable[[Any], int]]:
    """What a convolution asks for, in each way."""
    cudnn, closed = _cudnn(nvidia), _cudnn(None)
    return {
        "measured": measured_workspaces().__getitem__,
        "cudnn": lambda call: cudnn.of(call).nominal_bytes,
        "closed": lambda call: closed.of(call).nominal_bytes,
    }


def _predict(task: tuple[str, list[dict[str, Any]], Path | None]) -> list[dict[str, Any]]:
    """All runs of one model: each is traced once, and replayed with the workspaces of each way."""
    warnings.filterwarnings("ignore")
    model, runs, nvidia = task
    module, make_inputs = zoo.on_meta(model)
    rows = [_row(run, *_traced(module, make_inputs(run["batch"]), run), nvidia) for run in runs]
    _cudnn(nvidia).save()
    print(model, len(rows), flush=True)
    return rows


def _traced(module: Any, inputs: Any, run: dict[str, Any]) -> tuple[Traced, dict[int, Any]]:
    """The trace of a run, and which scratch buffers are workspace of which convolution."""
    asked: dict[int, tuple[Any, Any]] = {}

    def place(call: Any) -> Range:
        limits = Range(low_bytes=0, nominal_bytes=0, high_bytes=1 << 50, evidence=Evidence.BOUNDED)
        asked[id(limits)] = limits, call  # a range of its own keeps the call's place in the program
        return limits

    traced = trace(
        module,
        *inputs,
        Target(conv_workspace=place, **H200),
        dtype=DTYPES.get(run["dtype"]),
        autocast=AUTOCAST.get(run["dtype"]),
        channels_last=run["memory_format"] == "channels_last",
    )
    return traced, {index: asked[id(limits)][1] for index, limits in traced.findings.scratch.items() if id(limits) in asked}


def _row(run: dict[str, Any], traced: Traced, places: dict[int, Any], nvidia: Path | None) -> dict[str, Any]:
    row = {name: run[name] for name in KEY}
    for way, provider in _providers(nvidia).items():
        phases = replay(traced.program, sizes={index: provider(call) for index, call in places.items()})
        row |= {
            f"{way}_first_allocated": phases["first_run"].allocated_peak_bytes,
            f"{way}_first_reserved": phases["first_run"].reserved_peak_bytes,
            f"{way}_steady_allocated": phases["steady"].allocated_peak_bytes,
            f"{way}_steady_reserved": phases["steady"].reserved_peak_bytes,
        }
        if way == "measured":
            peak = traced.program.events[phases["first_run"].peak_event_index]
            row |= {
                "loaded_requested": phases["load"].requested_bytes,
                "loaded_allocated": phases["load"].allocated_bytes,
                "peak_op": traced.program.ops[peak.op_index],
            }
    return row
