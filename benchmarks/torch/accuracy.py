"""Predicted against measured memory of PyTorch modules on an H200, row by row.

    python benchmarks/torch/accuracy.py --predict [--nvidia DIR]   trace every model again and rewrite the predictions
    python benchmarks/torch/accuracy.py                            write docs/accuracy-torch.md from the committed data
    python benchmarks/torch/accuracy.py --check                    exit 1 when the committed page differs

Predicting needs torchvision, timm and transformers; no GPU. Each row is predicted three times: with the workspace of its
convolutions as it was measured, so that only the trace and the allocator are judged; with cuDNN's own answers, asked without
a GPU (the libraries below ``--nvidia``, a ``site-packages/nvidia``); and with the closed form that needs no library.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import json
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

DATA = ROOT / "benchmarks" / "data" / "torch_h200"
RUNS, OPS, PREDICTED = DATA / "runs.jsonl.gz", DATA / "ops.jsonl.gz", DATA / "predicted.csv"
PAGE = ROOT / "docs" / "accuracy-torch.md"
WAYS = ("measured", "cudnn", "closed")
QUANTITIES = ("first_allocated", "first_reserved", "steady_allocated", "steady_reserved")
KEY = ("model", "dtype", "memory_format", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run: what was measured, and what was predicted in each way; bytes by quantity.

    ``loaded`` is what weights and inputs take, predicted and measured: as requested, and as the allocator counts them.
    """

    model: str
    dtype: str
    memory_format: str
    batch: int
    loaded: dict[str, tuple[int, int]]
    real: dict[str, int]
    predicted: dict[str, dict[str, int]]
    peak_op: str

    def error(self, way: str, quantity: str) -> float:
        """Predicted over measured, minus one; negative is an under-estimate."""
        return self.predicted[way][quantity] / self.real[quantity] - 1


