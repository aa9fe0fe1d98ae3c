"""A built engine's own numbers, as an estimate: what TensorRT says wins over what we would compute."""

from __future__ import annotations

from vramplan.budget import Budget
from vramplan.gpus import Gpu, context_bytes
from vramplan.program import Buffer, MemoryProgram, ProgramBuilder, Role
from vramplan.ranges import Evidence, Range
from vramplan.result import Binding, Coverage, Estimate, LiveBuffer, ModelFacts, PeakMoment
from vramplan.runtimes.plan import PhasePeak
from vramplan.runtimes.tensorrt import PERSISTENT
from vramplan.sources.trt_engine import EngineBinding, EngineFacts


def estimate_engine(facts: EngineFacts, gpu: Gpu | None) -> Estimate:
    """The budget of one execution context of the engine, at the largest shapes of its first profile."""
    weights = _weights(facts)
    inputs, outputs = (tuple(_describe(b) for b in facts.bindings if b.is_input is side) for side in (True, False))
    budget = Budget(
        weights=weights,
        inputs=Range.exact(sum(binding.size_bytes for binding in inputs)),
        activations=Range.exact(facts.context_bytes),
        outputs=Range.exact(sum(binding.size_bytes for binding in outputs)),
        workspace=PERSISTENT,
        allocator_slack=Range.exact(0),
        context=context_bytes(gpu, "tensorrt"),
    )
    program = _program(facts, weights.nominal_bytes)
    live = [LiveBuffer(name=b.name, role=b.role.value, size_bytes=b.size_bytes, until="") for b in program.buffers]
    return Estimate(
        model=_model(facts, inputs, outputs),
        runtime="tensorrt",
        precision="as-is",
        batch=inputs[0].shape[0] if inputs and inputs[0].shape else None,
        memory_format="engine",
        gpu=gpu,
        budget=budget,
        phases={"engine": PhasePeak.of(weights.nominal_bytes), "context": PhasePeak.of(facts.context_bytes)},
        lower_bound_bytes=facts.context_bytes,
        sum_of_outputs_bytes=facts.context_bytes,
        peak=PeakMoment(op="engine", index=0, live=tuple(sorted(live, key=lambda item: -item.size_bytes))),
        coverage=Coverage(ops=0, exact=0, measured=0, bounded=0, unmodelled=()),
        kept=(),
        layers=(),
        profile=None,
        notes=(f"TensorRT {facts.version}'s own numbers for this engine, at the largest shapes of its first profile",),
        program=program,
    )


def _model(facts: EngineFacts, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]) -> ModelFacts:
    return ModelFacts(
        name=facts.name, format="engine", parameters=0, inputs=inputs, outputs=outputs, digest=lambda: facts.sha256
    )


def _program(facts: EngineFacts, weights_bytes: int) -> MemoryProgram:
    """Everything an engine holds, it holds from the start."""
    builder = ProgramBuilder()
    builder.hold(Buffer(name="weights", role=Role.WEIGHT, size_bytes=weights_bytes))
    builder.phase("engine")
    builder.hold(Buffer(name="activations and scratch", role=Role.ACTIVATION, size_bytes=facts.context_bytes))
    for binding in facts.bindings:
        role = Role.INPUT if binding.is_input else Role.OUTPUT
        builder.hold(Buffer(name=binding.name, role=role, size_bytes=binding.size_bytes))
    builder.phase("context")
    return builder.build()


def _describe(binding: EngineBinding) -> Binding:
    return Binding(
        name=binding.name,
        dtype=str(binding.dtype),
        dims=binding.shape,
        shape=binding.shape,
        size_bytes=binding.size_bytes,
    )


def _weights(facts: EngineFacts) -> Range:
    """TensorRT's own figure; from versions that cannot tell, the file's size is the upper limit."""
    if facts.weights_bytes is not None:
        return Range.exact(facts.weights_bytes)
    return Range(low_bytes=0, nominal_bytes=facts.file_bytes, high_bytes=facts.file_bytes, evidence=Evidence.BOUNDED)
