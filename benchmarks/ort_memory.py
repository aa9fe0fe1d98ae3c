"""What we predict for sessions of ONNX Runtime's CUDA provider against what an H200 said, row by row.

    python benchmarks/ort_memory.py            write docs/accuracy-onnxruntime.md
    python benchmarks/ort_memory.py --check    exit 1 when the committed page differs from what would be written
    python benchmarks/ort_memory.py --cudnn DIR   predict again with the cuDNN of DIR, a site-packages/nvidia

A reading is the GPU memory in use, by NVML, of a fresh process after the session was made and after its runs 1, 2 and 4, inputs
and outputs on the CPU. Convolution workspace is the closed form, so that the page does not depend on what is installed; what
cuDNN's own answers make of it is committed beside the readings.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import ort_sessions

from vramplan.gpus import find_gpu
from vramplan.gpus.context import session_contexts
from vramplan.runtimes.onnxruntime.options import Search, parse_session_options
from vramplan.runtimes.onnxruntime.plan import SessionPlan, plan_session
from vramplan.runtimes.onnxruntime.session import Declared
from vramplan.sources import open_model
from vramplan.units import MIB
from vramplan.workspace.cudnn import conv_workspaces
from vramplan.workspace.cudnn_libraries import libraries_below

HERE = Path(__file__).parent
READINGS = HERE / "data" / "onnxruntime_h200.csv"
FOLDERS = (HERE / "data" / "onnxruntime_models", HERE.parent / "models" / "onnx")
BY_CUDNN = HERE / "data" / "onnxruntime_cudnn.csv"
PAGE = HERE.parent / "docs" / "accuracy-onnxruntime.md"
OPTIONS = ("arena_extend_strategy", "cudnn_conv_algo_search", "prefer_nhwc")
STAGES = {"session": "session", "run1": "run1", "run2": "run2", "steady": "run4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(ort_sessions.Compared):
    """A reading of a whole card."""

    model: str

    @property
    def name(self) -> str:
        """Model and batch."""
        return f"{self.model} b{self.batch}"


def rows(nvidia: Path | None = None) -> list[Row]:
    """Every row of the measurements, by the closed form or by the cuDNN below *nvidia*."""
    with READINGS.open(encoding="utf-8", newline="") as file:
        return [_row(record, nvidia) for record in csv.DictReader(file)]


def rows_by_cudnn(found: Sequence[Row]) -> list[Row]:
    """The same rows with the committed predictions by cuDNN 9.19."""
    with BY_CUDNN.open(encoding="utf-8", newline="") as file:
        told = [{name: int(size) for name, size in record.items()} for record in csv.DictReader(file)]
    return [
        replace(row, predicted={stage: sizes[stage] for stage in STAGES}, low=sizes["low"], high=sizes["high"])
        for row, sizes in zip(found, told, strict=True)
    ]


def write_by_cudnn(nvidia: Path) -> None:
    """Predict with cuDNN, without a GPU, and commit the bytes."""
    with BY_CUDNN.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*STAGES, "low", "high"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row.predicted, "low": row.low, "high": row.high} for row in rows(nvidia))


def _row(record: dict[str, str], nvidia: Path | None) -> Row:
    options = {name: record[name] for name in OPTIONS} | {"enable_mem_pattern": record["mem_pattern"]}
    solved = _solved(record, options, nvidia)
    is_exhaustive = options["cudnn_conv_algo_search"] == Search.EXHAUSTIVE
    loaded, run = session_contexts(find_gpu("h200"), is_exhaustive=is_exhaustive)
    plan = solved.plan
    parts = (plan.weights, plan.inputs, plan.activations, plan.outputs, plan.workspace, plan.allocator_slack, run)
    words = [f"{record['arena_extend_strategy']}, {record['cudnn_conv_algo_search']}"]
    words += ["NHWC"] * (record["prefer_nhwc"] == "1") + ["no pattern"] * (record["mem_pattern"] == "0")
    return Row(
        model=record["model"],
        batch=int(record["batch"]),
        options=", ".join(words),
        predicted={
            stage: solved.device_bytes[stage] + (loaded if stage == "session" else run).nominal_bytes for stage in STAGES
        },
        measured={stage: int(record[f"gpu_used_after_{column}_bytes"]) for stage, column in STAGES.items()},
        low=sum(part.low_bytes for part in parts),
        high=sum(part.high_bytes for part in parts),
    )


def _solved(record: dict[str, str], options: dict[str, str], nvidia: Path | None) -> SessionPlan:
    path = next(folder / f"{record['model']}.onnx" for folder in FOLDERS if (folder / f"{record['model']}.onnx").is_file())
    source = open_model(str(path))
    shape = tuple(map(int, record["input_shape"].split("x")))
    graph = source.bind(batch=None, shapes={source.inputs[0].name: shape}, dims={})
    declared = Declared.of([item.dims for item in source.inputs])
    session = parse_session_options(options)
    libraries = libraries_below(nvidia) if nvidia else ()
    return plan_session(
        graph, session, declared, conv_workspaces(find_gpu("h200"), flags=session.cudnn_flags, libraries=libraries)
    )


def page(found: Sequence[Row]) -> str:
    """The accuracy page."""
    return "\n".join([*_head(found), *_table(found), *_tail()]) + "\n"


def _head(found: Sequence[Row]) -> Iterator[str]:
    by_cudnn = rows_by_cudnn(found)
    yield "# Accuracy of ONNX Runtime estimates"
    yield ""
    yield "Written by `python benchmarks/ort_memory.py`; a test checks that it is up to date. Everything was measured on an"
    yield "H200 (driver 580.159, onnxruntime-gpu 1.30) in fresh processes, inputs and outputs on the CPU."
    yield ""
    yield "## Recorded sessions"
    yield ""
    yield from ort_sessions.section()
    yield "## Readings of a whole card"
    yield ""
    yield f"{len(found)} readings of the memory in use on a card with no other process, measured before the rules were"
    yield "written. The graph is by our own rules. Convolution workspace in closed form, as without any cuDNN:"
    yield ""
    yield from _summary(found)
    yield "With the answers of cuDNN 9.19, asked without a GPU (`pip install 'vramplan[cudnn]'`):"
    yield ""
    yield from _summary(by_cudnn)
    yield "Row by row, in closed form:"
    yield ""


def _summary(found: Sequence[Row]) -> Iterator[str]:
    yield "| after | median error | worst error | within 3 % | under by more than 3 % |"
    yield "|---|---:|---:|---:|---:|"
    for stage, column in STAGES.items():
        errors = [row.error(stage) for row in found]
        sizes = sorted(map(abs, errors))
        near, under = sum(size <= 0.03 for size in sizes), sum(error < -0.03 for error in errors)
        shown = "session" if stage == "session" else f"run {column[-1]}"
        yield f"| {shown} | {median(sizes):.1%} | {sizes[-1]:.1%} | {near} of {len(sizes)} | {under} |"
    yield ""
    right = sum(row.is_growth_right for row in found)
    inside = sum(row.is_inside for row in found)
    yield f"Whether run 2 takes more than run 1 is right in {right} of {len(found)} rows. The reading after run 4 lies in our"
    yield f"range in {inside} of {len(found)}."
    yield ""


def _table(found: Sequence[Row]) -> Iterator[str]:
    yield "| model | session options | session | run 1 | run 2 | run 4 | measured, run 4 | range | growth |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    for row in found:
        errors = " | ".join(f"{row.error(stage):+.1%}" for stage in STAGES)
        limits = f"{row.low / MIB:.0f}–{row.high / MIB:.0f}{'' if row.is_inside else ' ✗'}"
        growth = "right" if row.is_growth_right else "wrong"
        yield f"| {row.name} | {row.options} | {errors} | {row.measured['steady'] / MIB:.0f} MiB | {limits} | {growth} |"


def _tail() -> Iterator[str]:
    yield from """