def read_runs() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Provenance, and the measured runs."""
    with gzip.open(RUNS, "rt") as lines:
        about, *runs = map(json.loads, lines)
    return about, runs


def real_of(run: dict[str, Any]) -> dict[str, int]:
    """The four measured quantities of a run."""
    return {
        "first_allocated": run["first_run"]["allocated_bytes.peak"],
        "first_reserved": run["first_run"]["reserved_bytes.peak"],
        "steady_allocated": run["steady"]["allocated_bytes.peak"],
        "steady_reserved": run["steady"]["reserved_bytes.peak"],
    }


def measured_workspaces() -> dict[Any, int]:
    """What each recorded convolution asked cuDNN for, by its call."""
    import replay

    from vramplan.ranges import Range

    asked: list[Any] = []
    replayer = replay.Replayer(conv_workspace=lambda call: (asked.append(call), Range.exact(0))[1])
    found: dict[Any, int] = {}
    for call in replay.read_calls(OPS):
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
    models = list(dict.fromkeys(run["model"] for run in runs))
    with multiprocessing.Pool() as pool:
        tasks = [(model, [run for run in runs if run["model"] == model], nvidia) for model in models]
        found = {
            (row["model"], *(row[name] for name in KEY[1:])): row for rows in pool.imap(_predict, tasks, 1) for row in rows
        }
    return [found[tuple(run[name] for name in KEY)] for run in runs]


@functools.cache
def _cudnn(nvidia: Path | None) -> Any:
    """Answers of cuDNN for the card, by the libraries below *nvidia*; the closed form without."""
    from vramplan.gpus import find_gpu
    from vramplan.workspace.cudnn import conv_workspaces
    from vramplan.workspace.cudnn_libraries import libraries_below

    return conv_workspaces(find_gpu("h200"), libraries=libraries_below(nvidia) if nvidia else ())


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
    import zoo
    from record import AUTOCAST, DTYPES
    from replay import H200

    from vramplan.allocators.caching import replay as run_allocator
    from vramplan.ranges import Evidence, Range
    from vramplan.runtimes.torch_eager.shadow import Target
    from vramplan.runtimes.torch_eager.trace import trace

    warnings.filterwarnings("ignore")
    model, runs, nvidia = task
    module, inputs = _built(zoo, model)
    rows = []
    for run in runs:
        asked: dict[int, tuple[Any, Any]] = {}

        def place(call: Any, asked: dict[int, tuple[Any, Any]] = asked) -> Any:
            limits = Range(low_bytes=0, nominal_bytes=0, high_bytes=1 << 50, evidence=Evidence.BOUNDED)
            asked[id(limits)] = limits, call  # a range of its own keeps the call's place in the program
            return limits

        args, kwargs = inputs(run["batch"])
        traced = trace(
            module,
            args,
            kwargs,
            Target(conv_workspace=place, **H200),
            dtype=DTYPES.get(run["dtype"]),
            autocast=AUTOCAST.get(run["dtype"]),
            channels_last=run["memory_format"] == "channels_last",
        )
        row = {name: run[name] for name in KEY}
        for way, provider in _providers(nvidia).items():
            places = {index: asked[id(limits)][1] for index, limits in traced.findings.scratch.items() if id(limits) in asked}
            phases = run_allocator(traced.program, sizes={index: provider(call) for index, call in places.items()})
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
        rows.append(row)
    _cudnn(nvidia).save()
    print(model, len(rows), flush=True)
    return rows


def _built(zoo: Any, name: str) -> Any:
    """On the meta device where the model allows it: faster, and the same program."""
    import torch

    try:
        with torch.device("meta"):
            return zoo.build(name)
    except (NotImplementedError, RuntimeError):
        return zoo.build(name)


def read_rows() -> list[Row]:
    """The committed predictions beside the committed measurements."""
    runs = {tuple(str(run[name]) for name in KEY): run for run in read_runs()[1]}
    rows = []
    with PREDICTED.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            run = runs[tuple(line[name] for name in KEY)]
            rows.append(
                Row(
                    model=line["model"],
                    dtype=line["dtype"],
                    memory_format=line["memory_format"],
                    batch=int(line["batch"]),
                    loaded={
                        name: (int(line[f"loaded_{name}"]), run["loaded"][f"{name}_bytes.current"])
                        for name in ("requested", "allocated")
                    },
                    real=real_of(run),
                    predicted={way: {name: int(line[f"{way}_{name}"]) for name in QUANTITIES} for way in WAYS},
                    peak_op=line["peak_op"],
                )
            )
    return rows


def page(rows: Sequence[Row], about: dict[str, str]) -> str:
    """The whole page."""
    import zoo

    lines = [
        "# How right the PyTorch estimates are",
        "",
        "Generated by `python benchmarks/torch/accuracy.py` from `benchmarks/data/torch_h200/`. Do not edit.",
        "",
        f"Truth: {about['gpu']}, driver {about['driver']}, torch {about['torch']}, cuDNN {about['cudnn']}, timm"
        f" {about['timm']}, transformers {about['transformers']}; `{about['command']}`, {about['date']}. {len(rows)} runs of"
        f" {len({row.model for row in rows})} models with random weights, each in a fresh allocator under `inference_mode`:"
        " the peak of `max_memory_allocated` and `max_memory_reserved` in the first forward, and in three more that hold the"
        " previous results. The predictions come from a machine without a GPU.",
        "",
        "`guided` models were looked at while rules were written. `judged` and `probes` were recorded with them, and their op"
        " records were read too. `fresh` models were measured after the rules were written: they judge.",
        "",
        f"Weights and inputs as requested are exact to the byte in {_loaded(rows, 'requested')} of the runs; as the allocator"
        f" counts them in {_loaded(rows, 'allocated')}: a tie between two free blocks of one size is decided by where their"
        " segments lie.",
        "",
    ]
    titles = {
        "measured": "Convolution workspace as measured: the trace and the allocator alone",
        "cudnn": "Convolution workspace from cuDNN 9.19, asked without a GPU",
        "closed": "Convolution workspace in closed form: no library at all",
    }
    for way in WAYS:
        lines += [f"## {titles[way]}", "", *_summary(rows, way), ""]
    for way in WAYS[:2]:
        lines += [f"## By set of models: {titles[way][0].lower() + titles[way][1:]}", "", *_by_set(rows, zoo, way), ""]
    lines += ["## The ten worst, allocated peak of the first run", ""]
    for way in ("measured", "cudnn"):
        lines += [f"Convolution workspace {'as measured' if way == 'measured' else 'from cuDNN'}:", "", *_worst(rows, way), ""]
    lines += ["## Every model", "", *_models(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _loaded(rows: Sequence[Row], name: str) -> str:
    return _share(row.loaded[name][0] == row.loaded[name][1] for row in rows)


def _summary(rows: Sequence[Row], way: str) -> Iterator[str]:
    yield "| quantity | exact to the byte | within 1 % | median | p95 | worst | under by more than 1 % |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for quantity in QUANTITIES:
        yield _statistics(quantity.replace("_", ": "), rows, way, quantity)


def _statistics(name: str, rows: Sequence[Row], way: str, quantity: str) -> str:
    errors = sorted(abs(row.error(way, quantity)) for row in rows)
    cells = (
        _share(row.predicted[way][quantity] == row.real[quantity] for row in rows),
        _share(error <= 0.01 for error in errors),
        f"{100 * median(errors):.2f} %",
        f"{100 * errors[int(0.95 * (len(errors) - 1))]:.2f} %",
        f"{100 * errors[-1]:.1f} %",
        _share(row.error(way, quantity) < -0.01 for row in rows),
    )
    return f"| {name} | " + " | ".join(cells) + " |"


def _by_set(rows: Sequence[Row], zoo: Any, way: str) -> Iterator[str]:
    yield "| set, quantity | exact to the byte | within 1 % | median | p95 | worst | under by more than 1 % |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, models in (("guided", zoo.GUIDED), ("judged", zoo.JUDGED), ("probes", zoo.PROBES), ("fresh", zoo.FRESH)):
        own = [row for row in rows if row.model in models]
        for quantity in ("first_allocated", "first_reserved"):
            yield _statistics(f"{name}, {quantity.replace('_', ': ')} ({len(own)})", own, way, quantity)


def _worst(rows: Sequence[Row], way: str) -> Iterator[str]:
    yield "| model | type | layout | batch | measured, MiB | error | op at our peak |"
    yield "|---|---|---|---:|---:|---:|---|"
    worst = sorted(rows, key=lambda row: -abs(row.error(way, "first_allocated")))[:10]
    for row in worst:
        real = row.real["first_allocated"] / (1 << 20)
        yield (
            f"| {row.model} | {row.dtype} | {row.memory_format} | {row.batch} | {real:.1f} |"
            f" {100 * row.error(way, 'first_allocated'):+.2f} % | `{row.peak_op}` |"
        )


def _models(rows: Sequence[Row]) -> Iterator[str]:
    yield "Runs, and how many have the allocated peak of the first run exact to the byte; the largest error of each way."
    yield ""
    yield "| model | runs | exact, measured | exact, cuDNN | worst, measured | worst, cuDNN | worst, closed form |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        exact = [sum(row.predicted[way]["first_allocated"] == row.real["first_allocated"] for row in own) for way in WAYS[:2]]
        worst = [max((row.error(way, "first_allocated") for row in own), key=abs) for way in WAYS]
        yield (
            f"| {model} | {len(own)} | " + " | ".join([*map(str, exact), *(f"{100 * error:+.1f} %" for error in worst)]) + " |"
        )


def _share(hits: Iterable[bool]) -> str:
    found = list(hits)
    return f"{100 * sum(found) / len(found):.1f} %"


def main() -> int:
    """Predict, write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--nvidia", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.predict:
        predictions = predict(options.nvidia)
        with PREDICTED.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(predictions[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(predictions)
    text = page(read_rows(), read_runs()[0])
    if options.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
