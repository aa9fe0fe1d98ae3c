"""A model that was read once and is asked for each batch: what a frame costs, and what memory a batch takes.

A graph is an engine of TensorRT; a PyTorch module runs eagerly, and its operations are counted by PyTorch on the trace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vramplan.capacity import Engine, EngineMemory, FrameWork, frame_work
from vramplan.describe import describe_model
from vramplan.errors import ModelError
from vramplan.estimate import open_module, solve, solve_module
from vramplan.held import Bound, bind
from vramplan.options import ModelLike, Options
from vramplan.precision import Converted, apply_policy, find_policy
from vramplan.result import Estimate, ModelFacts
from vramplan.sources import Source, engine_path, open_model
from vramplan.sources.torch_spec import is_torch_model

if TYPE_CHECKING:
    from vramplan.sources.torch_model import TorchModel


Binder = Callable[[Source, int | None, Options], Bound]
"""`vramplan.estimate.bind`, or one that remembers what it has bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedGraph:
    """An ONNX model; ``batch`` is what its file fixes, if it does. ``known`` is the memory by precision and batch."""

    source: Source
    bound: Bound
    options: Options
    precision: str
    batch: int | None
    binder: Binder = bind
    known: dict[tuple[str, int], EngineMemory] = field(default_factory=dict, repr=False, compare=False)

    @property
    def facts(self) -> ModelFacts:
        """Which model it is."""
        return describe_model(self.source, self.converted.graph)

    @property
    def converted(self) -> Converted:
        """The graph at the precision."""
        return apply_policy(self.bound.graph, find_policy(self.precision))

    @property
    def engine(self) -> Engine:
        """The model as the calculator needs it."""
        converted, fusions = self.converted, self.bound.fusions
        policy = converted.policy
        work = frame_work(
            fusions.plain if policy.name == "fp32" else fusions.joined,
            converted,
            batch=self.source.batch_of(self.bound.graph) or 1,
        )
        return Engine(name=self.source.name, precision=policy.name, work=work, memory=self.memory)

    def memory(self, batch: int) -> EngineMemory:
        """Weights, and what an execution context adds, at *batch*; solved once."""
        key = find_policy(self.precision).name, batch
        if key not in self.known:
            self.known[key] = self._solved(batch)
        return self.known[key]

    def _solved(self, batch: int) -> EngineMemory:
        is_bound = batch in (1, self.batch)
        bound = self.bound if is_bound else self.binder(self.source, batch, _at_batch(self.source, self.options, batch))
        budget = solve(bound, self.precision, "tensorrt", self.options).budget
        parts = (budget.inputs, budget.activations, budget.outputs, budget.workspace, budget.allocator_slack)
        return EngineMemory(weights=budget.weights, context=sum(parts[1:], start=parts[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModule:
    """A PyTorch module, run eagerly; cameras decide its batch."""

    source: TorchModel
    options: Options
    precision: str
    batch: int | None = None

    @property
    def facts(self) -> ModelFacts:
        """Which model it is."""
        return self._at(1).model

    @property
    def engine(self) -> Engine:
        """The model as the calculator needs it: every op is a launch, every result is written and read once."""
        frame = self._at(1)
        budget = frame.budget
        work = FrameWork(
            arithmetic={"fp32": "fp32", "as-is": "fp32", "bf16": "bf16", "autocast-bf16": "bf16"}.get(frame.precision, "fp16"),
            launch_count=max(1, frame.coverage.ops),
            matrix_flops=frame.flops or 0,
            weight_bytes=budget.weights_bytes,
            activation_bytes=2 * frame.sum_of_outputs_bytes,
            input_bytes=budget.inputs_bytes,
            output_bytes=sum(item.size_bytes for item in frame.model.outputs),
            unknown=frame.coverage.unmodelled,
            is_eager=True,
        )
        memory = functools.cache(self.memory)
        return Engine(name=self.source.name, precision=frame.precision, work=work, memory=memory, runtime="PyTorch")

    def memory(self, batch: int) -> EngineMemory:
        """Weights, and all else that PyTorch reserves, at *batch*."""
        budget = self._at(batch).budget
        parts = (budget.activations, budget.outputs, budget.workspace, budget.allocator_slack)
        return EngineMemory(weights=budget.weights, context=sum(parts, start=budget.inputs))

    def _at(self, batch: int) -> Estimate:
        shapes = {name: (batch, *shape[1:]) for name, shape in self.options.shapes.items()}
        return solve_module(self.source, batch, self.precision, replace(self.options, shapes=shapes))


Opened = OpenedGraph | OpenedModule


def open_engine(model: ModelLike, precision: str, options: Options) -> Opened:
    """Read *model* and bind it to one frame, or to the batch that its file fixes."""
    if is_torch_model(model):
        return OpenedModule(source=open_module(model, options), options=options, precision=precision)
    if path := engine_path(model):
        raise ModelError(
            f"{str(path)[:200]!r}: an engine does not say what it computes", hint="Name the .onnx file it was built from."
        )
    return open_graph(open_model(model), precision, options)


def open_graph(source: Source, precision: str, options: Options, binder: Binder = bind) -> OpenedGraph:
    """Bind *source* to one frame, or to the batch that its file fixes; *binder* is asked for every batch."""
    options = replace(options, gpu=None)
    is_fixed = source.fixed_batch is not None
    bound = binder(source, None, options) if is_fixed else binder(source, 1, _at_batch(source, options, 1))
    batch = source.batch_of(bound.graph) if is_fixed else None
    return OpenedGraph(source=source, bound=bound, options=options, precision=precision, batch=batch, binder=binder)


def _at_batch(source: Source, options: Options, batch: int) -> Options:
    """The options with *batch* in place of the batch of a shape that was given: cameras decide how many frames there are."""
    is_open = {declared.name for declared in source.inputs if isinstance((declared.dims or (0,))[0], str)}
    shapes = {name: (batch, *shape[1:]) if name in is_open else shape for name, shape in options.shapes.items()}
    return replace(options, shapes=shapes)
