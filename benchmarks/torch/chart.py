"""The picture of the accuracy page: predicted over measured against measured, one panel for us and for each peer.

Only drawing needs matplotlib. The points' digest stands in the picture, so that it can be checked without.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows import Row
from tables import MIB, NAMES

Points = list[tuple[float, float]]

RATIOS = (1 / 32, 32)
GRID = 50
"""Points closer than this part of a decade are one: the file stays small and looks the same."""

OURS, OTHERS = "#c1440e", "#7d8b99"
PANELS = {
    "cudnn": f"vramplan, {NAMES['cudnn']}",
    "closed": f"vramplan, {NAMES['closed']}",
    "mem_tracker": "torch MemTracker",
    "onnx_tool": "onnx-tool",
    "weights_and_a_fifth": "weights × 1.2",
    "two_largest": "weights + input + 2 × largest",
    "all_outputs": "weights + input + every output",
    "torchinfo_total": "torchinfo",
}


def points(rows: Sequence[Row]) -> dict[str, Points]:
    """Measured MiB and the ratio, by panel; ratios beyond the axis lie on its edge."""
    return {
        panel: sorted({_point(row, panel) for row in rows if panel in row.predicted or panel in row.peers}) for panel in PANELS
    }


def _point(row: Row, panel: str) -> tuple[float, float]:
    error = row.error(panel, "first_allocated") if panel in row.predicted else row.error_of(panel)
    ratio = min(max(1 + error, RATIOS[0]), RATIOS[1])
    return _rounded(row.real["first_allocated"] / MIB), _rounded(ratio)


def _rounded(value: float) -> float:
    return round(10 ** (round(GRID * math.log10(value)) / GRID), 6)


def digest(found: dict[str, Points]) -> str:
    """A name for exactly these points."""
    return "points " + hashlib.blake2b(json.dumps(found).encode(), digest_size=16).hexdigest()


def draw(found: dict[str, Points], path: Path) -> None:
    """Write the picture; the same points give the same bytes with the same matplotlib."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "vramplan", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure, axes = plt.subplots(2, 4, sharex=True, sharey=True, figsize=(11, 5.4), facecolor="white")
        figure.subplots_adjust(left=0.065, right=0.99, top=0.93, bottom=0.1, wspace=0.06, hspace=0.18)
        for axis, (panel, title) in zip(axes.flat, PANELS.items(), strict=True):
            _panel(axis, title, found[panel], is_ours=panel in NAMES)
        axes[0, 0].text(0.97, 0.06, "under-estimates", transform=axes[0, 0].transAxes, ha="right", fontsize=8, color="#7a6a5c")
        figure.supxlabel("measured peak of the first forward, MiB", fontsize=9, y=0.01)
        figure.supylabel("predicted / measured", fontsize=9, x=0.005)
        figure.savefig(path, metadata={"Date": None, "Description": digest(found)})
        plt.close(figure)


def _panel(axis: Any, title: str, found: Points, *, is_ours: bool) -> None:
    axis.set(xscale="log", yscale="log", ylim=(RATIOS[0] / 1.25, RATIOS[1] * 1.25))
    axis.axhline(1, color="#333333", linewidth=0.8, zorder=1)
    axis.axhspan(RATIOS[0] / 1.25, 1, color="#f3ece6", linewidth=0, zorder=0)
    measured, ratios = zip(*found, strict=True)
    axis.scatter(measured, ratios, s=9 if is_ours else 6, color=OURS if is_ours else OTHERS, alpha=0.6, linewidths=0, zorder=2)
    axis.set_title(title, fontsize=9.5, color=OURS if is_ours else "#333333", fontweight="bold" if is_ours else "normal")
    axis.set_yticks([1 / 32, 1 / 8, 1 / 2, 1, 2, 8, 32], ["1/32", "1/8", "1/2", "1", "2", "8", "32"])
    axis.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axis.minorticks_off()
    axis.tick_params(length=2, labelsize=8)
    axis.grid(color="#dddddd", linewidth=0.5, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
