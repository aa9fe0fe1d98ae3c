"""Runs an ONNX file in ONNX Runtime's CUDA provider and tells its parent when to look. Only ever a child process.

It imports no PyTorch, which would bring a context and libraries of its own. ONNX Runtime's allocator has no counters that a
program can read, so the driver's reading at each barrier is all there is: after the session, the first, the second and the
fourth run. A memory pattern allocates on the second. What single nodes ask for is told by statistics of ONNX Runtime, which
another session keeps after all else.
"""

from __future__ import annotations

import importlib
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vramplan.device.inside import Line, serve
from vramplan.errors import MachineError, ModelError

STATISTICS = "session.collect_node_memory_stats_to_file"
"""A session's option: onnxruntime_session_options_config_keys.h."""

_PROVIDER = "CUDAExecutionProvider"
_ROWS, _NAME_CHARS = 500, 1000
"""Of one report, which has a limit."""
_WARM_UP_COUNT, _TIMED_COUNT, _TIMED_S = 3, 50, 3.0


def work(request: dict[str, Any], line: Line) -> None:
    """Everything, in order."""
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        raise MachineError("ONNX Runtime is not installed", hint="Type: pip install onnxruntime-gpu") from None
    provider = request["provider"]
    if provider not in onnxruntime.get_available_providers():
        raise MachineError(
            f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider",
            hint="Type: pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )
    line.tell(model={"name": request["name"], "batch": request["batch"], "notes": []})
    line.tell(environment=environment(onnxruntime))
    feeds = inputs(request["inputs"])
    tell_phases(onnxruntime, request, feeds, line)
    tell_nodes(onnxruntime, request, feeds, line)


def tell_phases(onnxruntime: Any, request: Mapping[str, Any], feeds: Mapping[str, Any], line: Line) -> None:
    """A session and its runs, with a barrier after each phase; nothing of it is left afterwards."""
    provider = request["provider"]
    session = open_session(onnxruntime, request)
    if provider not in session.get_providers():
        raise MachineError("ONNX Runtime could not start its CUDA provider", hint="`vramplan doctor` says what is missing.")
    line.pause(phase="session", counters={})
    for phase, count in (("run1", 1), ("run2", 1), ("steady", 2)):
        for _ in range(count):
            session.run(None, feeds)
        line.pause(phase=phase, counters={})
    if request["is_timed"]:
        line.tell(latency=latency(lambda: session.run(None, feeds)), device_alloc_count=0)


def tell_nodes(onnxruntime: Any, request: Mapping[str, Any], feeds: Mapping[str, Any], line: Line) -> None:
    """What each node asks for, by ONNX Runtime's statistics, in a session of its own: they are kept without a pattern only."""
    with tempfile.TemporaryDirectory(prefix="vramplan-") as folder:
        path = Path(folder) / "nodes.csv"
        asked = {**request["options"], "enable_mem_pattern": "0", STATISTICS: str(path)}
        try:
            session = open_session(onnxruntime, {**request, "options": asked})
            session.run(None, feeds)
            del session  # which writes the file
            rows = list(statistics_of(path.read_text(encoding="utf-8", errors="replace")))
        except Exception as error:  # statistics are a bonus: the measurement is made
            line.tell(note=f"no statistics of nodes: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return
    for start in range(0, len(rows), _ROWS):
        line.tell(nodes=rows[start : start + _ROWS])


def statistics_of(text: str) -> Iterator[list[Any]]:
    """Name, and bytes of inputs, initializers, results and scratch, of each node. Names may contain commas, and end in a number
    that ONNX Runtime adds.
    """
    for row in text.splitlines():
        name, *sizes = row.rsplit(",", 4)
        if len(sizes) == 4 and all(size.isdecimal() for size in sizes):
            yield [re.sub(r"_\d+$", "", name)[:_NAME_CHARS], *map(int, sizes)]


def open_session(onnxruntime: Any, request: Mapping[str, Any]) -> Any:
    """The session on the one visible GPU, under the options that were asked for and a limit for its arena."""
    options, asked = onnxruntime.SessionOptions(), dict(request["options"])
    options.enable_mem_pattern = asked.pop("enable_mem_pattern", "1") == "1"
    level = asked.pop("graph_optimization_level", None)
    if level is not None:
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level.upper()}")
    for name in [name for name in asked if name.startswith("session.")]:
        options.add_session_config_entry(name, asked.pop(name))
    provider: Any = request["provider"]
    if provider == _PROVIDER:
        provider = (provider, {"gpu_mem_limit": str(request["limit_bytes"]), **asked})
    try:
        return onnxruntime.InferenceSession(request["model"], options, providers=[provider])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"ONNX Runtime refuses the model: {' '.join(str(error).split())[:400]}") from None


def inputs(described: list[list[Any]]) -> dict[str, Any]:
    """Values for (name, element type, shape): of a picture for floats, zeros for indices."""
    import numpy  # noqa: PLC0415  a package of the runtime too

    generator = numpy.random.default_rng(0)
    made = {}
    for name, dtype, shape in described:
        is_float = dtype.startswith("float")
        made[name] = generator.random(shape).astype(dtype) if is_float else numpy.zeros(shape, dtype=dtype)
    return made


def latency(run: Any) -> dict[str, float]:
    """Milliseconds of single runs by the host's clock, copies of inputs and outputs included."""
    for _ in range(_WARM_UP_COUNT):
        run()
    taken: list[float] = []
    end_s = time.monotonic() + _TIMED_S
    while len(taken) < _TIMED_COUNT and (time.monotonic() < end_s or not taken):
        start_s = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start_s))
    return {"median_ms": statistics.median(taken), "low_ms": min(taken), "high_ms": max(taken), "runs": len(taken)}


def environment(onnxruntime: Any) -> dict[str, str]:
    """What decides the numbers, by name."""
    return {
        "onnxruntime": str(onnxruntime.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether the arena or the device had no memory left, by what ONNX Runtime says."""
    text = str(error)
    return "Failed to allocate memory" in text or "out of memory" in text or "Available memory of" in text


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=is_out_of_memory)
