"""`vramplan verify` over the whole zoo on one GPU, and the page about it.

    python benchmarks/verify_zoo.py --run OUT.jsonl [--models yolov8s,resnet50] [--seconds 500]   on a machine with a GPU
    python benchmarks/verify_zoo.py --predict [--nvidia DIR]   estimate every cell again and compare: rewrites the outcome
    python benchmarks/verify_zoo.py                write docs/accuracy-verify.md from the committed outcome
    python benchmarks/verify_zoo.py --check        exit 1 when the committed page differs

A run writes one line a cell: what `vramplan measure --json` prints, and the recording that `--record` writes. Cells that are in
OUT already are left out, so that a run that was stopped goes on. Predicting needs no GPU: the libraries below ``--nvidia``, a
``site-packages/nvidia``, answer for cuDNN as those of the measured machine do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RUNS = ROOT / "benchmarks" / "data" / "verify_h200" / "runs.jsonl.gz"
DATA = ROOT / "benchmarks" / "data" / "verify_h200" / "outcome.jsonl.gz"
PAGE = ROOT / "docs" / "accuracy-verify.md"
PRECISIONS, FORMATS, BATCHES = ("fp32", "fp16"), ("contiguous", "channels_last"), (1, 8)
KEY = ("model", "precision", "memory_format", "batch")
MIB = 1 << 20
Row = dict[str, Any]


def run(out: Path, models: Sequence[str], seconds: float) -> None:
    """Measure and record every cell, model by model, and append to *out*."""
    from vramplan.errors import VramplanError
    from vramplan.measuring import Cell, Guard, open_machine, record_cell
    from vramplan.report.measured_export import measurement_json

    done = {key_of(row) for row in map(json.loads, out.read_text().splitlines())} if out.exists() else set()
    machine, began = open_machine(), time.monotonic()
    with out.open("a") as lines, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.json"
        for key in cells(models):
            if key in done or time.monotonic() - began > seconds:
                continue
            model, precision, memory_format, batch = key
            cell = Cell(model=model, precision=precision, memory_format=memory_format, batch=batch)
            row: Row = dict(zip(KEY, key, strict=True))
            started = time.monotonic()
            try:
                expected = cell.estimate(machine.gpu)
                found, is_recorded = record_cell(cell, machine, Guard(timeout_s=120), path, expected=expected, force=True)
                row["measurement"] = json.loads(measurement_json(found))
                row["recording"] = json.loads(path.read_text()) if is_recorded else None
            except VramplanError as error:
                row["error"] = str(error)
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            print(*key, row.get("error", "")[:200], f"{time.monotonic() - started:.1f} s", flush=True)


def predict(nvidia: Path | None) -> None:
    """Estimate every measured cell with this version, compare, and rewrite the outcome."""
    import vramplan.modules
    from vramplan.gpus import find_gpu
    from vramplan.workspace.cudnn import conv_workspaces
    from vramplan.workspace.cudnn_libraries import libraries_below

    if nvidia is not None:
        libraries = libraries_below(nvidia)
        vramplan.modules.conv_workspaces = lambda gpu, **more: conv_workspaces(gpu, libraries=libraries, **more)
    gpu = find_gpu("h200")
    with gzip.open(RUNS, "rt") as lines:
        runs = list(map(json.loads, lines))
    measured = tuple(map(int, runs[0]["measurement"]["environment"]["torch"].split(".")[:2]))
    vramplan.modules.torch_version = lambda: measured  # kernels of the version that ran, whichever one traces
    rows = [_verified(run, gpu) for run in runs]
    with gzip.GzipFile(DATA, "wb", mtime=0) as out:
        out.writelines((json.dumps(row) + "\n").encode() for row in rows)


def _verified(row: Row, gpu: Any) -> Row:
    from vramplan.measuring import Cell
    from vramplan.replaying import replay
    from vramplan.report.measured_export import verification_json
    from vramplan.verification import TOLERANCE_RATIO, compare

    key = {name: row[name] for name in KEY}
    if "error" in row:
        return {**key, "error": row["error"]}
    recorded = None
    with tempfile.TemporaryDirectory() as folder:
        if row["recording"]:
            path = Path(folder) / "recording.json"
            path.write_text(json.dumps(row["recording"]))
            recorded = replay(path)
        expected = Cell(**key).estimate(gpu)
        found = compare(expected, measurement_of(row["measurement"]), recorded, tolerance=TOLERANCE_RATIO)
    return {**key, "verification": json.loads(verification_json(found)), "latency": row["measurement"]["latency"]}


def measurement_of(content: Row) -> Any:
    """A measurement from its JSON."""
    from vramplan.device.measurement import Latency, Measurement, Outcome, PhaseReading

    phases = {
        name: PhaseReading(**{field: value for field, value in phase.items() if field in PhaseReading.__dataclass_fields__})
        for name, phase in content["phases"].items()
    }
    latency = dict(content["latency"] or {})
    latency.pop("throughput_per_s", None)
    plain = ("model", "runtime", "precision", "batch", "memory_format", "failure", "environment", "limit_bytes")
    return Measurement(
        **{name: content[name] for name in plain},
        outcome=Outcome(content["outcome"]),
        phases=phases,
        steps=(),
        latency=Latency(**latency) if latency else None,
        others=(),
        notes=tuple(content["notes"]),
    )


def key_of(row: Row) -> tuple[Any, ...]:
    """Which cell it is."""
    return tuple(row[name] for name in KEY)


def cells(models: Sequence[str]) -> Iterator[tuple[str, str, str, int]]:
    """Every cell, in order."""
    for model in models:
        for precision in PRECISIONS:
            for memory_format in FORMATS:
                for batch in BATCHES:
                    yield model, precision, memory_format, batch


def read_rows() -> list[Row]:
    """The committed outcome."""
    with gzip.open(DATA, "rt") as lines:
        return [json.loads(line) for line in lines]


def part(row: Row, name: str) -> Row:
    """A part or a peak of a verification, by name."""
    verification = row["verification"]
    return next(item for item in (*verification["rows"], *verification["peaks"]) if item["part"] == name)


def page(rows: Sequence[Row]) -> str:
    """The page."""
    good = [row for row in rows if "verification" in row]
    first = good[0]["verification"]["environment"]
    lines = [
        "# `vramplan verify` over the zoo",
        "",
        "Generated by `python benchmarks/verify_zoo.py` from `benchmarks/data/verify_h200/`. Do not edit.",
        "",
        _provenance(first, rows, len(rows) - len(good)),
        "",
        "| quantity | exact to the byte | within 1 % | within 5 % | median | worst | under by more than 1 % |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_summary(title, name, good) for title, name in QUANTITIES),
        "",
        *_beyond(good),
        "",
        "## Every cell",
        "",
        "| model | precision | layout | batch | predicted | measured | error | allocated peak | forward |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
        *map(_line, good),
    ]
    lines += [
        f"| {' | '.join(str(row[name]) for name in KEY)} | {row['error'][:120]} | | | | |" for row in rows if "error" in row
    ]
    return "\n".join(lines) + "\n"


def _provenance(where: Row, rows: Sequence[Row], failed: int) -> str:
    models = len({row["model"] for row in rows})
    machine = f"{where['gpu']}, driver {where['driver']}, torch {where['torch']}, cuDNN {where['cudnn']}, {where['date']}"
    return (
        f"{machine}; {len(rows)} cells: {models} models x fp32 and fp16 x contiguous and channels_last x batch 1 and 8, each"
        f" in a process of its own. {failed} failed. The total is what the driver counts (NVML), the peaks are PyTorch's own"
        " counters, the parts come from a recording of the same process. The predictions are those of that day."
    )


QUANTITIES = (
    ("process total (NVML)", "total"), ("context", "context"), ("weights", "weights"), ("inputs", "inputs"),
    ("activations at the peak", "activations"), ("outputs at the peak", "outputs"), ("workspace at the peak", "workspace"),
    ("first run: allocated peak", "first_run.allocated_peak"), ("first run: reserved peak", "first_run.reserved_peak"),
    ("steady: allocated peak", "steady.allocated_peak"), ("steady: reserved peak", "steady.reserved_peak"),
)  # fmt: skip


def _summary(title: str, name: str, rows: Sequence[Row]) -> str:
    pairs = [(item["predicted_bytes"], item["measured_bytes"]) for item in (part(row, name) for row in rows)]
    known = [(ours, real) for ours, real in pairs if real is not None]
    if not known:
        return f"| {title} | not measured | | | | | |"
    errors = [(ours - real) / real if real else float(ours != 0) for ours, real in known]
    cells = [
        _share(ours == real for ours, real in known),
        *(_share(abs(error) <= limit for error in errors) for limit in (0.01, 0.05)),
        f"{median(map(abs, errors)) * 100:.2f} %",
        f"{max(errors, key=abs) * 100:+.2f} %",
        _share(error < -0.01 for error in errors),
    ]
    return f"| {title} | {' | '.join(cells)} |"


def _share(hits: Any) -> str:
    found = list(hits)
    return f"{100 * sum(found) / len(found):.1f} %"


def _beyond(rows: Sequence[Row]) -> Iterator[str]:
    """Every row whose total or allocated peak is off by more than 1 %, with the op that differs most."""
    names = ("total", "first_run.allocated_peak", "steady.allocated_peak")
    off = [(row, [name for name in names if abs(part(row, name)["error_ratio"] or 0) > 0.01]) for row in rows]
    off = [(row, wrong) for row, wrong in off if wrong]
    yield "## Beyond 1 %"
    yield ""
    if not off:
        yield "No cell is off by more than 1 % in its total, or in the allocated peak of the first run or the loop."
        return
    yield "| model | precision | layout | batch | what | error | op that differs most |"
    yield "|---|---|---|---:|---|---:|---|"
    for row, wrong in off:
        errors = ", ".join(f"{part(row, name)['error_ratio'] * 100:+.2f} %" for name in wrong)
        yield f"| {' | '.join(str(row[name]) for name in KEY)} | {', '.join(wrong)} | {errors} | {_largest(row)} |"


def _largest(row: Row) -> str:
    differences = [item for each in row["verification"]["alignments"] for item in each["largest"]]
    if not differences:
        return "none: a tie between free blocks, or the context"
    most = max(differences, key=lambda item: abs(item["predicted_bytes"] - item["measured_bytes"]))
    return f"`{most['name']}` ({most['predicted_bytes']:,} against {most['measured_bytes']:,} B)"


def _line(row: Row) -> str:
    total, peak = part(row, "total"), part(row, "first_run.allocated_peak")
    latency = row["latency"]
    exact = "exact" if peak["error_bytes"] == 0 else f"{peak['error_ratio'] * 100:+.2f} %"
    cells = [
        *(str(row[name]) for name in KEY),
        f"{total['predicted_bytes'] / MIB:,.1f} MiB",
        f"{total['measured_bytes'] / MIB:,.1f} MiB",
        f"{total['error_ratio'] * 100:+.2f} %",
        exact,
        f"{latency['median_ms']:.2f} ms" if latency else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run, or write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--nvidia", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.predict:
        predict(options.nvidia)
        return 0
    if options.run:
        from vramplan.sources.zoo import zoo

        names = options.models.split(",") if options.models else list(dict.fromkeys(model.name for model in zoo().values()))
        run(options.run, names, options.seconds)
        return 0
    text = page(read_rows())
    if options.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
