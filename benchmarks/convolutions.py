"""Convolution workspace against what PyTorch asked cuDNN for on an H200, by set of calls and by kind.

    python benchmarks/convolutions.py [--nvidia SITE_PACKAGES/nvidia] [--misses SET] [--write]

The truth: ``data/convolutions_h200/calls.csv.gz`` (see the README there). ``guided`` was looked at while rules were written and
grown; ``judged`` and ``apart`` only give scores. The closed form is always judged, cuDNN without a GPU where its libraries are
installed, or at --nvidia, and cuDNN on the device as it was recorded. ``--write`` writes ``scores.csv`` for the accuracy page.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vramplan.dtypes import DType
from vramplan.gpus.lookup import find_gpu
from vramplan.ranges import Range
from vramplan.workspace import cudnn_cache
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import CudnnFlags, conv_workspaces
from vramplan.workspace.cudnn_libraries import installed_libraries, libraries_below

FOLDER = ROOT / "benchmarks" / "data" / "convolutions_h200"
CALLS, SCORES = FOLDER / "calls.csv.gz", FOLDER / "scores.csv"
SETS = ("guided", "judged", "apart")
KINDS = ("all", "1x1", "k x k", "1x1, a product", "1x1, strided", "k x k, one group", "k x k, groups", "depthwise",
         "transposed", "1 dimension", "3 dimensions", "without TF32")  # fmt: skip
MIB = 1 << 20
CLOSE_BYTES = 512
_DTYPES = {"fp32": DType.FLOAT32, "fp16": DType.FLOAT16, "bf16": DType.BFLOAT16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured call that PyTorch gave to cuDNN.

    The last four are the answer of the device's own cuDNN: bytes, engine, knobs, and the bytes with WORKSPACE at 1.

    Invariant: sizes are not negative.
    """

    call: ConvCall
    set: str
    tf32: bool
    measured_bytes: int
    device_bytes: int
    engine: int
    knobs: dict[int, int]
    unshared_bytes: int | None

    @property
    def kinds(self) -> Iterator[str]:
        """Every kind that it belongs to."""
        yield "all"
        if not self.tf32:
            yield "without TF32"
            return
        is_spatial = any(side > 1 for side in self.call.weight_shape[2:])
        yield "k x k" if is_spatial else "1x1"
        yield self._kind(is_spatial=is_spatial)

    def _kind(self, *, is_spatial: bool) -> str:
        call = self.call
        if call.transposed:
            return "transposed"
        if len(call.stride) != 2:
            return "1 dimension" if len(call.stride) == 1 else "3 dimensions"
        if call.is_depthwise:
            return "depthwise"
        if not is_spatial:
            return "1x1, a product" if call.is_pointwise else "1x1, strided"
        return "k x k, one group" if call.groups == 1 else "k x k, groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Shares of calls; Invariant: all are between 0 and 1."""

    calls: int
    close: float
    within_8_mib: float
    under: float
    inside: float


def rows() -> list[Row]:
    """All calls of the recording that cuDNN ran."""
    with gzip.open(CALLS, "rt", encoding="utf-8", newline="") as file:
        return [_row(cells) for cells in csv.DictReader(file) if cells["device_bytes"]]


def _row(cells: Mapping[str, str]) -> Row:
    def sizes(name: str) -> tuple[int, ...]:
        return tuple(map(int, cells[name].split("x")))

    call = ConvCall(
        input_shape=sizes("input_shape"),
        weight_shape=sizes("weight_shape"),
        dtype=_DTYPES[cells["dtype"]],
        stride=sizes("stride"),
        padding=sizes("padding"),
        dilation=sizes("dilation"),
        groups=int(cells["groups"]),
        transposed=cells["transposed"] == "1",
        channels_last=cells["channels_last"] == "1",
    )
    return Row(
        call=call,
        set=cells["set"],
        tf32=cells["tf32"] == "1",
        measured_bytes=int(cells["workspace_bytes"]),
        device_bytes=int(cells["device_bytes"]),
        engine=int(cells["engine"]),
        knobs={int(kind): int(value) for kind, value in (pair.split(":") for pair in cells["knobs"].split())},
        unshared_bytes=int(cells["unshared_bytes"]) if cells["unshared_bytes"] else None,
    )


Pair = tuple[Row, Range]


def is_close(row: Row, size: Range) -> bool:
    """Right, but for the rounding of the allocator."""
    return abs(size.nominal_bytes - row.measured_bytes) <= CLOSE_BYTES


