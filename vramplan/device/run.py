"""Runs a model in a child process and reads the driver at every barrier: from a request to a `Measurement`."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vramplan.allocators.caching_conf import VARIABLES
from vramplan.device.child import Child, Message, OutOfMemoryResult, child_environment, module_command
from vramplan.device.measurement import ContextStep, Latency, Measurement, NodeReading, Outcome, PhaseReading
from vramplan.device.probe import Device, GpuProcess, Probe
from vramplan.errors import MeasurementError, printable
from vramplan.progress import tell, tell_detail

CHILDREN = {"torch": "vramplan.device.torch_child", "onnxruntime": "vramplan.device.ort_child"}
"""The program of the child process, by runtime."""

CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run. ``record_path`` is where the child writes a recording, or None; ``limit_bytes`` caps its allocator.

    ``inputs`` (name, element type, shape) and ``options`` are ONNX Runtime's; PyTorch makes its own inputs.
    """

    model: str
    runtime: str = "torch"
    batch: int | None
    precision: str
    memory_format: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    allow_pickle: bool = False
    limit_bytes: int
    is_timed: bool = True
    record_path: Path | None = None
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


def run_child(
    request: Request, *, probe: Probe, device: Device, timeout_s: float, command: Sequence[str] | None = None
) -> Measurement:
    """Run *request* on *device*; nothing of it is left when this returns or raises.

    Raises `MeasurementError` for a child that crashes, hangs or does not answer, and the child's own errors: `UsageError`,
    `ModelError`, `MachineError`. Running out of memory is the measurement's outcome.
    """
    tell(f"measuring {printable(Path(request.model).stem)}" + (f", batch {request.batch}" if request.batch else ""))
    run = _Run(request, probe, device)
    environment = child_environment(os.environ, CUDA_VISIBLE_DEVICES=device.uuid, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    with Child(
        command or module_command(CHILDREN[request.runtime]), run.message(), timeout_s=timeout_s, environment=environment
    ) as child:
        try:
            for message in child.messages():
                run.take(message, child.pid)
        except OutOfMemoryResult as result:
            return run.measurement(Outcome.OUT_OF_MEMORY, result.message)
    return run.measurement(Outcome.FINISHED, "")


class _Run:
    """A run as it is seen: readings are added as the child reports."""

    def __init__(self, request: Request, probe: Probe, device: Device) -> None:
        self._request, self._probe, self._device = request, probe, device
        self._before_bytes = probe.memory(device).used_bytes
        self._others = tuple(process for process in probe.processes(device) if process.pid != os.getpid())
        self._others_bytes = _known_bytes(self._others)
        self._phases: dict[str, PhaseReading] = {}
        self._steps: list[ContextStep] = []
        self._nodes: list[NodeReading] = []
        self._latency: Latency | None = None
        self._notes: list[str] = []
        self._name, self._batch = request.model, request.batch
        driver = probe.driver()
        self._environment = {
            "gpu": device.name,
            "driver": driver.version,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        }
        if self._others:
            self._notes.append(_others_note(self._others))

    def message(self) -> Message:
        """The request as the child reads it."""
        request = self._request
        return {
            "model": request.model,
            "batch": request.batch,
            "precision": request.precision,
            "memory_format": request.memory_format,
            "shapes": {name: list(shape) for name, shape in request.shapes.items()},
            "dims": dict(request.dims),
            "allow_pickle": request.allow_pickle,
            "limit_bytes": request.limit_bytes,
            "is_timed": request.is_timed,
            "record_path": None if request.record_path is None else str(request.record_path),
            "provenance": self._environment,
            "name": Path(request.model).stem,
            "inputs": [[name, dtype, list(shape)] for name, dtype, shape in request.inputs],
            "options": dict(request.options),
            "provider": CUDA_PROVIDER,
        }

    def take(self, message: Message, pid: int) -> None:
        """One report of the child. `MeasurementError` for one that makes no sense."""
        try:
            self._take(message, pid)
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"the child process reported what cannot be: {type(error).__name__}: {error}") from None

    def _take(self, message: Message, pid: int) -> None:
        tell_detail(str(message.get("phase") or message.get("step") or "running"))
        if "phase" in message:
            self._phases[message["phase"]] = PhaseReading(process_bytes=self._process_bytes(pid), **message["counters"])
        elif "step" in message:
            context_bytes = self._process_bytes(pid) - int(message["counters"]["reserved_bytes"])
            step = ContextStep(name=message["step"], context_bytes=context_bytes, where=message.get("where", ""))
            self._steps.append(step)
        elif "latency" in message:
            self._latency = _latency(message["latency"], self._batch)
            if message["device_alloc_count"]:
                self._notes.append(f"{message['device_alloc_count']} allocations went to the driver while it was timed")
        elif "environment" in message:
            self._environment |= {str(key): str(value) for key, value in message["environment"].items()}
        elif "model" in message:
            self._name, self._batch = str(message["model"]["name"]), message["model"]["batch"]
            self._notes += map(str, message["model"]["notes"])
        elif "nodes" in message:
            self._nodes += [_node(*row) for row in message["nodes"]]
        elif "note" in message:
            self._notes.append(str(message["note"]))

    def _process_bytes(self, pid: int) -> int:
        """What the card has less than before, without what other processes took meanwhile."""
        used_bytes = self._probe.memory(self._device).used_bytes
        others = tuple(other for other in self._probe.processes(self._device) if other.pid != pid)
        return used_bytes - self._before_bytes - (_known_bytes(others) - self._others_bytes)

    def measurement(self, outcome: Outcome, failure: str) -> Measurement:
        """All that was seen. `MeasurementError` when it ended well and did not run."""
        if outcome is Outcome.FINISHED and "steady" not in self._phases:
            raise MeasurementError(f"the child process ended after {list(self._phases) or 'nothing'}, before the model had run")
        return Measurement(
            model=self._name,
            runtime=self._request.runtime,
            precision=self._request.precision,
            batch=self._batch,
            memory_format=self._request.memory_format,
            outcome=outcome,
            failure=failure,
            environment=self._environment,
            phases=self._phases,
            steps=tuple(self._steps),
            latency=self._latency,
            limit_bytes=self._request.limit_bytes,
            others=self._others,
            notes=tuple(self._notes),
            nodes=tuple(self._nodes),
        )


def _known_bytes(processes: tuple[GpuProcess, ...]) -> int:
    return sum(process.used_bytes or 0 for process in processes)


def _others_note(others: tuple[GpuProcess, ...]) -> str:
    named = ", ".join(f"{other.name or 'a process'} ({other.pid})" for other in others[:5])
    return f"{len(others)} other process{'es' * (len(others) > 1)} on the card: {named}; their memory is subtracted"


def _node(name: str, *sizes_bytes: int) -> NodeReading:
    inputs, initializers, results, scratch = map(int, sizes_bytes)
    if min(inputs, initializers, results, scratch) < 0:
        raise ValueError(f"sizes below zero: {sizes_bytes}")
    return NodeReading(
        name=str(name), input_bytes=inputs, initializer_bytes=initializers, result_bytes=results, scratch_bytes=scratch
    )


def _latency(told: Mapping[str, Any], batch: int | None) -> Latency:
    return Latency(
        median_ms=float(told["median_ms"]),
        low_ms=float(told["low_ms"]),
        high_ms=float(told["high_ms"]),
        run_count=int(told["runs"]),
        batch=batch or 1,
    )
