"""Runs an ONNX file in ONNX Runtime's CUDA provider and tells its parent when to look. Only ever a child process.

It imports no PyTorch, which would bring a context and libraries of its own. ONNX Runtime's allocator has no counters that a
program can read, so the driver's reading at each barrier is all there is: after the session, the first, the second and the
fourth run. A memory pattern allocates on the second.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

from vramplan.device.inside import Line, serve
from vramplan.errors import MachineError, ModelError

_PROVIDER = "CUDAExecutionProvider"
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
