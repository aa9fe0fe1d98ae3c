"""Fit the constants of the latency model to published speeds, and judge it on cards that were left out.

The fit is a pattern search over five numbers: it starts where the last one ended, needs no library and gives the same
answer everywhere. Each card weighs as the square root of its rows, so that the T4, which everybody measures, does not decide
alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median

from streams_models import sketch_of
from streams_rows import Reading, log_ratio

from vramplan.capacity.compute import Speeds, batch_ms, speeds
from vramplan.capacity.constants import FITTED, Constants, constants
from vramplan.capacity.span import Span
from vramplan.capacity.work import FrameWork, frame_work
from vramplan.flops import count_work
from vramplan.gpus import find_gpu
from vramplan.graph import Graph
from vramplan.held import bind
from vramplan.options import Options
from vramplan.precision import apply_policy, find_policy
from vramplan.ranges import Evidence
from vramplan.runtimes.tensorrt import Fusions
from vramplan.sources import open_model, zoo

STEPS = (0.3, 0.1, 0.03, 0.01)
BAND = (0.05, 0.95)
"""The share of residuals that the range leaves out at each end."""

REBUILT = Path(__file__).parent / "onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One published speed beside the work behind it."""

    row: Reading
    work: FrameWork

    @property
    def batch(self) -> int:
        """Frames in a batch; one where the source does not say."""
        return self.row.batch or 1

    def milliseconds(self, fit: Constants) -> float:
        """The nominal time of a batch under *fit*."""
        arithmetic = self.work.arithmetic
        return batch_ms(self.work, _speeds(self.row.gpu, arithmetic, fit.efficiency(arithmetic)), self.batch, fit).nominal

    def residual(self, fit: Constants) -> float:
        """The logarithm of published over modelled speed."""
        return log_ratio(self.row.fps, 1000 * self.batch / self.milliseconds(fit))


@cache
def _card_speeds(gpu: str, arithmetic: str) -> Speeds:
    return speeds(find_gpu(gpu), arithmetic)


@cache
def _speeds(gpu: str, arithmetic: str, efficiency: float) -> Speeds:
    return replace(_card_speeds(gpu, arithmetic), efficiency=efficiency)


def samples(rows: Sequence[Reading]) -> tuple[Sample, ...]:
    """*rows* with the work of their models."""
    return tuple(Sample(row=row, work=work_of(row.model, row.gflops or 0.0, row.precision, row.zoo_name)) for row in rows)


@cache
def work_of(model: str, gflops: float, precision: str, zoo_name: str | None) -> FrameWork:
    """The work of a frame: from the graph where we have one, else from the published operations (`typical_work`)."""
    rebuilt = REBUILT / f"{model.replace('-', '_')}.onnx"
    if zoo_name or rebuilt.exists():
        return _graph_work(zoo_name or str(rebuilt), precision)
    if sketch := sketch_of(model):
        work = _fused_work(Fusions.of(sketch), sketch, precision)
        return replace(work, matrix_flops=round(work.matrix_flops * gflops * 1e9 / count_work(sketch).matrix_flops))
    return typical_work(gflops, precision)


def has_graph(row: Reading) -> bool:
    """Whether the work of the row's model is counted from a graph."""
    return bool(row.zoo_name or sketch_of(row.model) or (REBUILT / f"{row.model.replace('-', '_')}.onnx").exists())


@cache
def _graph_work(name: str, precision: str) -> FrameWork:
    source = open_model(name)
    bound = bind(source, None, Options.of())
    return _fused_work(bound.fusions, bound.graph, precision, batch=source.batch_of(bound.graph) or 1)


def _fused_work(fusions: Fusions, graph: Graph, precision: str, *, batch: int = 1) -> FrameWork:
    fused = fusions.plain if precision == "fp32" else fusions.joined
    return frame_work(fused, apply_policy(graph, find_policy(precision)), batch=batch)


@cache
def typical_work(gflops: float, precision: str) -> FrameWork:
    """A detector of *gflops*: its work follows the power law through the built-in detectors."""
    names = [model.name for model in zoo().values() if model.name.startswith("yolo")]
    known = [_graph_work(name, precision) for name in names]
    flops = gflops * 1e9

    def law(count: Callable[[FrameWork], int]) -> int:
        points = [(math.log(_counted(name)), math.log(count(work))) for name, work in zip(names, known, strict=True)]
        mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
        return round(math.exp(mean_y + slope * (math.log(flops) - mean_x)))

    return FrameWork(
        arithmetic=precision,
        launch_count=law(lambda work: work.launch_count),
        matrix_flops=max(round(flops), law(lambda work: work.matrix_flops)),
        weight_bytes=law(lambda work: work.weight_bytes),
        activation_bytes=law(lambda work: work.activation_bytes),
        input_bytes=known[0].input_bytes,
        output_bytes=known[0].output_bytes,
    )


@cache
def _counted(name: str) -> float:
    """The operations of a frame as they are published: no channels filled up."""
    source = open_model(name)
    graph = bind(source, None, Options.of()).graph
    return count_work(graph).matrix_flops / (source.batch_of(graph) or 1)


def fit_latency(chosen: Sequence[Sample]) -> Constants:
    """The five constants that make the weighted mean of |log ratio| smallest over *chosen*."""
    rows = Counter(sample.row.gpu for sample in chosen)

    def loss(values: Sequence[float]) -> float:
        fit = _with(values)
        total = sum(abs(sample.residual(fit)) / math.sqrt(rows[sample.row.gpu]) for sample in chosen)
        return total / sum(map(math.sqrt, rows.values()))

    best = [10_000.0, 0.5, 0.8, 0.35, 0.85]
    least = loss(best)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for index in range(len(best)):
                for factor in (1 + step, 1 / (1 + step)):
                    trial = [*best]
                    trial[index] *= factor
                    if index and trial[index] > 1:
                        continue
                    found = loss(trial)
                    if found < least - 1e-9:
                        best, least, improved = trial, found, True
    return _with([round(best[0], -2), *(round(value, 2) for value in best[1:])])


def _with(values: Sequence[float]) -> Constants:
    return replace(constants(), **dict(zip(FITTED, values, strict=True)))


def band(residuals: Sequence[float]) -> Span:
    """The spread of published over modelled speed: the middle nine tenths, and the median."""
    ordered = sorted(residuals)
    low, high = (math.exp(quantile(ordered, share)) for share in BAND)
    nominal = math.exp(median(ordered))
    return Span(low=min(low, nominal), nominal=nominal, high=max(high, nominal), evidence=Evidence.BOUNDED)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which *share* of the *ordered* values lie, between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
