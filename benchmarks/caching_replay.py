"""Events a second of the caching allocator, replayed.

Run ``python benchmarks/caching_replay.py``. Best of five; nothing is asserted.
"""

from __future__ import annotations

import random
import time
from collections import deque

from vramplan.allocators.caching import CachingRules, replay
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role
from vramplan.units import MIB

EVENTS = 300_000
RUNS = 5


def forwards() -> MemoryProgram:
    """Like a network: 200 weights, then activations of a few sizes that are freed three steps later."""
    builder = ProgramBuilder()
    for index in range(200):
        builder.hold(Buffer(name="weight", role=Role.WEIGHT, size_bytes=4096 << index % 12))
    builder.phase("load")
    live: deque[int] = deque()
    for index in range((EVENTS - 200) // 2):
        live.append(builder.hold(Buffer(name="map", role=Role.ACTIVATION, size_bytes=50_000 * (1 + index % 40))))
        if len(live) > 3:
            builder.free(live.popleft())
    builder.phase("run")
    return builder.build()


def fragments(live_count: int = 2000) -> MemoryProgram:
    """The hard case: thousands of live buffers of any size, freed in any order."""
    chance, builder, live = random.Random(7), ProgramBuilder(), []
    for index in range(EVENTS):
        if len(live) < live_count or (index % 2 == 0):
            size = chance.randrange(1, MIB if chance.random() < 0.7 else 40 * MIB)
            live.append(builder.hold(Buffer(name="any", role=Role.ACTIVATION, size_bytes=size)))
        else:
            place = chance.randrange(len(live))
            live[place], live[-1] = live[-1], live[place]
            builder.free(live.pop())
    builder.phase("run")
    return builder.build()


def main() -> None:
    """Print a line a program."""
    cases = {"forwards": (forwards(), CachingRules()), "fragments": (fragments(), CachingRules())}
    cases["fragments, max_split"] = (cases["fragments"][0], CachingRules(max_split_bytes=32 * MIB))
    for name, (program, rules) in cases.items():
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            replay(program, rules)
            seconds.append(time.perf_counter() - start)
        best = min(seconds)
        print(f"{name:22} {len(program.events):>8,} events {best:6.2f} s {len(program.events) / best:>10,.0f} events/s")


if __name__ == "__main__":
    main()
