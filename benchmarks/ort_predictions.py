"""Predict the arena of every recorded session of ONNX Runtime, and keep the answers beside the readings.

    python benchmarks/ort_predictions.py --cudnn DIR         all of them, with the cuDNN of DIR, a site-packages/nvidia
    python benchmarks/ort_predictions.py --cudnn DIR --shard 0/2 --output PART.csv    every second one
    python benchmarks/ort_predictions.py --join PART.csv ...                          several parts into one

Answers are bytes of the arena by stage, in ``data/onnxruntime_h200/predicted.csv``; the page adds the context. The graph is
the one that the installed ONNX Runtime makes of the file, cuDNN is asked for workspace without a GPU. With ``--plain`` it is a
graph by our own rules and workspace in closed form, as where neither is installed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from vramplan import sessions
from vramplan.errors import UsageError
from vramplan.gpus import find_gpu
from vramplan.precision import Policy, apply_policy
from vramplan.runtimes.onnxruntime.options import parse_session_options
from vramplan.runtimes.onnxruntime.plan import SessionPlan
from vramplan.sources import open_model
from vramplan.workspace.cudnn import conv_workspaces
from vramplan.workspace.cudnn_libraries import libraries_below

FOLDER = Path(__file__).parent / "data" / "onnxruntime_h200"
PREDICTED = FOLDER / "predicted.csv"
STAGES = ("session", "run1", "run2", "steady")
FIELDS = ("graph", "batch", "options", "is_plain", *STAGES, "low", "high")
Record = dict[str, Any]


def records() -> list[Record]:
    """Every recorded process."""
    with gzip.open(FOLDER / "runs.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def key_of(record: Record) -> tuple[str, int, str]:
    """What decides the prediction."""
    return record["graph"], record["batch"], json.dumps(record["options"], sort_keys=True)


@functools.cache
def graphs() -> Path:
    """A folder with the graphs."""
    folder = Path(tempfile.mkdtemp(prefix="ort-graphs-"))
    with tarfile.open(FOLDER / "graphs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def predict(record: Record, nvidia: Path | None, *, is_plain: bool) -> Record:
    """One row of the file."""
    solved = solve(record, nvidia, is_plain=is_plain)
    plan = solved.plan
    parts = (plan.weights, plan.inputs, plan.activations, plan.outputs, plan.workspace, plan.allocator_slack)
    graph, batch, options = key_of(record)
    return {
        "graph": graph,
        "batch": batch,
        "options": options,
        "is_plain": int(is_plain),
        **{stage: solved.device_bytes[stage] for stage in STAGES},
        "low": sum(part.low_bytes for part in parts),
        "high": sum(part.high_bytes for part in parts),
    }


def solve(record: Record, nvidia: Path | None, *, is_plain: bool) -> SessionPlan:
    """The session of one record, as `vramplan.estimate` plans it."""
    source = _source(record["graph"])
    shapes = {name: tuple(shape) for name, shape in record["shapes"].items()}
    graph = source.bind(batch=None, shapes=shapes, dims={})
    session = parse_session_options(cast("Mapping[str, str]", record["options"]))
    libraries = libraries_below(nvidia) if nvidia and not is_plain else ()
    workspaces = conv_workspaces(find_gpu("h200"), flags=session.cudnn_flags, libraries=libraries)
    bound = cast("sessions.Bound", SimpleNamespace(source=source, graph=graph, turns=()))
    converted = apply_policy(graph, Policy(name="as-is"))
    if is_plain:
        with _nobody_to_ask():
            return sessions.planned(bound, converted, session, workspaces)[0]
    return sessions.planned(bound, converted, session, workspaces)[0]


class _nobody_to_ask:  # noqa: N801  reads as a statement
    """As on a machine without ONNX Runtime."""

    def __enter__(self) -> None:
        self.found = sessions.ort_graph.installed_version
        sessions.ort_graph.installed_version = lambda: None  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        sessions.ort_graph.installed_version = self.found


@functools.lru_cache(maxsize=8)
def _source(name: str) -> Any:
    return open_model(str(graphs() / name))


def wanted(is_plain: bool) -> list[Record]:
    """One record of each key; without ONNX Runtime and cuDNN those at batch 8 under two sets of options."""
    found = {key_of(each): each for each in records() if not is_plain or (each["batch"] == 8 and _is_usual(each["options"]))}
    return sorted(found.values(), key=lambda record: key_of(record)[:2])


def _is_usual(options: Mapping[str, str]) -> bool:
    """The defaults, and the thriftier arena with the other search."""
    return tuple(options.values()) in (("kNextPowerOfTwo", "EXHAUSTIVE"), ("kSameAsRequested", "HEURISTIC"))


def write(rows: Iterable[Record], path: Path) -> None:
    """The rows, as they come."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            file.flush()


def read(path: Path = PREDICTED) -> Iterator[Record]:
    """The rows of a file, with numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: value if name in ("graph", "options") else int(value) for name, value in row.items()}


def main() -> int:
    """Predict or join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cudnn", type=Path, metavar="DIR")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--output", type=Path, default=PREDICTED)
    parser.add_argument("--join", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.join:
        rows = [row for path in arguments.join for row in read(path)]
        write(sorted(rows, key=lambda row: (row["is_plain"], row["graph"], row["batch"], row["options"])), arguments.output)
        return 0
    number, count = map(int, arguments.shard.split("/"))
    chosen = wanted(arguments.plain)[number::count]
    write(_predicted(chosen, arguments.cudnn, is_plain=arguments.plain), arguments.output)
    return 0


def _predicted(chosen: Iterable[Record], nvidia: Path | None, *, is_plain: bool) -> Iterator[Record]:
    """Their predictions; a process of which we say that it would fail has none."""
    for record in chosen:
        try:
            yield predict(record, nvidia, is_plain=is_plain)
        except UsageError as error:
            print(*key_of(record), error.message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
