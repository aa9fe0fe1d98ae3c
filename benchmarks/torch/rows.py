"""The committed data: what was measured on the card, what we predict, what peers say, and our answers for other cards."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "torch_h200"
RUNS, OPS, PREDICTED = DATA / "runs.jsonl.gz", DATA / "ops.jsonl.gz", DATA / "predicted.csv"
PEERS_FILE, FAILED, CARDS = DATA / "peers.csv", DATA / "peers_failed.csv", DATA / "cards.csv"
CONVOLUTIONS = DATA.parent / "convolutions_h200" / "scores.csv"
WAYS = ("measured", "cudnn", "closed")
"""Where the workspace of convolutions comes from: the recording, cuDNN without a GPU, or the closed form."""
QUANTITIES = ("first_allocated", "first_reserved", "steady_allocated", "steady_reserved")
AIM_EXACT = 0.95
"""Runs whose allocated peak should be exact to the byte, with the workspace of convolutions as measured."""
KEY = ("model", "dtype", "memory_format", "batch")


EXPORTED_BATCH = 8
"""The largest batch of the graphs that are exported for a peer: on a CPU, which runs the model to export it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run: what was measured, what we predict in each way, and what peers say; bytes by name.

    ``loaded`` is what weights and inputs take, predicted and measured: as requested, and as the allocator counts them.
    ``peers`` has the allocated peak of the first run, and no entry for a peer that failed or was not asked.
    """

    model: str
    dtype: str
    memory_format: str
    batch: int
    loaded: dict[str, tuple[int, int]]
    real: dict[str, int]
    predicted: dict[str, dict[str, int]]
    peers: dict[str, int]
    peak_op: str

    def error(self, way: str, quantity: str) -> float:
        """Predicted over measured, minus one; negative is an under-estimate."""
        return self.predicted[way][quantity] / self.real[quantity] - 1

    def error_of(self, peer: str) -> float:
        """The same for a peer, on the allocated peak of the first run."""
        return self.peers[peer] / self.real["first_allocated"] - 1


def read_runs() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Provenance, and the measured runs."""
    with gzip.open(RUNS, "rt") as lines:
        about, *runs = map(json.loads, lines)
    return about, runs


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of one of the CSV files."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def real_of(run: dict[str, Any]) -> dict[str, int]:
    """The four measured quantities of a run."""
    return {
        "first_allocated": run["first_run"]["allocated_bytes.peak"],
        "first_reserved": run["first_run"]["reserved_bytes.peak"],
        "steady_allocated": run["steady"]["allocated_bytes.peak"],
        "steady_reserved": run["steady"]["reserved_bytes.peak"],
    }


def is_exported(dtype: str, memory_format: str, batch: int) -> bool:
    """Whether the peers that read a graph are asked about this run."""
    return (dtype, memory_format) == ("fp32", "contiguous") and batch <= EXPORTED_BATCH


def key_of(line: dict[str, Any]) -> tuple[str, ...]:
    """Which run a line is about."""
    return tuple(str(line[name]) for name in KEY)


def read_rows() -> list[Row]:
    """The committed predictions and the peers' answers beside the committed measurements."""
    runs = {key_of(run): run for run in read_runs()[1]}
    peers = {key_of(line): line for line in read_csv(PEERS_FILE)}
    return [_row(line, runs[key_of(line)], peers.get(key_of(line), {})) for line in read_csv(PREDICTED)]


def _row(line: dict[str, str], run: dict[str, Any], peers: dict[str, str]) -> Row:
    return Row(
        model=line["model"],
        dtype=line["dtype"],
        memory_format=line["memory_format"],
        batch=int(line["batch"]),
        loaded={
            name: (int(line[f"loaded_{name}"]), run["loaded"][f"{name}_bytes.current"]) for name in ("requested", "allocated")
        },
        real=real_of(run),
        predicted={way: {name: int(line[f"{way}_{name}"]) for name in QUANTITIES} for way in WAYS},
        peers={name: int(said) for name, said in peers.items() if name not in KEY and said},
        peak_op=line["peak_op"],
    )
