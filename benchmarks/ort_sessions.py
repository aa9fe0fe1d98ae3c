"""The page's part on the recorded sessions: what was predicted for them, and by how much that is wrong.

Guided models were looked at while rules were written, judged ones were not: a hash of the name decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import ort_predictions

from vramplan.gpus import find_gpu
from vramplan.gpus.context import session_contexts
from vramplan.runtimes.onnxruntime.options import Search
from vramplan.units import MIB

CARD_BYTES = 11_337_728
"""What the card has less than the sum of its processes once one has a context: the 22 readings of a whole card lie that much
above those of a process for the same graph and options, to the byte."""

STAGES = ("session", "run1", "run2", "steady")
_READINGS = {"session": 0, "run1": 1, "run2": 2, "steady": 4}
_SHOWN = {"session": "session", "run1": "run 1", "run2": "run 2", "steady": "run 4"}
_GUIDED_BELOW = 0x66
NEAR = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One measured process beside our prediction, by stage, in bytes; low and high are those of the last stage."""

    batch: int
    options: str
    predicted: dict[str, int]
    measured: dict[str, int]
    low: int
    high: int

    def error(self, stage: str) -> float:
        """Predicted over measured, minus one; negative is an under-estimate."""
        return self.predicted[stage] / self.measured[stage] - 1

    @property
    def is_inside(self) -> bool:
        """Whether the last reading lies in our range."""
        return self.low <= self.measured["steady"] <= self.high

    @property
    def is_growth_right(self) -> bool:
        """Whether we say correctly that the second run takes more than the first, or that it does not."""
        grows = [sizes["run2"] - sizes["run1"] >= 16 * MIB for sizes in (self.predicted, self.measured)]
        return grows[0] == grows[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Compared):
    """A recorded process; what it takes is counted as a whole card says it."""

    graph: str
    is_guided: bool


def is_guided(graph: str) -> bool:
    """Whether rules may be read off this model."""
    return int(hashlib.sha256(graph.partition(".")[0].encode()).hexdigest()[:2], 16) < _GUIDED_BELOW


def sessions(*, is_plain: bool) -> list[Session]:
    """Every recorded process that has a prediction."""
    found = {
        (row["graph"], row["batch"], row["options"]): row for row in ort_predictions.read() if bool(row["is_plain"]) is is_plain
    }
    pairs = ((record, found.get(ort_predictions.key_of(record))) for record in ort_predictions.records())
    return [_session(record, row) for record, row in pairs if row is not None]


def _session(record: ort_predictions.Record, row: ort_predictions.Record) -> Session:
    search = Search(record["options"].get("cudnn_conv_algo_search", Search.EXHAUSTIVE))
    loaded, run = session_contexts(find_gpu("h200"), is_exhaustive=search is Search.EXHAUSTIVE)
    return Session(
        graph=record["graph"].removesuffix(".onnx"),
        batch=record["batch"],
        options=_words(record["options"]),
        is_guided=is_guided(record["graph"]),
        predicted={stage: row[stage] + (loaded if stage == "session" else run).nominal_bytes for stage in STAGES},
        measured={stage: record["readings"][index] + CARD_BYTES for stage, index in _READINGS.items()},
        low=row["low"] + run.low_bytes,
        high=row["high"] + run.high_bytes,
    )


def _words(options: dict[str, str]) -> str:
    first = f"{options['arena_extend_strategy']}, {options['cudnn_conv_algo_search']}"
    rest = [f"{key.removeprefix('session.')}={value}" for key, value in options.items() if key not in _COMMON]
    return ", ".join((first, *rest))


_COMMON = ("arena_extend_strategy", "cudnn_conv_algo_search")


