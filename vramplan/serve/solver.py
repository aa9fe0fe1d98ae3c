"""From a question to its answer, in the process that answers: what does not depend on a slider is done once and kept.

A model is read once. Its graph at one batch serves every precision, runtime and card; a solved cell serves the advice and the
stream limits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vramplan.choosing import find_runtime, possible_runtimes, why_not
from vramplan.estimate import open_module, solve, solve_module
from vramplan.fleet import DEFAULT_MODEL, streams
from vramplan.gpus import Gpu, custom_gpu, find_gpu
from vramplan.held import Bound, bind
from vramplan.opened import OpenedGraph, open_graph
from vramplan.options import Options
from vramplan.precision import POLICIES
from vramplan.report.content import Report
from vramplan.report.html.content import estimate_page_content
from vramplan.report.html.streams import streams_page_content
from vramplan.result import Estimate
from vramplan.serve.questions import EstimateQuestion, ModelQuestion, Named, Question, Sizes, StreamsQuestion, read_estimate
from vramplan.sources import Source, open_model
from vramplan.sources.torch_model import TorchModel
from vramplan.sweep import Sweep
from vramplan.verdict import judge

MOST_MODELS = 4
MOST_KEPT = 64
"""Of each kind, and for each model: graphs of a batch, cells, engines of a precision."""

MOST_KEPT_OPS = 60_000
"""Ops of all that is kept of a kind: of a very large model only what was made last stays."""

Json = dict[str, Any]
Made = TypeVar("Made")


class Kept(OrderedDict[Hashable, Any]):
    """What was made last, up to *most* of it."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def of(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is kept under *key*; made, and kept, when it is not there."""
        if key not in self:
            self[key] = make()
            if len(self) > self.most:
                self.popitem(last=False)
        self.move_to_end(key)
        made: Made = self[key]
        return made


@dataclass(slots=True, kw_only=True)
class _Model:
    """One model that was read, and what was made of it."""

    source: Source
    bounds: Kept
    cells: Kept
    engines: Kept
    _module: TorchModel | None = None

    @classmethod
    def read(cls, named: Named) -> _Model:
        source = open_model(named.path or named.name)
        most = max(2, min(MOST_KEPT, MOST_KEPT_OPS // max(1, source.onnx.node_count)))
        return cls(source=source, bounds=Kept(most), cells=Kept(most), engines=Kept(most))

    @property
    def is_zoo(self) -> bool:
        return self.source.format == "zoo"

    def module(self, options: Options) -> TorchModel:
        """The PyTorch definition behind a built-in model: ours, never a file of the user's."""
        if self._module is None:
            self._module = open_module(self.source.name, options)
        return self._module

    def bind(self, source: Source, batch: int | None, options: Options) -> Bound:
        """As `vramplan.estimate.bind`, once for each batch and sizes."""
        return self.bounds.of((batch, _frozen(options)), lambda: bind(source, batch, options))

    def bounds_of(self, options: Options) -> dict[int | None, Bound]:
        """What is bound at these sizes, by batch."""
        keys = ((key[0], key) for key in self.bounds if isinstance(key, tuple) and key[1] == _frozen(options))
        return {batch: self.bounds[key] for batch, key in keys}


def _frozen(options: Options) -> Hashable:
    return tuple(sorted(options.dims.items())), tuple(sorted(options.shapes.items()))


@dataclass(slots=True)
class Solver:
    """Answers questions one after the other."""

    models: Kept = field(default_factory=lambda: Kept(MOST_MODELS))

    def warm_up(self) -> None:
        """Answer what a board is asked first, so that it is imported and read before anybody waits."""
        pairs = [("model", DEFAULT_MODEL), ("precision", "fp16"), ("batch", "1")]
        self.answer(read_estimate(pairs, lambda name: Named(name=name)))

    def answer(self, question: Question) -> Json:
        """Plain JSON. Raises the errors of `vramplan.estimate` and `vramplan.streams`."""
        model: _Model = self.models.of(question.model, lambda: _Model.read(question.model))
        if isinstance(question, ModelQuestion):
            return _facts(model)
        if isinstance(question, StreamsQuestion):
            return _streams(model, question)
        return _estimate(model, question)


def _facts(model: _Model) -> Json:
    """What can be chosen for a model: runtimes and their precisions, its batch, sizes it leaves open."""
    source = model.source
    runtimes = possible_runtimes(source.name) if model.is_zoo else ("tensorrt", "onnxruntime")
    return {
        "name": source.name,
        "format": source.format,
        "inputs": [{"name": item.name, "dims": list(item.dims or ())} for item in source.inputs],
        "fixed_batch": source.fixed_batch,
        "dims": dict(source.open_dims),
        "precisions": {runtime: _precisions(runtime) for runtime in runtimes},
    }


def _precisions(runtime: str) -> list[str]:
    """What the runtime can be asked for; eager PyTorch has no 8-bit activations."""
    known = (policy for policy in POLICIES.values() if not why_not(runtime, policy))
    return [policy.name for policy in known if runtime != "torch" or policy.activation_type is None]


def _card(question: EstimateQuestion | StreamsQuestion) -> Gpu | None:
    if question.vram_bytes is not None:
        return custom_gpu(question.vram_bytes)
    return None if question.gpu is None else find_gpu(question.gpu)


def _options(question: EstimateQuestion | StreamsQuestion, **more: Any) -> Options:
    sizes: Sizes = question.sizes
    return Options.of(gpu=_card(question), dims=sizes.dims, shapes=sizes.shapes, **more)


def _estimate(model: _Model, question: EstimateQuestion) -> Json:
    """The content of the page; ``advice`` says whether changes were solved for it."""
    options = _options(question, memory_format=question.memory_format)
    runtime = find_runtime(model.source.name if model.is_zoo else "model.onnx", question.runtime)
    cell: Estimate = model.cells.of(
        (runtime, question.precision, question.batch, options.gpu, question.memory_format, _frozen(options)),
        lambda: _cell(model, runtime, question, options),
    )
    board = Sweep(
        cells=(cell,),
        batches=(question.batch,),
        source=None if runtime == "torch" else model.source,
        module=model.module(options) if runtime == "torch" else None,
        options=options,
        bounds=model.bounds_of(options),
    )
    verdict = judge(board.cells, gpu=options.gpu, resolve=board.resolve if question.advice else None)
    content = estimate_page_content(Report(cells=board.cells, verdict=verdict))
    return {**content, "advised": question.advice}


def _cell(model: _Model, runtime: str, question: EstimateQuestion, options: Options) -> Estimate:
    options.checked((runtime,))
    if runtime == "torch":
        return solve_module(model.module(options), question.batch, question.precision, options)
    return solve(model.bind(model.source, question.batch, options), question.precision, runtime, options)


def _streams(model: _Model, question: StreamsQuestion) -> Json:
    """The content of the page; ``advice`` as above."""
    options = _options(question)
    opened: OpenedGraph = model.engines.of(
        (question.precision, _frozen(options)),
        lambda: open_graph(model.source, question.precision, options, model.bind),
    )
    plan = streams(
        opened,
        gpu=options.gpu,
        video=question.video,
        codec=question.codec,
        precision=question.precision,
        batch=question.batch,
        infer_every=question.infer_every,
        margin=question.margin,
        require=question.require,
        advise=question.advice,
    )
    return {**streams_page_content(plan), "advised": question.advice}