def score(found: Sequence[Pair]) -> Score:
    """How close the nominal bytes are, and how often the measured ones lie between low and high."""

    def share(holds: Callable[[Row, Range], bool]) -> float:
        return sum(holds(*pair) for pair in found) / max(1, len(found))

    return Score(
        calls=len(found),
        close=share(is_close),
        within_8_mib=share(lambda row, size: abs(size.nominal_bytes - row.measured_bytes) <= 8 * MIB),
        under=share(lambda row, size: row.measured_bytes - size.nominal_bytes > max(MIB, 0.1 * row.measured_bytes)),
        inside=share(lambda row, size: size.low_bytes - CLOSE_BYTES <= row.measured_bytes <= size.high_bytes + CLOSE_BYTES),
    )


def answered(measured: Sequence[Row], libraries: Sequence[str]) -> list[Pair]:
    """Each row beside the range for its call, by the libraries, or in closed form where there are none."""
    gpu = find_gpu("h200")
    ways = {tf32: conv_workspaces(gpu, libraries=libraries, flags=CudnnFlags(tf32=tf32)) for tf32 in (True, False)}
    found: dict[tuple[ConvCall, bool], Range] = {}
    for tf32, workspaces in ways.items():
        calls = [row.call for row in measured if row.tf32 == tf32]
        found |= {(call, tf32): size for call, size in zip(calls, workspaces.of_many(calls), strict=True)}
        workspaces.save()
    return [(row, found[row.call, row.tf32]) for row in measured]


def on_device(measured: Sequence[Row]) -> list[Pair]:
    """What the device's own cuDNN answered."""
    return [(row, Range.exact(row.device_bytes)) for row in measured]


def table(way: str, found: Sequence[Pair]) -> Iterator[dict[str, object]]:
    """One line a set and kind."""
    for name in SETS:
        for kind in KINDS:
            own = [pair for pair in found if pair[0].set == name and kind in pair[0].kinds]
            if own:
                line = score(own)
                yield {"way": way, "set": name, "kind": kind, "calls": line.calls} | {
                    column: f"{getattr(line, column):.5f}" for column in ("close", "within_8_mib", "under", "inside")
                }


def print_table(way: str, lines: Sequence[Mapping[str, object]]) -> None:
    """The lines of one way, for a person."""
    print(f"{way}\n  {'set':8}{'kind':18}{'calls':>7}{'<= 512 B':>10}{'<= 8 MiB':>10}{'under':>8}{'in range':>10}")
    for line in lines:
        shares = [100 * float(str(line[column])) for column in ("close", "within_8_mib", "under", "inside")]
        shown = f"{shares[0]:9.2f}%{shares[1]:9.2f}%{shares[2]:7.2f}%{shares[3]:9.2f}%"
        print(f"  {line['set']:8}{line['kind']:18}{line['calls']:7}{shown}")


def engines(measured: Sequence[Row]) -> Iterator[dict[str, object]]:
    """By engine, how often the device's own answer is what PyTorch requested."""
    for engine in sorted({row.engine for row in measured}):
        own = on_device([row for row in measured if row.engine == engine])
        yield {"way": "device", "set": "every", "kind": f"engine {engine}", "calls": len(own)} | {
            column: f"{getattr(score(own), column):.5f}" for column in ("close", "within_8_mib", "under", "inside")
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvidia", type=Path, help="the folder site-packages/nvidia to load cuDNN from")
    parser.add_argument("--misses", choices=("guided",), help="print the calls of a set that are off by more than 512 bytes")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    measured = rows()
    cudnn_cache._MOST_ENTRIES = 2 * len(measured)  # more than a user asks in a lifetime, so that a second run is quick
    libraries = libraries_below(options.nvidia) if options.nvidia else installed_libraries()
    found = {"device": on_device(measured), "closed": answered(measured, ())}
    if libraries:
        found["cudnn"] = answered(measured, libraries)
    lines = [line for way, pairs in found.items() for line in table(way, pairs)]
    for way in found:
        print_table(way, [line for line in lines if line["way"] == way])
    for row, size in found[list(found)[-1]] if options.misses else ():
        if row.set == options.misses and not is_close(row, size):
            print(row.engine, row.measured_bytes, size.nominal_bytes, row.call)
    if options.write:
        with SCORES.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows([*lines, *engines(measured)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
