"""Convolution workspace against what PyTorch asked for on an H200, on the half the rules were fitted on and on the other.

    python benchmarks/conv_workspace.py [--nvidia SITE_PACKAGES/nvidia] [--misses]

The truth: ``tests/data/conv_workspace_h200.csv.gz`` (3,170 calls; see the README there). The halves are by a hash of the call,
so a call that was measured twice is in one of them. The closed form is always judged; cuDNN where its libraries are installed,
or at --nvidia. ``--misses`` prints the calls that are off by more than 512 bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vramplan.dtypes import DType
from vramplan.gpus.lookup import find_gpu
from vramplan.ranges import Range
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import ConvWorkspaces, conv_workspaces
from vramplan.workspace.cudnn_libraries import installed_libraries, libraries_below

DATA = ROOT / "tests" / "data" / "conv_workspace_h200.csv.gz"
MIB = 1 << 20
KEY = ("dtype", "memory_format", "input_shape", "weight_shape", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured call; ``is_fit`` says which half it is in. Invariant: ``measured_bytes`` is not negative."""

    call: ConvCall
    measured_bytes: int
    is_fit: bool

    @property
    def is_spatial(self) -> bool:
        """Whether the kernel is larger than 1x1."""
        return any(side > 1 for side in self.call.weight_shape[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Shares of rows; Invariant: all are between 0 and 1."""

    rows: int
    spatial: float
    pointwise: float
    within_8_mib: float
    under: float
    inside: float


def rows() -> list[Row]:
    """All measured calls."""
    with gzip.open(DATA, "rt", encoding="utf-8", newline="") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> Row:
    sizes = {name: tuple(map(int, cells[name].split("x"))) for name in KEY[2:7]}
    call = ConvCall(
        **sizes,
        dtype=DType(cells["dtype"]),
        groups=int(cells["groups"]),
        channels_last=cells["memory_format"] == "channels_last",
    )
    digest = hashlib.sha256("|".join(cells[name] for name in KEY).encode()).hexdigest()
    return Row(call=call, measured_bytes=int(cells["workspace_bytes"]), is_fit=int(digest, 16) % 2 == 0)


def accuracy(found: Sequence[tuple[Row, Range]]) -> Accuracy:
    """How close the nominal bytes are, and how often the measured ones lie between low and high."""

    def share(holds: Callable[[Row, Range], bool], among: Sequence[tuple[Row, Range]] = found) -> float:
        return sum(holds(*pair) for pair in among) / max(1, len(among))

    spatial = [pair for pair in found if pair[0].is_spatial]
    pointwise = [pair for pair in found if not pair[0].is_spatial]
    return Accuracy(
        rows=len(found),
        spatial=share(_is_close, spatial),
        pointwise=share(_is_close, pointwise),
        within_8_mib=share(lambda row, size: abs(size.nominal_bytes - row.measured_bytes) <= 8 * MIB),
        under=share(lambda row, size: row.measured_bytes - size.nominal_bytes > max(MIB, 0.1 * row.measured_bytes)),
        inside=share(lambda row, size: size.low_bytes - 512 <= row.measured_bytes <= size.high_bytes + 512),
    )


def _is_close(row: Row, size: Range) -> bool:
    return abs(size.nominal_bytes - row.measured_bytes) <= 512


def judged(workspaces: ConvWorkspaces, measured: Sequence[Row]) -> list[tuple[Row, Range]]:
    """Each row beside the range for its call."""
    return list(zip(measured, workspaces.of_many([row.call for row in measured]), strict=True))


def print_table(title: str, found: Sequence[tuple[Row, Range]], *, misses: bool) -> None:
    """One line a half."""
    print(title)
    print(f"  {'half':8}{'calls':>6}{'k x k <= 512 B':>16}{'1x1 <= 512 B':>14}{'<= 8 MiB':>10}{'under':>8}{'in range':>10}")
    halves = {"fitted": [pair for pair in found if pair[0].is_fit], "judged": [pair for pair in found if not pair[0].is_fit]}
    for name, half in (*halves.items(), ("both", list(found))):
        share = accuracy(half)
        print(
            f"  {name:8}{share.rows:6}{share.spatial:16.1%}{share.pointwise:14.1%}{share.within_8_mib:10.2%}"
            f"{share.under:8.2%}{share.inside:10.1%}"
        )
    for row, size in found if misses else ():
        if not _is_close(row, size):
            print("  ", "fitted" if row.is_fit else "judged", row.measured_bytes, size.nominal_bytes, row.call)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvidia", type=Path, help="the folder site-packages/nvidia to load cuDNN from")
    parser.add_argument("--misses", action="store_true")
    options = parser.parse_args(arguments)
    gpu, measured = find_gpu("h200"), rows()
    closed = conv_workspaces(gpu, libraries=())
    print_table(closed.note, judged(closed, measured), misses=options.misses)
    libraries = libraries_below(options.nvidia) if options.nvidia else installed_libraries()
    if not libraries:
        print("cuDNN is not judged: its libraries are not installed (pip install 'vramplan[cudnn]').")
        return 0
    by_cudnn = conv_workspaces(gpu, libraries=libraries)
    found = judged(by_cudnn, measured)
    print_table(by_cudnn.note, found, misses=options.misses)
    print("Targets: k x k 97 %, 1x1 92 %, within 8 MiB 99.5 %, under-estimates by more than 10 % and 1 MiB at most 1 %.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
