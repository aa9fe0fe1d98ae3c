"""A plan with this machine's own rates: its GPU decodes clips and runs the models, and the limits are solved with that.

What the user gives (``--decode-fps``, ``--infer-fps``) is not measured again. A kind of video that cannot be measured keeps
what is published, with a note; a model that cannot be run ends the plan with its error, for the user asked to run it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vramplan.capacity import CardPlan, Load, Span, solve
from vramplan.capacity.compute import BATCHES
from vramplan.capacity.constants import constants
from vramplan.capacity.measured import CLIP_RATIO
from vramplan.capacity.readings import InferRate, Kind, Readings, kind_of
from vramplan.device.decode import DecodeRun, run_decode
from vramplan.device.lock import gpu_lock
from vramplan.device.this_gpu import AUTO
from vramplan.errors import MeasurementError, UsageError
from vramplan.folders import cache_folder
from vramplan.gpus import Gpu, find_gpu
from vramplan.measuring import Machine, measure, measured_runtime, open_machine
from vramplan.options import Options
from vramplan.precision import find_policy
from vramplan.ranges import Evidence

HOW = "eager PyTorch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The models by name, and how to run them."""

    models: Sequence[Any]
    precision: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    allow_pickle: bool = False

    @classmethod
    def of(cls, models: Sequence[Any], precision: str, options: Options) -> Subject:
        """The models of a plan, with its options."""
        return cls(
            models=models,
            precision=precision,
            shapes=options.shapes,
            dims=options.dims,
            allow_pickle=options.allow_pickle,
        )

    def check(self) -> None:
        """UsageError for what a child process cannot run, MachineError when PyTorch is not installed. Reads no model."""
        for model in self.models:
            if not isinstance(model, str | os.PathLike):
                raise UsageError(
                    "a model cannot be measured as an object: it runs in a process of its own",
                    hint="Name it: file.py:factory, a zoo model or a .pt2 file; or give the rate you know: --infer-fps.",
                )
            if os.fspath(model).lower().endswith(".onnx"):
                raise UsageError(
                    f"{os.fspath(model)[-80:]!r} cannot be measured: PyTorch runs modules, not ONNX files",
                    hint="Name file.py:factory, a zoo model or a .pt2 file; or give the rate you know: --infer-fps.",
                )
            measured_runtime(os.fspath(model), None)
        policy = find_policy(self.precision)
        if policy.weight_type is not None:
            raise UsageError(
                f"{policy.name} cannot be measured: vramplan does not quantise a model for a run",
                hint="Measure fp32, fp16 or bf16, or give the rate you know: --infer-fps.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The GPU of this machine, and what it is to run."""

    machine: Machine
    subject: Subject

    def solve(self, load: Load) -> CardPlan:
        """The plan for this machine's GPU with measured rates.

        The models run at the given batch, else at the one that the solver chooses; where fewer streams fit than that, at
        smaller ones. Raises what `vramplan.measuring.measure` raises.
        """
        gpu = self.machine.gpu
        load = _with(load, measured_decode(load, self.machine))
        plan = solve(gpu, load)
        batch = plan.batch
        while load.given.infer_fps is None:
            rate = measured_infer(self.subject, self.machine, batch)
            plan = solve(gpu, _with(load, replace(load.given.readings, infer=rate)), batch=batch)
            streams_each = max(1, plan.streams // load.topology.contexts)
            if load.topology.batch is not None or batch <= streams_each:
                break
            batch = max(each for each in BATCHES if each <= streams_each)
        return plan


def open_bench(subject: Subject, gpu: object, *, infer_fps: float | None) -> Bench:
    """The GPU of this machine for a plan about *gpu*: None, ``"auto"``, or this very card.

    Raises `UsageError` for another card or several, and for a model that cannot be run unless *infer_fps* is given;
    `MachineError` when there is no GPU.
    """
    if gpu == "all" or not (gpu is None or isinstance(gpu, str | Gpu)):
        raise UsageError("--measure needs one card: this machine's", hint="Write --gpu auto, or leave --measure out.")
    if infer_fps is None:
        subject.check()
    card = find_gpu(gpu) if isinstance(gpu, str) and gpu.strip().lower() != AUTO else gpu
    machine = open_machine()
    if isinstance(card, Gpu) and card.key != machine.gpu.key:
        raise UsageError(
            f"--measure runs on this machine's GPU, {machine.gpu.name}, and the plan is for {card.name}",
            hint="Write --gpu auto, or leave --measure out. With several GPUs CUDA_VISIBLE_DEVICES says which one is used.",
        )
    return Bench(machine=machine, subject=subject)


def measured_decode(load: Load, machine: Machine) -> Readings:
    """The rate of every kind of video in *load* that decoders of the card can be measured with."""
    if load.decode == "cpu" or load.given.decode_fps is not None:
        return load.given.readings
    rates: dict[Kind, Span] = {}
    notes: list[str] = []
    for video in {kind_of(stream.video): stream.video for stream in load.streams}.values():
        with gpu_lock(cache_folder() / "locks", machine.device.uuid):
            run = run_decode(machine.probe, machine.device, video)
        notes += [f"decode rate, {note}" for note in run.notes]
        if run.fastest is not None:
            rates[kind_of(video)] = _decode_span(run, machine.gpu)
    return Readings(decode=rates, notes=tuple(notes))


def _decode_span(run: DecodeRun, gpu: Gpu) -> Span:
    """The fastest step, within what other clips of the same size reach."""
    best = run.fastest
    if best is None:
        raise ValueError("a run without rates")
    clip = f"{best.codec} {best.width_px} x {best.height_px}, {best.session_count} sessions"
    return Span(
        low=best.fps / CLIP_RATIO,
        nominal=best.fps,
        high=best.fps * CLIP_RATIO,
        evidence=Evidence.MEASURED,
        sources=(f"{best.fps:,.0f} fps of {clip}, measured on {_where(run.environment)}",),
        missing=() if run.is_saturated else (f"decode rate of {gpu.name} with more sessions",),
    )


def measured_infer(subject: Subject, machine: Machine, batch: int) -> InferRate:
    """Frames a second through all models, one after the other, at *batch*.

    A forward is not all that a frame costs: the rate of the pipeline is that of the forwards times the usual share.
    """
    frame_s, environment = 0.0, {}
    for model in subject.models:
        found = measure(
            model,
            batch=batch,
            precision=subject.precision,
            runtime="torch",
            shapes=subject.shapes,
            dims=subject.dims,
            allow_pickle=subject.allow_pickle,
            probe=machine.probe,
        )
        if found.latency is None:
            raise MeasurementError(
                f"{found.model} was not timed at batch {batch}: {found.failure or 'it did not finish'}"[:400],
                hint="Try a smaller batch: --batch 1",
            )
        frame_s += 1 / found.latency.throughput_per_s
        environment = dict(found.environment)
    forwards = Span.of(1 / frame_s, Evidence.MEASURED)
    source = f"{1 / frame_s:,.0f} fps at batch {batch}, measured with {HOW} on {_where(environment)}"
    pipeline = constants().pipeline
    fps = replace(forwards.times(pipeline), evidence=Evidence.MEASURED, sources=(source, *pipeline.sources))
    return InferRate(fps=fps, precision=find_policy(subject.precision).name, batch=batch, how=HOW)


def _where(environment: Mapping[str, str]) -> str:
    """The GPU, with the versions and the date that a reader needs to judge a rate."""
    named = [f"{name} {environment[name]}" for name in ("driver", "PyNvVideoCodec", "torch", "cudnn") if environment.get(name)]
    return ", ".join([environment.get("gpu", "this GPU"), *named, environment.get("date", "")]).rstrip(", ")


def _with(load: Load, readings: Readings) -> Load:
    return replace(load, given=replace(load.given, readings=readings))