def section() -> Iterator[str]:
    """The page's part."""
    found, plain = sessions(is_plain=False), sessions(is_plain=True)
    graphs = {each.graph for each in found}
    models = {graph.partition(".")[0] for graph in graphs}
    yield f"{len(found):,} processes with {len(graphs)} graphs of {len(models)} models (torchvision, timm, transformers and our"
    yield "zoo; fp32 and fp16, batch 1, 8 and 16, open and fixed shapes, both exporters of PyTorch), recorded with"
    yield "`benchmarks/ort_record.py`. The graph is the one that an installed ONNX Runtime makes of the file, workspace what"
    yield "cuDNN 9.19 says without a GPU. Readings are the process's own plus 10.8 MiB that the card loses beside them."
    for is_guided_part in (False, True):
        part = [each for each in found if each.is_guided is is_guided_part]
        yield ""
        yield _HEADS[is_guided_part]
        yield ""
        yield from _stages(part)
    yield ""
    yield "Without ONNX Runtime and cuDNN installed: a graph by rules of our own, workspace in closed form; batch 8, the"
    yield "defaults and kSameAsRequested with HEURISTIC."
    yield ""
    for is_guided_part in (False, True):
        part = [each for each in plain if each.is_guided is is_guided_part]
        yield f"{'Guided' if is_guided_part else 'Judged'} models:"
        yield ""
        yield from _stages(part)
        yield ""
    yield "### By options, after run 4"
    yield ""
    yield from _groups(found, lambda each: each.options)
    yield ""
    yield "### By precision and export, after run 4, all options"
    yield ""
    yield from _groups(found, lambda each: f"{each.graph.rpartition('.')[2]}, {_STYLES[each.graph.split('.')[1]]}")
    yield ""
    yield "### The ten worst of each"
    yield ""
    for is_guided_part in (False, True):
        yield f"{'Guided' if is_guided_part else 'Judged'}:"
        yield ""
        yield from _worst([each for each in found if each.is_guided is is_guided_part])
        yield ""


_HEADS = {
    False: "**Judged** models, which no rule was read off:",
    True: "**Guided** models, which rules were read off:",
}
_STYLES = {
    "open": "open batch",
    "fixed": "all dimensions fixed",
    "dynamo": "open batch, `dynamo=True`",
    "file": "open batch, height and width",
}


def _stages(found: Sequence[Session]) -> Iterator[str]:
    yield "| after | processes | median error | p95 | worst | within 3 % | under by more than 3 % |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for stage in STAGES:
        yield f"| {_SHOWN[stage]} | {len(found)} | {_figures([each.error(stage) for each in found])} |"
    yield ""
    right = sum(each.is_growth_right for each in found) / len(found)
    inside = sum(each.is_inside for each in found) / len(found)
    yield f"Whether run 2 takes more than run 1 is right in {right:.1%}. The reading after run 4 lies in our range in"
    yield f"{inside:.1%}."


def _figures(errors: Sequence[float]) -> str:
    sizes = sorted(map(abs, errors))
    near = sum(size <= NEAR for size in sizes) / len(sizes)
    under = sum(error < -NEAR for error in errors) / len(sizes)
    p95 = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
    return f"{median(sizes):.1%} | {p95:.1%} | {sizes[-1]:.1%} | {near:.1%} | {under:.1%}"


def _groups(found: Sequence[Session], key: Callable[[Session], str]) -> Iterator[str]:
    yield "| | processes | median error | p95 | worst | within 3 % | under by more than 3 % |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in sorted({key(each) for each in found}):
        errors = [each.error("steady") for each in found if key(each) == name]
        yield f"| {name} | {len(errors)} | {_figures(errors)} |"


def _worst(found: Sequence[Session]) -> Iterator[str]:
    yield "| graph | options | error | predicted | range | measured |"
    yield "|---|---|---:|---:|---:|---:|"
    seen: set[tuple[str, int, str]] = set()
    for each in sorted(found, key=lambda each: -abs(each.error("steady"))):
        if (each.graph, each.batch, each.options) in seen:
            continue
        seen.add((each.graph, each.batch, each.options))
        sizes = f"{each.predicted['steady'] / MIB:.0f} MiB | {each.low / MIB:.0f}–{each.high / MIB:.0f}"
        yield (
            f"| {each.graph} b{each.batch} | {each.options} | {each.error('steady'):+.1%} | {sizes} |"
            f" {each.measured['steady'] / MIB:.0f} MiB |"
        )
        if len(seen) == 10:
            return
