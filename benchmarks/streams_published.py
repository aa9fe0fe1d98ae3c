"""The capacity calculator against published speeds, decode rates and stream counts, row by row.

    python benchmarks/streams_published.py            write docs/accuracy-streams.md
    python benchmarks/streams_published.py --check    exit 1 when the committed page differs from what would be written
    python benchmarks/streams_published.py --fit      print what vramplan/capacity/constants.toml must say

No row judges a number that was fitted to its own card: the constants behind a row are fitted to all the other cards.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from streams_fit import Sample, band, fit_latency, has_graph, quantile, samples, work_of
from streams_rows import Reading, doubtful, is_codec_pair, readings, unusable

from vramplan.capacity.compute import engine_fps
from vramplan.capacity.constants import FITTED, Constants
from vramplan.capacity.decode import Decoder, decoder_of
from vramplan.capacity.span import Span
from vramplan.gpus import find_gpu
from vramplan.ranges import Evidence
from vramplan.video import Video, parse_video

HERE = Path(__file__).parent
MEASURED = HERE / "data" / "nvdec_h200.csv"
PAGE = HERE.parent / "docs" / "accuracy-streams.md"
MEASURED_CARD = "h200-sxm"
KINDS = {
    "infer": "inference, TensorRT 8 and later",
    "older": "inference, TensorRT 7 (not modelled)",
    "decode": "decode",
    "pipeline": "pipeline",
}
INFERENCE = ("infer", "older")
AIMS = {"infer": 0.15, "decode": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published number beside our range, in frames a second of one GPU."""

    kind: str
    id: str
    gpu: str
    what: str
    published: float
    predicted: Span

    @property
    def error(self) -> float:
        """Predicted over published, minus one; positive promises more than there is."""
        return self.predicted.nominal / self.published - 1

    @property
    def is_inside(self) -> bool:
        """Whether the published number lies in our range."""
        return self.predicted.low <= self.published <= self.predicted.high


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeReading:
    """A decode rate of a card; ``engine_count`` is how many engines could work, where that is not all of them."""

    id: str
    gpu: str
    what: str
    fps: float
    video: Video
    engine_count: int | None


@cache
def table() -> tuple[Reading, ...]:
    """Every published row."""
    return readings()


def usable(kind: str) -> tuple[Reading, ...]:
    """Rows of *kind* that can be judged and are believed."""
    return tuple(row for row in table() if row.kind == kind and not unusable(row, table()) and not doubtful(row, table()))


@cache
def speeds() -> tuple[Sample, ...]:
    """The inference rows with the work of their models."""
    return samples(usable("infer"))


def trainable(chosen: Sequence[Sample]) -> list[Sample]:
    """Rows that may be fitted: a known batch ("offline" leaves it to the submitter) on TensorRT 8 or later."""
    return [sample for sample in chosen if not sample.row.metric.startswith("Offline") and not sample.row.is_old]


@cache
def fitted(without: str = "") -> Constants:
    """All constants as fitted to the rows of every card but *without*."""
    training = trainable([sample for sample in speeds() if sample.row.gpu != without])
    fit = fit_latency(training)
    ratios = pipeline_ratios(without) or pipeline_ratios("")
    return replace(
        fit,
        engine=band([sample.residual(fit) for sample in training]),
        pipeline=Span(low=min(ratios), nominal=median(ratios), high=max(1.0, *ratios), evidence=Evidence.BOUNDED),
    )


@cache
def pipeline_ratios(without: str) -> tuple[float, ...]:
    """DeepStream pipelines over their own engines: same source, card, model and batch."""
    engines = {(row.source, row.gpu, row.model, row.batch): row.fps for row in usable("infer")}
    pairs = [(row, engines.get((row.source, row.gpu, row.model, row.batch))) for row in usable("pipeline")]
    return tuple(row.fps / fps for row, fps in pairs if fps and row.gpu != without)


@cache
def decode_readings() -> tuple[DecodeReading, ...]:
    """What decoders did: measured on an H200, published for cards, and seen in pipelines that decoding limits."""
    return (*_measured(), *_published_decode())


def _measured() -> Iterator[DecodeReading]:
    with MEASURED.open(encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file), start=1):
            yield DecodeReading(
                id=f"H{index}",
                gpu=MEASURED_CARD,
                what=f"{row['codec']} {row['resolution']}, {row['sessions']} sessions",
                fps=float(row["total_decode_fps"]),
                video=parse_video(row["resolution"], codec=row["codec"]),
                engine_count=min(int(row["sessions"]), find_gpu(MEASURED_CARD).nvdec_count or 1),
            )


def _published_decode() -> Iterator[DecodeReading]:
    for row in (*usable("decode"), *filter(is_codec_pair, usable("pipeline"))):
        codec = row.codec.lower().replace(".", "")
        yield DecodeReading(
            id=str(row.id),
            gpu=row.gpu,
            what=f"{row.model or row.runtime}, {row.video} {codec}",
            fps=row.fps,
            video=parse_video(row.video, codec=codec),
            engine_count=1 if "single session" in row.runtime else None,
        )


