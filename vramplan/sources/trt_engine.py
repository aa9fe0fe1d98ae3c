"""A built TensorRT engine, asked about itself.

Needs the ``tensorrt`` package of the version that built the engine, and a GPU it was built for. Deserialising an engine
loads code that NVIDIA's documentation says must be trusted: name only engines you built.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramplan.dtypes import DType, parse_dtype
from vramplan.errors import MachineError, ModelError, UsageError
from vramplan.units import KIB

MAX_HEADER_BYTES = 64 * KIB
"""Ultralytics puts its metadata before the engine: four bytes of length, then JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBinding:
    """An input or output of an engine, at the largest shape of its first profile."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    is_input: bool

    @property
    def size_bytes(self) -> int:
        """Packed size."""
        count = 1
        for dim in self.shape:
            count *= dim
        return self.dtype.storage_bytes(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What TensorRT says of an engine, in bytes. ``weights_bytes`` is None before TensorRT could tell (10.x)."""

    name: str
    sha256: str
    file_bytes: int
    weights_bytes: int | None
    context_bytes: int
    bindings: tuple[EngineBinding, ...]
    version: str


def read_engine(path: Path) -> EngineFacts:
    """Ask TensorRT about the engine at *path*. MachineError without the library, ModelError when it refuses the file."""
    trt = _library()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content[_header_bytes(content) :])
    if engine is None:
        raise ModelError(
            f"TensorRT {trt.__version__} refuses {str(path)!r}",
            hint="An engine runs only with the TensorRT version and on the kind of GPU it was built with.",
        )
    return EngineFacts(
        name=path.stem,
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        weights_bytes=_weights_bytes(trt, engine),
        context_bytes=int(getattr(engine, "device_memory_size_v2", None) or engine.device_memory_size),
        bindings=tuple(_binding(trt, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)),
        version=str(trt.__version__),
    )


def _library() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        raise MachineError(
            "reading a TensorRT engine needs the tensorrt package, and a GPU",
            hint="pip install tensorrt, or name the .onnx file the engine was built from.",
        ) from None


def _header_bytes(content: bytes) -> int:
    """The length of a JSON header before the engine; 0 when there is none."""
    length = int.from_bytes(content[:4], "little")
    if 0 < length <= min(MAX_HEADER_BYTES, len(content) - 4):
        try:
            json.loads(content[4 : 4 + length])
        except ValueError:
            return 0
        return 4 + length
    return 0


def _weights_bytes(trt: Any, engine: Any) -> int | None:
    statistic = getattr(getattr(trt, "EngineStat", None), "TOTAL_WEIGHTS_SIZE", None)
    return None if statistic is None else int(engine.get_engine_stat(statistic))


def _binding(trt: Any, engine: Any, name: str) -> EngineBinding:
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    shape = tuple(int(dim) for dim in engine.get_tensor_shape(name))
    if any(dim < 0 for dim in shape) and is_input:
        shape = tuple(int(dim) for dim in engine.get_tensor_profile_shape(name, 0)[2])
    if any(dim < 0 for dim in shape):
        context = engine.create_execution_context()
        for index in range(engine.num_io_tensors):
            other = engine.get_tensor_name(index)
            if engine.get_tensor_mode(other) == trt.TensorIOMode.INPUT:
                context.set_input_shape(other, engine.get_tensor_profile_shape(other, 0)[2])
        shape = tuple(max(int(dim), 0) for dim in context.get_tensor_shape(name))
    return EngineBinding(name=name, dtype=_dtype(engine.get_tensor_dtype(name)), shape=shape, is_input=is_input)


_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8_e4m3fn", "INT4": "int4", "FP4": "fp4"}


def _dtype(value: Any) -> DType:
    word = str(value).rpartition(".")[2]
    try:
        return parse_dtype(_TYPES.get(word, word))
    except UsageError:
        raise ModelError(f"the engine has a tensor of type {word[:40]!r}, which is not known") from None