## What is fitted, and what is not

- Not fitted: where nodes run, which results share buffers, the block of the memory pattern, the arena's regions, the 256 B
  and 2 MiB roundings. They are replayed from ONNX Runtime's published rules, and compared with what it wrote down itself:
  for the guided models the nodes on the GPU, their order and the bytes that each allocates are those of its own statistics
  (all but 7 nodes of T5, and 15 of Swin with fixed shapes, which come in another order), and where the arena grows by request,
  its regions are mostly those of its log, one by one.
- Measured: the context, which is what processes of guided models took beside their arenas (668 MiB with 10.8 for the card,
  10 more under EXHAUSTIVE).
- Fitted on the readings of a whole card, for the closed form only: under EXHAUSTIVE a convolution that copies anything
  copies input, weight and output. cuDNN itself is asked for its heuristic mode B.

## What is wrong in the rest

- **The order of initializers** is that of a hash table and differs from process to process. With tensors of very different
  sizes (VGG-16, whose largest is 392 MiB) the arena after them can be anything between 0.7 and 1.2 GiB, and which holes are
  left decides whether a later request needs a region more. Low and high say so; nominal is the order with the median arena.
- **A region more or less.** With the default arena a few MiB decide whether a region is taken, and a region can be as large
  as all before it: the large errors above are one such step. A scratch request that cuDNN answers some bytes differently,
  or a block of the memory pattern that fits a hole or does not, is enough.
- **`use_tf32=0`** rules out tensor cores for half precision too. cuDNN is asked for the kernels that are left; which of them
  it would take on the device, it knows less well.
- **`prefer_nhwc`** copies the weights of convolutions; which holes that leaves depends on the order again, and results
  beside convolutions may be transposed. A file with open sides is taken not to change.
""".rstrip().splitlines()


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed page")
    parser.add_argument("--cudnn", type=Path, metavar="DIR", help="predict again with the cuDNN of this site-packages/nvidia")
    arguments = parser.parse_args()
    if arguments.cudnn:
        write_by_cudnn(arguments.cudnn)
    text = page(rows())
    if arguments.check:
        return 0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
