"""The PCIe link of a card: bytes a second by generation and lanes."""

from __future__ import annotations

LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""Raw rate of one lane and direction by PCIe generation, encoding taken off (PCI-SIG): 16 lanes of generation 4 are 31.5."""


def link_bytes_per_s(generation: int | None, lane_count: int | None) -> int | None:
    """What the link carries in one direction; None where the generation or the lanes are not known."""
    if generation not in LANE_GB_S or not lane_count:
        return None
    return round(LANE_GB_S[generation] * lane_count * 1e9)
