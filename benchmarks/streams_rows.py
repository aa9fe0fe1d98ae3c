"""The published speeds and stream counts: which rows can be judged, and why the others cannot.

Nothing is dropped in silence: a row is `judged`, `unusable` (a fact is missing that the calculator needs) or `doubtful` (it
contradicts better sources); the page lists the reason of every row of the last two kinds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.gpus import all_gpus
from vramplan.sources import zoo

HERE = Path(__file__).parent
READINGS = HERE / "data" / "published_streams.csv"
GFLOPS = HERE / "data" / "published_gflops.csv"

OFFLINE_BATCH = 64
"""What stands in for "offline", where the batch is the submitter's choice."""

VALIDATED = "val batch=1"
ENGINE_BATCH = 8
"""The batch of rows with that condition, whatever was asked: Ultralytics validates a TensorRT engine at the batch that it
was built for (``self.args.batch = model.batch_size`` in its validator), and the source built these for 8. Its speeds agree:
an A100 takes 0.52 ms an image in both tests of the 32-bit engine."""

CONTRADICTION_RATIO = 1.5
"""Two readings of one model, card, precision and batch that differ by more cannot both be ordinary."""

GPU_KEYS = {gpu.key for gpu in all_gpus()}
ZOO_NAMES = {"ResNet50 (MLPerf)": "resnet50"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One row of the table. ``fps`` is per GPU; ``gflops`` is published, with the source in one of the two tables."""

    id: int
    kind: str
    model: str
    gflops: float | None
    precision: str
    runtime: str
    batch: int | None
    video: str
    codec: str
    gpu: str
    fps: float
    metric: str
    conditions: str
    confidence: str
    source: str

    @property
    def is_old(self) -> bool:
        """Whether it ran on TensorRT 7, whose kernels are two generations behind what the calculator models."""
        return self.runtime.startswith("TensorRT 7")

    @property
    def zoo_name(self) -> str | None:
        """The built-in model it is about, if it is one."""
        name = ZOO_NAMES.get(self.model, self.model)
        return name if name in zoo() else None


def readings() -> tuple[Reading, ...]:
    """Every row of the table, in its order."""
    with GFLOPS.open(encoding="utf-8", newline="") as file:
        gflops = {row["model"]: float(row["gflops"]) for row in csv.DictReader(file)}
    with READINGS.open(encoding="utf-8", newline="") as file:
        return tuple(_reading(row, gflops) for row in csv.DictReader(file))


def _reading(row: dict[str, str], gflops: dict[str, float]) -> Reading:
    return Reading(
        id=int(row["id"]),
        kind=row["kind"],
        model=row["model"],
        gflops=float(row["gflops_per_frame"]) if row["gflops_per_frame"] else gflops.get(row["model"]),
        precision=_precision(row["precision"]),
        runtime=row["runtime"],
        batch=_batch(row),
        video=row["video"],
        codec=row["codec"],
        gpu=row["gpu_key"],
        fps=float(row["fps_total"]) / int(row["n_gpus"]),
        metric=row["metric"],
        conditions=row["conditions"],
        confidence=row["confidence"],
        source=row["source"],
    )


def _batch(row: dict[str, str]) -> int | None:
    if row["conditions"] == VALIDATED:
        return ENGINE_BATCH
    return OFFLINE_BATCH if row["batch"] == "offline" else int(row["batch"]) if row["batch"].isdigit() else None


def _precision(text: str) -> str:
    word = text.lower().partition(" ")[0]
    return word if word in {"fp32", "fp16", "int8"} else ""


def unusable(row: Reading, rows: Sequence[Reading] = ()) -> str:
    """Why the calculator cannot be asked for this row, or why it says nothing new; empty when it can be judged."""
    reasons = {
        "the card is not named, or not in the catalogue": row.gpu not in GPU_KEYS,
        "the calculator's own constant: agreement would mean nothing": row.kind == "decode" and _is_vendor_table(row),
        "one source: the source limits it, not the card": row.kind == "pipeline" and "source-limited" in row.conditions,
        "a model nobody publishes; the H.264 row shows the decode limit": is_codec_pair(row) and row.codec != "H.264",
        f"{row.runtime}: the calculator models TensorRT": row.kind == "infer" and not row.runtime.startswith("TensorRT"),
        "operations of the model are not published (pruned, or a cascade)": _needs_model(row) and row.gflops is None,
        "precision not stated": _needs_model(row) and not row.precision,
        "the same reading again, from another table of its source": any(_repeats(row, other) for other in rows),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _needs_model(row: Reading) -> bool:
    return row.kind != "decode" and not is_codec_pair(row)


def _is_vendor_table(row: Reading) -> bool:
    return "Data Sheet" in row.source or "module tables" in row.source


def _repeats(row: Reading, other: Reading) -> bool:
    """Whether *other*, an earlier row, is the same reading under another name of the model."""
    same = _identity(row) == _identity(other)
    return same and other.id < row.id and row.model != other.model


def _identity(row: Reading) -> tuple[object, ...]:
    return row.source.partition(" (")[0], row.gpu, row.precision, row.batch, row.gflops, row.fps


def is_codec_pair(row: Reading) -> bool:
    """One pipeline, published with H.264 and H.265 input: the counts differ, so decoding limits the lower one."""
    return row.kind == "pipeline" and row.model.startswith("detector + 2 classifiers")


def doubtful(row: Reading, rows: Sequence[Reading]) -> str:
    """Why a row is not believed; empty when it is."""
    if "implausibly" in row.conditions:
        return "needs 70 % of the card's FP16 peak, which no other detector reaches; perhaps an 8-bit engine"
    if "QAT model" in row.conditions:
        return "the source lists an 8-bit engine at another resolution under this name"
    if row.confidence == "high" and "scaling-compute-hw" not in row.conditions:
        return ""
    for other in _twins(row, rows):
        ratio = row.fps / other.fps
        if max(ratio, 1 / ratio) > CONTRADICTION_RATIO:
            return f"row {other.id} says {other.fps:.0f} fps for the same model, card, precision and batch"
    return ""


def _twins(row: Reading, rows: Sequence[Reading]) -> Iterator[Reading]:
    same = (other for other in rows if other.kind == row.kind == "infer" and other.source != row.source)
    for other in same:
        if (other.model, other.gpu, other.precision, other.batch) == (row.model, row.gpu, row.precision, row.batch) and (
            other.confidence == "high" and other.runtime.startswith("TensorRT")
        ):
            yield other


def log_ratio(published: float, predicted: float) -> float:
    """How far apart they are, as a logarithm: positive when the world is faster than we say."""
    return math.log(published / predicted)