def rows() -> list[Row]:
    """Every judged row, with constants that were fitted without its card."""
    return [*map(_speed_row, speeds()), *map(_decode_row, decode_readings()), *_pipeline_rows()]


def _speed_row(sample: Sample) -> Row:
    row = sample.row
    predicted = engine_fps([sample.work], find_gpu(row.gpu), sample.batch, fitted(row.gpu))
    what = f"{row.model}, {row.precision}, batch {sample.batch}"
    kind = "older" if row.is_old else "infer"
    return Row(kind=kind, id=str(row.id), gpu=row.gpu, what=what, published=row.fps, predicted=predicted)


def _decode_row(reading: DecodeReading) -> Row:
    """The calculator as it ships: nothing in its decode rates is fitted."""
    decoder = decoder_of(find_gpu(reading.gpu), reading.video, engine_count=reading.engine_count)
    if not isinstance(decoder, Decoder):
        raise TypeError(f"row {reading.id}: {decoder.reason}")
    what, fps = reading.what, decoder.fps
    return Row(kind="decode", id=reading.id, gpu=reading.gpu, what=what, published=reading.fps, predicted=fps)


def _pipeline_rows() -> Iterator[Row]:
    """Pipelines of a known model: the smaller of what the decoder and the engine allow."""
    for row in usable("pipeline"):
        if is_codec_pair(row):
            continue
        gpu, fit = find_gpu(row.gpu), fitted(row.gpu)
        work = work_of(row.model, row.gflops or 0.0, row.precision, row.zoo_name)
        compute = engine_fps([work], gpu, row.batch or 8, fit).times(fit.pipeline)
        decoder = decoder_of(gpu, parse_video("1080p30", codec="h264"))
        predicted = _smaller(compute, decoder.fps) if isinstance(decoder, Decoder) else compute
        what = f"{row.runtime}, {row.model}, {row.precision}"
        yield Row(kind="pipeline", id=str(row.id), gpu=row.gpu, what=what, published=row.fps, predicted=predicted)


def _smaller(one: Span, other: Span) -> Span:
    return replace(one, low=min(one.low, other.low), nominal=min(one.nominal, other.nominal), high=min(one.high, other.high))


def summary(kind: str, judged: Sequence[Row]) -> str:
    """One line of statistics."""
    errors = sorted(abs(row.error) for row in judged)
    inside = sum(row.is_inside for row in judged)
    aim = f"{AIMS[kind]:.0%}" if kind in AIMS else "–"
    over = sum(row.error > 0 for row in judged) / len(judged)
    return (
        f"| {KINDS[kind]} | {len(judged)} | {len({row.gpu for row in judged})} | {median(errors):.1%} | {aim} "
        f"| {quantile(errors, 0.9):.1%} | {inside / len(judged):.0%} | {over:.0%} |"
    )


def page(judged: Sequence[Row]) -> str:
    """The Markdown page."""
    by_kind = {kind: [row for row in judged if row.kind == kind] for kind in KINDS}
    inside = sum(row.is_inside for row in judged) / len(judged)
    return "\n".join(
        [
            *_introduction(),
            *(summary(kind, chosen) for kind, chosen in by_kind.items()),
            "",
            f"Of all {len(judged)} judged numbers {inside:.0%} lie inside the range (aim: 85 %).",
            "",
            *_remarks(by_kind),
            "## Cards",
            "",
            *_cards_table([row for row in judged if row.kind in INFERENCE]),
            "",
            "## Pipelines",
            "",
            *_rows_table(by_kind["pipeline"]),
            "",
            "## Decode",
            "",
            *_rows_table(by_kind["decode"]),
            "",
            "## Inference",
            "",
            *_rows_table([row for row in judged if row.kind in INFERENCE]),
            "",
            "## Rows that look wrong",
            "",
            *_left_out(lambda row: "" if unusable(row, table()) else doubtful(row, table())),
            "",
            "## Rows that cannot be used",
            "",
            *_reasons(),
            "",
        ]
    )


def _introduction() -> Iterator[str]:
    yield from (
        "# Accuracy: streams",
        "",
        "Written by `python benchmarks/streams_published.py`; the test suite checks that it is up to date. The numbers are in",
        "`benchmarks/data/published_streams.csv`, each with its source; decode rates of an H200 were measured and are in",
        "`benchmarks/data/nvdec_h200.csv`.",
        "",
        "No row judges a constant that was fitted to its own card: for each card the inference constants are fitted to all",
        "others. The shape of the formula was chosen with all rows in sight. Nothing in the decode rates is fitted: nominal is",
        "NVIDIA's own note, and the range is the span of pipeline counts around it, some of which are judged below. Models",
        "without a graph here are stood in for by a typical detector with the published operations (launches, weights, traffic",
        "and filled channels by the power law through the built-in detectors); YOLOv6 is drawn in",
        "`benchmarks/streams_models.py`. Ultralytics validates an engine at the batch that it was built for, so rows that its",
        "page gives for batch 1 count as 8. A positive error promises more than the card does.",
        "",
        "| kind | judged | cards | median error | aim | p90 | inside the range | promised too much |",
        "|---|---|---|---|---|---|---|---|",
    )


