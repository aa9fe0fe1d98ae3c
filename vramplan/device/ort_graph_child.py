"""Lets ONNX Runtime optimise one hollow model on the CPU and write the graph down. Only ever a child process, with limits.

A build for the CPU is enough: what fuses for the CUDA provider fuses for the CPU's too, apart from what is switched off here.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

from vramplan.device.inside import Line, serve
from vramplan.errors import MachineError, MeasurementError, ModelError

MODEL, RESULT, WEIGHTS = "model.onnx", "optimised.onnx", "weights"
"""Files of the folder that the parent names. Weights lead nowhere: all of them are zeros."""

CPU_ONLY = ("ConvActivationFusion", "ConvAddActivationFusion", "GemmActivationFusion", "MatMulActivationFusion")
"""Fusions that graph_transformer_utils.cc makes for the CPU provider and not for CUDA's."""

_MEMORY_BYTES = 8 << 30
_FILE_BYTES = 256 << 20
_LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC"}
"""The extended level is the highest: the next one only arranges data for the CPU."""


def work(request: dict[str, Any], line: Line) -> None:
    """One session, which writes its graph when it is made and runs nothing."""
    _limit(int(request["time_s"]))
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MachineError(f"ONNX Runtime cannot be imported: {error}") from None
    folder = Path(request["folder"])
    options = onnxruntime.SessionOptions()
    level = _LEVELS.get(request["level"], "ORT_ENABLE_EXTENDED")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / RESULT)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", WEIGHTS),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.disable_prepacking", "1"),
        ("session.disable_quant_qdq", "1"),
    ):
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(CPU_ONLY)
        )
    except Exception as error:
        kind = ModelError if "Load model from" in str(error) else MeasurementError
        raise kind(" ".join(str(error).split())[:2000]) from None
    line.tell(version=str(onnxruntime.__version__))


def _limit(time_s: int) -> None:
    """Memory, processor time and the size of files, where the system knows limits."""
    with contextlib.suppress(ImportError):
        import resource  # noqa: PLC0415  not on every system

        for kind, most in (
            (resource.RLIMIT_AS, _MEMORY_BYTES),
            (resource.RLIMIT_CPU, time_s),
            (resource.RLIMIT_FSIZE, _FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            with contextlib.suppress(OSError, ValueError):  # a lower limit may hold already
                resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=lambda error: isinstance(error, MemoryError))
