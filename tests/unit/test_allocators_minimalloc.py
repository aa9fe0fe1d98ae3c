"""The benchmark instances of google/minimalloc: hard to pack, each known to fit its capacity."""

import runpy
from pathlib import Path

import pytest

from vramplan.allocators.blocks import assign_blocks
from vramplan.allocators.live import largest_live_set
from vramplan.allocators.offsets import assign_offsets
from vramplan.allocators.validation import find_blocks_fault, find_placement_fault

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "minimalloc"
INSTANCES = sorted((BENCHMARK / "instances").glob("*.csv"))
SCRIPT = runpy.run_path(str(BENCHMARK / "run.py"))


def test_all_eleven_instances_are_there():
    assert [path.name[0] for path in INSTANCES] == list("ABCDEFGHIJK")


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.stem)
def test_placements_are_valid_and_bounded(path):
    requests = SCRIPT["read_instance"](path)
    bound = largest_live_set(requests)
    placement, blocks = assign_offsets(requests), assign_blocks(requests, alignment=1)
    assert find_placement_fault(requests, placement) == ""
    assert find_blocks_fault(requests, blocks) == ""
    assert bound <= SCRIPT["capacity_of"](path)
    assert bound <= placement.total_bytes <= blocks.total_bytes <= sum(size for size, _ in requests)


def test_the_script_prints_a_row_an_instance(capsys):
    SCRIPT["main"]([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["instance", *(path.name for path in INSTANCES)]
    assert all(line.endswith("valid") for line in lines[1:])