def _remarks(by_kind: dict[str, list[Row]]) -> Iterator[str]:
    modelled = by_kind["infer"]
    parts = {
        "FP16": [row for row in modelled if ", fp16," in row.what],
        "INT8": [row for row in modelled if ", int8," in row.what],
        "FP32": [row for row in modelled if ", fp32," in row.what],
        "models whose graph we have": [row for row in modelled if _has_graph(row)],
        "models stood in for": [row for row in modelled if not _has_graph(row)],
    }
    shares = (f"{name} {median(abs(row.error) for row in part):.1%} of {len(part)}" for name, part in parts.items())
    yield f"Median error of inference on TensorRT 8 and later, by part: {', '.join(shares)}."
    yield ""
    yield from REMAINS
    yield ""


REMAINS = (
    "What remains: sources differ among themselves. YOLOv6-L on a T4 in FP16 at batch 1 is 98 fps in one table and 127 in",
    "another. TensorRT 7 reaches about four fifths of what later versions do. MLPerf's",
    "ResNet-50 runs two to three times as fast as the formula says: its activations stay in the cache, and its kernels were",
    "tuned for months. The newest cards have one source each.",
)


def _has_graph(row: Row) -> bool:
    by_id = {str(sample.row.id): sample.row for sample in speeds()}
    return has_graph(by_id[row.id])


def _cards_table(judged: Sequence[Row]) -> Iterator[str]:
    yield "Constants for each card, fitted without it, and what they miss there."
    yield ""
    yield "| card | rows | " + " | ".join(name.replace("_", " ") for name in FITTED) + " | median error | inside |"
    yield "|---|---" + "|---" * len(FITTED) + "|---|---|"
    for gpu in sorted({row.gpu for row in judged}):
        own = [row for row in judged if row.gpu == gpu]
        values = " | ".join(f"{getattr(fitted(gpu), name):g}" for name in FITTED)
        error = median(abs(row.error) for row in own)
        yield f"| {gpu} | {len(own)} | {values} | {error:.1%} | {sum(row.is_inside for row in own)} of {len(own)} |"


def _rows_table(judged: Sequence[Row]) -> Iterator[str]:
    yield "| row | card | what | published fps | predicted fps | range | error | inside |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in judged:
        low, high = _fps(row.predicted.low), _fps(row.predicted.high)
        mark = "yes" if row.is_inside else "**no**"
        yield (
            f"| {row.id} | {row.gpu} | {row.what} | {_fps(row.published)} | {_fps(row.predicted.nominal)} | {low} – {high} "
            f"| {row.error:+.0%} | {mark} |"
        )


def _fps(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _left_out(reason_of: Callable[[Reading], str]) -> Iterator[str]:
    yield "| row | card | model | published fps | why |"
    yield "|---|---|---|---|---|"
    for row in table():
        if reason := reason_of(row):
            yield f"| {row.id} | {row.gpu or '–'} | {row.model} | {_fps(row.fps)} | {reason} |"


def _reasons() -> Iterator[str]:
    groups: dict[str, list[int]] = {}
    for row in table():
        if reason := unusable(row, table()):
            groups.setdefault(reason, []).append(row.id)
    yield "| why | rows | which |"
    yield "|---|---|---|"
    for reason, ids in sorted(groups.items(), key=lambda item: -len(item[1])):
        yield f"| {reason} | {len(ids)} | {_spans(ids)} |"


def _spans(ids: Sequence[int]) -> str:
    """``1–4, 7``: row numbers with runs drawn together."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def shipped_band(judged: Sequence[Row]) -> Span:
    """The spread that ships: residuals of rows against constants fitted without their cards."""
    logs = [math.log(row.published / (row.predicted.nominal / fitted(row.gpu).engine.nominal)) for row in judged]
    return band(logs)


def fit_text() -> str:
    """The tables of ``constants.toml`` that are fitted, to two digits."""
    fit = fitted()
    lines = ["[latency]", *(f"{name} = {getattr(fit, name):g}" for name in FITTED)]
    spans = {"engine": shipped_band([row for row in rows() if row.kind == "infer"]), "pipeline": fit.pipeline}
    for name, span in spans.items():
        lines += ["", f"[{name}]", f"low = {span.low:.2f}", f"nominal = {span.nominal:.2f}", f"high = {span.high:.2f}"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the page, or print the fit; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--fit", action="store_true", help="print the constants instead")
    options = parser.parse_args(argv)
    if options.fit:
        print(fit_text())
        return 0
    text = page(rows())
    if options.check:
        return 0 if PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
