"""Measure a model on this machine's GPU, without harm: estimate, guard, lock, a child process, readings.

The estimate comes first because a measurement that cannot fit is refused before it starts; the child is capped besides.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vramplan.choosing import find_runtime
from vramplan.device.lock import gpu_lock
from vramplan.device.measurement import Measurement
from vramplan.device.nvml import open_probe
from vramplan.device.probe import Device, Probe
from vramplan.device.run import Request, run_child
from vramplan.device.this_gpu import gpu_of, visible_device
from vramplan.errors import MeasurementError, UsageError, printable
from vramplan.estimate import estimate
from vramplan.folders import cache_folder
from vramplan.gpus import Gpu
from vramplan.graph import Tensor
from vramplan.result import Estimate
from vramplan.runtimes.onnxruntime.options import parse_session_options
from vramplan.sources import open_model
from vramplan.sources.recording import read_recording, write_recording
from vramplan.sources.torch_spec import require_torch
from vramplan.units import format_bytes

TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The GPU to measure on: the way to ask it, which one it is, and what the catalogue knows of it."""

    probe: Probe
    device: Device
    gpu: Gpu


def open_machine(*, gpu_index: int | None = None, probe: Probe | None = None) -> Machine:
    """The GPU of this machine: number *gpu_index* as nvidia-smi counts, else the first that CUDA_VISIBLE_DEVICES leaves.

    Raises `MachineError` when there is no driver or GPU, `UsageError` for a number that is none.
    """
    probe = probe or open_probe()
    device = visible_device(probe, os.environ, index=gpu_index)
    return Machine(probe=probe, device=device, gpu=gpu_of(probe, device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One thing to measure: a model by its name or specification, at one batch, precision and layout."""

    model: str
    batch: int | None = None
    precision: str = "as-is"
    memory_format: str = "contiguous"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    allow_pickle: bool = False
    runtime: str = "torch"
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str],
        *,
        runtime: str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None,
        dims: Mapping[str, int] | None,
        options: Mapping[str, str] | None = None,
        **others: Any,
    ) -> Cell:
        """Of the arguments of `measure`. `UsageError` for a module given as an object, and for what cannot be measured."""
        if not isinstance(model, str | os.PathLike):
            raise UsageError(
                "a module cannot be measured as an object: it runs in a process of its own", hint="Name it: file.py:factory"
            )
        name = os.fspath(model)
        chosen = measured_runtime(name, runtime)
        if chosen == "onnxruntime" and (others["precision"] != "as-is" or others["memory_format"] != "contiguous"):
            raise UsageError(
                "ONNX Runtime runs a file as it is",
                hint="Leave --precision and --memory-format out, or convert the file first.",
            )
        if chosen == "torch" and options:
            raise UsageError("runtime options are ONNX Runtime's", hint="Leave --runtime-option out.")
        if parse_session_options(options or {}).captures_graph:
            raise UsageError(
                "a CUDA graph cannot be measured: it takes inputs that are bound to the GPU",
                hint="Leave enable_cuda_graph out.",
            )
        return cls(model=name, runtime=chosen, shapes=shapes or {}, dims=dims or {}, options=options or {}, **others)

    def estimate(self, gpu: Gpu) -> Estimate:
        """What it is estimated to take on *gpu*."""
        others: dict[str, Any] = {"memory_format": self.memory_format, "allow_pickle": self.allow_pickle}
        if self.runtime == "onnxruntime":
            others = {"runtime_options": self.options}
        return estimate(
            self.model,
            batch=self.batch,
            precision=self.precision,
            runtime=self.runtime,
            gpu=gpu,
            shapes=self.shapes,
            dims=self.dims,
            **others,
        )

    def inputs(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """Name, element type and shape of each input of an ONNX file; none for PyTorch, which makes its own.

        Raises `UsageError` for a dimension that stays open, or an element type that cannot be made up.
        """
        if self.runtime != "onnxruntime":
            return ()
        graph = open_model(self.model).bind(batch=self.batch, shapes=self.shapes, dims=self.dims)
        return tuple(_input(graph.tensors[name]) for name in graph.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """How careful to be. ``limit_bytes`` caps the model below what is free; ``wait_s`` queues behind another measurement."""

    force: bool = False
    limit_bytes: int | None = None
    timeout_s: float = TIMEOUT_S
    wait_s: float = 0.0


def measure(
    model: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: str = "as-is",
    runtime: str | None = None,
    runtime_options: Mapping[str, str] | None = None,
    memory_format: str = "contiguous",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    allow_pickle: bool = False,
    gpu_index: int | None = None,
    force: bool = False,
    limit_bytes: int | None = None,
    timeout_s: float = TIMEOUT_S,
    wait_s: float = 0.0,
    probe: Probe | None = None,
) -> Measurement:
    """Run *model* on this machine's GPU in a process of its own, and read what it took.

    model        as for `estimate`, by name: a zoo model, ``file.py:factory``, ``package.module:factory``, ``.pt2``,
                 TorchScript; the model's code runs. An ``.onnx`` file runs in ONNX Runtime
    runtime_options   options of ONNX Runtime's session and CUDA provider
    gpu_index    which GPU, as nvidia-smi counts; None: the first that is visible
    force        measure although the estimate does not fit into what is free
    limit_bytes  what the model's allocator may reserve at most; None: all that is free
    timeout_s    seconds after which it is ended
    wait_s       seconds to wait for another measurement on the same GPU

    Raises `UsageError`, `ModelError`, `MachineError` (no GPU, no CUDA build), `MeasurementError` (refused, crashed, too slow).
    """
    cell = Cell.of(
        model,
        runtime=runtime,
        options=runtime_options,
        batch=batch,
        precision=precision,
        memory_format=memory_format,
        shapes=shapes,
        dims=dims,
        allow_pickle=allow_pickle,
    )
    machine = open_machine(gpu_index=gpu_index, probe=probe)
    guard = Guard(force=force, limit_bytes=limit_bytes, timeout_s=timeout_s, wait_s=wait_s)
    return measure_cell(cell, machine, guard, expected=cell.estimate(machine.gpu))


def measured_runtime(model: str, runtime: str | None) -> str:
    """What runs *model*: ONNX Runtime for an ``.onnx`` file, else PyTorch.

    Raises `UsageError` for what cannot be measured, `MachineError` when PyTorch is needed and not installed.
    """
    is_file = Path(model).suffix.lower() == ".onnx"
    chosen = runtime or ("onnxruntime" if is_file else "torch")
    if chosen == "tensorrt":
        raise UsageError("TensorRT engines cannot be measured yet", hint="Leave --runtime out.")
    if chosen == "onnxruntime" and not is_file:
        raise UsageError("ONNX Runtime runs .onnx files with their weights", hint="Name such a file, or use --runtime torch.")
    if chosen != "onnxruntime":
        find_runtime(model, chosen)
        require_torch()
    return chosen


def _input(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    if tensor.shape is None or tensor.dtype.value not in MADE_UP:
        raise UsageError(
            f"input {printable(tensor.name)[:80]!r} cannot be made up: its shape or element type is not known",
            hint="Measuring takes inputs of numbers; give open shapes with --shape.",
        )
    return tensor.name, tensor.dtype.value, tensor.shape


MADE_UP = frozenset({"float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"})
"""Element types that have a name in NumPy."""


def measure_cell(
    cell: Cell,
    machine: Machine,
    guard: Guard,
    *,
    expected: Estimate,
    record_path: Path | None = None,
    is_timed: bool = True,
) -> Measurement:
    """Measure one cell under *guard*; *expected* is its estimate, which decides whether it may start."""
    with gpu_lock(cache_folder() / "locks", machine.device.uuid, wait_s=guard.wait_s):
        free_bytes = machine.probe.memory(machine.device).free_bytes
        if guard.limit_bytes is not None:
            free_bytes = min(free_bytes, guard.limit_bytes)
        if not guard.force:
            _check_fits(expected, free_bytes, machine)
        request = Request(
            model=cell.model,
            runtime=cell.runtime,
            inputs=cell.inputs(),
            options=cell.options,
            batch=cell.batch,
            precision=cell.precision,
            memory_format=cell.memory_format,
            shapes=cell.shapes,
            dims=cell.dims,
            allow_pickle=cell.allow_pickle,
            limit_bytes=max(free_bytes - expected.budget.context_bytes, 1),
            is_timed=is_timed,
            record_path=record_path,
        )
        return run_child(request, probe=machine.probe, device=machine.device, timeout_s=guard.timeout_s)


def record_cell(
    cell: Cell,
    machine: Machine,
    guard: Guard,
    path: Path,
    *,
    expected: Estimate,
    force: bool = False,
    is_timed: bool = True,
) -> tuple[Measurement, bool]:
    """Measure one cell and record it to *path*; whether it was recorded (the measurement's notes say why not).

    The recording knows the context of the process that was measured.
    """
    with tempfile.TemporaryDirectory(prefix="vramplan-") as folder:
        scratch = Path(folder) / "recording.json.gz"
        measurement = measure_cell(cell, machine, guard, expected=expected, record_path=scratch, is_timed=is_timed)
        if not scratch.exists():
            return measurement, False
        recording = read_recording(scratch)
    told = {**recording.environment, "context_bytes": str(measurement.context_bytes)}
    write_recording(path, replace(recording, environment=told), force=force)
    return measurement, True


def _check_fits(expected: Estimate, free_bytes: int, machine: Machine) -> None:
    if expected.total_bytes <= free_bytes:
        return
    raise MeasurementError(
        f"not started: it is estimated to take {format_bytes(expected.total_bytes)}, and {format_bytes(free_bytes)} of"
        f" {machine.device.name} are free",
        hint="End what holds the rest (`vramplan doctor` lists it), take a smaller batch, or add --force: it is capped anyway.",
    )
