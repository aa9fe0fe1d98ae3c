"""A measurement that did not happen: a child that says what a real one said, and what a driver would show meanwhile."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from tests.device_fakes import H200_IDLE, FakeProbe, with_used
from vramplan.device.measurement import Latency, Measurement, Outcome, PhaseReading
from vramplan.device.probe import Memory

MIB = 1 << 20

SPEAK = """
import json, sys
request = json.loads(sys.stdin.readline())
for message in json.loads(sys.argv[1]):
    print(json.dumps(message), flush=True)
    if message.get("wait"):
        sys.stdin.readline()
"""

NOTHING = dict.fromkeys(
    (
        "requested_bytes",
        "allocated_bytes",
        "reserved_bytes",
        "requested_peak_bytes",
        "allocated_peak_bytes",
        "reserved_peak_bytes",
    ),
    0,
) | {"retry_count": 0, "device_alloc_count": 0}


def counters(mib: int) -> dict[str, int]:
    """Counters of an allocator that holds, and held at most, *mib* MiB in all three senses."""
    return {name: mib * MIB if name.endswith("_bytes") else 0 for name in NOTHING}


def speaking(messages: list[dict[str, Any]]) -> list[str]:
    """The command of a child that reports *messages*, whatever it is asked."""
    return [sys.executable, "-c", SPEAK, json.dumps(messages)]


STEPS = [
    {"step": "init", "counters": counters(0), "wait": True},
    {"step": "first_kernel", "counters": counters(2), "wait": True},
    {"phase": "weights", "counters": counters(20), "wait": True},
    {"phase": "load", "counters": counters(40), "wait": True},
    {"step": "first_convolution", "where": "stem.conv", "counters": counters(80), "wait": True},
    {"phase": "first_run", "counters": counters(100), "wait": True},
    {"phase": "steady", "counters": counters(120), "wait": True},
]
"""What a child reports that loads 20 MiB of weights and 20 of inputs, and reserves 120 in the end."""

USED_MIB = (0, 500, 600, 618, 638, 688, 708, 728)
"""What the driver shows before it, and at each of its reports."""

TOLD = [
    {"model": {"name": "net", "batch": 4, "notes": ["runs the code of net.py"]}},
    *STEPS,
    {"environment": {"gpu": "NVIDIA H200", "torch": "2.11.0", "cudnn": "91900"}},
    {"latency": {"median_ms": 5.0, "low_ms": 4.0, "high_ms": 9.0, "runs": 50}, "device_alloc_count": 0},
    {"done": True},
]


def used(*mib: int, base_mib: int = 0) -> list[Memory]:
    """Readings of an H200 with so many MiB in use."""
    return [with_used(H200_IDLE, (base_mib + each) * MIB) for each in mib]


def probe(**answers: Any) -> FakeProbe:
    """A probe that sees what `TOLD` causes."""
    return FakeProbe(**{"memory": used(*USED_MIB), **answers})


def reading(mib: int, *, context_mib: int = 600) -> PhaseReading:
    """A phase that holds *mib* MiB."""
    return PhaseReading(process_bytes=(mib + context_mib) * MIB, **counters(mib))


def measurement(**changes: Any) -> Measurement:
    """A finished measurement of 40 MiB loaded and 100 to 120 MiB at the peaks, in a context of 600 MiB."""
    made = Measurement(
        model="net",
        runtime="torch",
        precision="fp16",
        batch=4,
        memory_format="contiguous",
        outcome=Outcome.FINISHED,
        failure="",
        environment={"gpu": "NVIDIA H200", "driver": "580.159.04", "torch": "2.11.0", "date": "2026-11-25"},
        phases={"weights": reading(20), "load": reading(40), "first_run": reading(100), "steady": reading(120)},
        steps=(),
        latency=Latency(median_ms=5.0, low_ms=4.0, high_ms=9.0, run_count=50, batch=4),
        limit_bytes=1 << 37,
        others=(),
        notes=(),
    )
    return replace(made, **changes)
