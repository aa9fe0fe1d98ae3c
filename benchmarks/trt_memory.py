"""The context memory we predict for TensorRT against what published build logs say, row by row.

    python benchmarks/trt_memory.py            write docs/accuracy-tensorrt.md
    python benchmarks/trt_memory.py --check    exit 1 when the committed page differs from what would be written

A reading is "Total Activation Memory" of the finished engine: activation with scratch, without bindings. Rows that
shaped the rules are `guided`; the others judge. Partial models (plug-ins or heads missing) and readings
whose precision is not stated are listed, and counted nowhere.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parent))

from trt_models import Case, cases

import vramplan
from vramplan.runtimes.tensorrt import PERSISTENT

HERE = Path(__file__).parent
READINGS = HERE / "data" / "published_trt_memory.csv"
PAGE = HERE.parent / "docs" / "accuracy-tensorrt.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One reading beside our range, in bytes."""

    case: Case
    id: str
    version: str
    gpu: str
    published: int
    low: int
    nominal: int
    high: int

    @property
    def error(self) -> float:
        """Predicted over published, minus one; negative is an under-estimate."""
        return self.nominal / self.published - 1

    @property
    def is_inside(self) -> bool:
        """Whether the reading lies in our range."""
        return self.low <= self.published <= self.high

    @property
    def group(self) -> str:
        """Which statistics it belongs to."""
        if self.case.partial or self.case.precision == "unknown":
            return "listed"
        return "guided" if self.case.guided else "judged"


def rows() -> list[Row]:
    """Every activation reading whose model is rebuilt, one row each."""
    with READINGS.open(newline="", encoding="utf-8") as file:
        readings = {row["id"]: row for row in csv.DictReader(file)}
    return [row for case in cases() for row in _rows_of(case, readings)]


def _rows_of(case: Case, readings: dict[str, dict[str, str]]) -> Iterable[Row]:
    precision = "fp16" if case.precision == "unknown" else case.precision
    estimate = vramplan.estimate(case.path, precision=precision)
    parts = [estimate.budget.activations, estimate.budget.workspace, estimate.budget.allocator_slack]
    for reading in (readings[row] for row in case.rows):
        if reading["metric"] == "activation":
            yield Row(
                case=case,
                id=reading["id"],
                version=reading["trt_version"],
                gpu=reading["gpu"],
                published=int(reading["bytes"]),
                low=sum(part.low_bytes for part in parts) - PERSISTENT.low_bytes,
                nominal=estimate.phases["context"].allocated_peak_bytes,
                high=sum(part.high_bytes for part in parts) - PERSISTENT.high_bytes,
            )


def summary(name: str, chosen: Sequence[Row]) -> str:
    """One line of the table of statistics."""
    errors = [abs(row.error) for row in chosen]
    models: dict[str, list[float]] = {}
    for row in chosen:
        models.setdefault(row.case.id, []).append(abs(row.error))
    worst = max(chosen, key=lambda row: abs(row.error))
    cells = (
        name,
        f"{len(chosen)}",
        f"{len(models)}",
        f"{median(errors):.1%}",
        f"{median(map(median, models.values())):.1%}",
        f"{quantiles(errors, n=20, method='inclusive')[-1]:.1%}",
        f"{worst.error:+.1%} ({worst.case.id})",
        f"{sum(row.is_inside for row in chosen)} of {len(chosen)}",
        f"{sum(row.error < -0.20 for row in chosen)}",
    )
    return f"| {' | '.join(cells)} |"


def page(all_rows: Sequence[Row]) -> str:
    """The whole page, as Markdown."""
    groups = {name: [row for row in all_rows if row.group == name] for name in ("guided", "judged")}
    statistics = [summary(name, rows) for name, rows in groups.items()]
    notes = dict.fromkeys(f"- **{row.case.id}**: {row.case.notes}." for row in all_rows if row.case.notes)
    return "\n".join([*HEAD, *statistics, *MIDDLE, *map(line, all_rows), *NOTES, *notes, ""])


def line(row: Row) -> str:
    """One line of the table of readings."""
    cells = (
        row.id,
        row.case.id,
        row.case.precision,
        row.version,
        f"{row.published:,}",
        f"{row.nominal:,}",
        f"{row.error:+.1%}",
        f"{row.low:,} – {row.high:,}",
        "yes" if row.is_inside else "**no**",
        row.group,
    )
    return f"| {' | '.join(cells)} |"


HEAD = """\
# Accuracy: TensorRT context memory

Written by `python benchmarks/trt_memory.py`; the test suite checks that it is up to date. The readings are the "Total
Activation Memory" lines of public build logs, collected in `benchmarks/data/published_trt_memory.csv` with the raw line and
the source of each. The models behind them are rebuilt from public descriptions, without weights, in `benchmarks/onnx/`.

*Guided* readings shaped the rules of fusion and blocks; *judged* ones did not. One choice was made with all of them in sight:
a concatenation counts in place or copied, whichever takes more (always in place: 4.1 % median error of the judged readings;
always copied: 1.4 %). *Listed* readings count nowhere: the rebuilt model lacks parts of the logged one, or the log does not
say the precision. An under-estimate is negative.

| group | readings | models | median error | median of the models | p95 | worst | inside the range | under by more than 20 % |
|---|---|---|---|---|---|---|---|---|""".splitlines()

MIDDLE = """
What remains is the builder's timing: GoogLeNet was built five times, and one build holds 44 % more than the others (a
reformatted copy of its first convolution). TensorRT 7.1 (SSDLite) held far more than any later version.

| reading | model | precision | TensorRT | published B | predicted B | error | range B | inside | group |
|---|---|---|---|---|---|---|---|---|---|""".splitlines()

NOTES = """
## Notes on the models
""".splitlines()


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(argv)
    text = page(rows())
    if options.check:
        return 0 if PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
