"""Memory over the run in one line of text: how much is alive, from the loaded model to the end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vramplan.result import Estimate
from vramplan.units import format_bytes

LEVELS = "▁▂▃▄▅▆▇█"
FEWEST_COLUMNS, MOST_COLUMNS = 16, 60


def sparkline(sizes: Sequence[int], width: int) -> str:
    """*sizes* in at most *width* characters: of each stretch the highest, against the highest of all."""
    most = max(sizes, default=0)
    if most <= 0:
        return ""
    count = min(width, len(sizes))
    edges = [len(sizes) * column // count for column in range(count + 1)]
    tops = (max(sizes[start:stop]) for start, stop in pairwise(edges))
    return "".join(LEVELS[min(top * len(LEVELS) // most, len(LEVELS) - 1)] for top in tops)


def live_line(cell: Estimate, width: int) -> tuple[str, str, str] | None:
    """A label, the line, and what its top is, together at most *width* columns; None where there is nothing to draw.

    Loading is left out where something runs after it: the line is about the run.
    """
    program = cell.program
    start = program.phases[0].stop if len(program.phases) > 1 else 0
    sizes = list(program.live_bytes())[start:]
    if not sizes:
        return None
    op_index = program.events[start + sizes.index(max(sizes))].op_index
    label, note = "alive  ", f"  peak {format_bytes(max(sizes))} in op {op_index} of {len(program.ops) - 1}"
    room = min(MOST_COLUMNS, width - len(label) - len(note))
    line = sparkline(sizes, room) if room >= FEWEST_COLUMNS else ""
    return (label, line, note) if len(line) >= FEWEST_COLUMNS else None
