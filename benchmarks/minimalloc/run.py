"""Our allocators on the benchmark instances of google/minimalloc: ``python benchmarks/minimalloc/run.py [FILE.csv ...]``.

An instance is a CSV of buffers (name, first step, step after the last, size). The number in its name is the capacity that a
solution exists for, so the optimum lies between the live set and the capacity; most live sets are as large as the capacity.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.offsets import assign_offsets
from vramplan.allocators.placement import Request
from vramplan.allocators.validation import find_blocks_fault, find_placement_fault
from vramplan.program import Lifetime

INSTANCES = Path(__file__).parent / "instances"
Result = TypeVar("Result")


def read_instance(path: Path) -> list[Request]:
    """Read the buffers of an instance; their names are left behind."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [Request(int(size), Lifetime(int(lower), int(upper))) for _, lower, upper, size in rows]


def capacity_of(path: Path) -> int:
    """Read the capacity that a solution exists for: ``A.1048576.csv`` has one within 1,048,576."""
    return int(path.name.split(".")[1])


def timed(allocate: Callable[[], Result]) -> tuple[Result, float]:
    """Run *allocate*; answer its result and how many milliseconds it took."""
    started = time.perf_counter()
    result = allocate()
    return result, (time.perf_counter() - started) * 1000


def row(path: Path) -> str:
    """Place one instance in both ways, check both, and write the numbers down."""
    requests = read_instance(path)
    bound = largest_live_set(requests)
    placement, offsets_ms = timed(lambda: assign_offsets(requests))
    blocks, blocks_ms = timed(lambda: assign_blocks(requests, alignment=1))
    fault = find_placement_fault(requests, placement) or find_blocks_fault(requests, blocks)
    columns = [f"{path.name:<18}{len(requests):>8}{capacity_of(path):>10,}{bound:>12,}"]
    for total_bytes, elapsed_ms in ((placement.total_bytes, offsets_ms), (blocks.total_bytes, blocks_ms)):
        columns.append(f"{total_bytes:>12,}{(total_bytes - bound) / bound:>7.1%}{elapsed_ms:>6.1f}")
    return "".join(columns) + f"  {fault or 'valid'}"


def main(arguments: list[str]) -> None:
    """Print one row an instance."""
    print(f"{'instance':<18}{'buffers':>8}{'capacity':>10}{'live set':>12}", end="")
    print(f"{'offsets':>12}{'over':>7}{'ms':>6}{'blocks':>12}{'over':>7}{'ms':>6}")
    for path in [Path(argument) for argument in arguments] or sorted(INSTANCES.glob("*.csv")):
        print(row(path))


if __name__ == "__main__":
    main(sys.argv[1:])
