"""The fitted constants of the capacity model, read from ``constants.toml``, where each has its provenance."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vramplan.capacity.span import Span
from vramplan.ranges import Evidence

FITTED = ("cycles_per_launch", "efficiency_16", "efficiency_32", "efficiency_8", "bandwidth_efficiency")
"""The constants of the latency, in the order of the fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What is fitted or collected, and not read from a catalogue.

    cycles_per_launch      GPU clocks that a launch costs before it moves or computes anything
    efficiency_16          share of the dense peak that 16-bit kernels of a detector reach
    efficiency_32          the same for 32-bit kernels, against the TF32 or FP32 peak
    efficiency_8           the same for 8-bit engines, whose other kernels stay at 16 bits
    bandwidth_efficiency   share of the memory bandwidth that they reach
    engine                 published speed over the speed that follows from the five constants above
    pipeline               speed of a whole pipeline over the speed of its engine alone
    decoder                published decode rate over the rate that follows from NVIDIA's note and the clock
    pcie                   share of the link's raw rate that copies reach

    Invariant: the first five numbers are positive.
    """

    cycles_per_launch: float
    efficiency_16: float
    efficiency_32: float
    efficiency_8: float
    bandwidth_efficiency: float
    engine: Span
    pipeline: Span
    decoder: Span
    pcie: Span

    def efficiency(self, arithmetic: str) -> float:
        """The share of the peak for ``fp32``, ``fp16``, ``bf16``, ``fp8`` or ``int8``."""
        if arithmetic == "fp32":
            return self.efficiency_32
        return self.efficiency_8 if arithmetic in {"int8", "fp8"} else self.efficiency_16

    def __post_init__(self) -> None:
        fitted = (self.cycles_per_launch, self.efficiency_16, self.efficiency_32, self.efficiency_8, self.bandwidth_efficiency)
        if min(fitted) <= 0:
            raise ValueError(f"constants must be positive: {self}")


@functools.cache
def constants() -> Constants:
    """The constants as shipped."""
    table = tomllib.loads(Path(__file__).with_name("constants.toml").read_text(encoding="utf-8"))
    latency = {name: float(table["latency"][name]) for name in FITTED}
    return Constants(
        cycles_per_launch=latency["cycles_per_launch"],
        efficiency_16=latency["efficiency_16"],
        efficiency_32=latency["efficiency_32"],
        efficiency_8=latency["efficiency_8"],
        bandwidth_efficiency=latency["bandwidth_efficiency"],
        engine=_span(table["engine"]),
        pipeline=_span(table["pipeline"]),
        decoder=_span(table["decoder"]),
        pcie=_span(table["pcie"]),
    )


def _span(row: Mapping[str, object]) -> Span:
    low, nominal, high = (float(str(row[name])) for name in ("low", "nominal", "high"))
    return Span(low=low, nominal=nominal, high=high, evidence=Evidence.BOUNDED, sources=(str(row["source"]),))
