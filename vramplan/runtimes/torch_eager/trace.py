"""One forward pass of a module as a memory program: weights moved to the device, inputs, the first run, the steady loop."""

from __future__ import annotations

import contextlib
import functools
import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from vramplan.program import MemoryProgram, Role
from vramplan.runtimes.torch_eager import values
from vramplan.runtimes.torch_eager.device import pretended
from vramplan.runtimes.torch_eager.layouts import channels_last_of
from vramplan.runtimes.torch_eager.ledger import Ledger
from vramplan.runtimes.torch_eager.quantised import Storage
from vramplan.runtimes.torch_eager.rules import find_rule
from vramplan.runtimes.torch_eager.shadow import Findings, Shadow, Target
from vramplan.runtimes.torch_eager.steady import Turn, cut_turn, repeat
from vramplan.sources.torch_trees import map_tensors, named_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What running a module would do: the program with phases load, first_run and steady, and what was found on the way.

    ``outputs`` are shadows of the results, ``stored_count`` the weights that are kept in fewer bits.
    """

    program: MemoryProgram
    findings: Findings
    outputs: tuple[torch.Tensor, ...]
    parameter_count: int = 0
    stored_count: int = 0


def trace(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: Target,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    autocast: torch.dtype | None = None,
    storage: Storage | None = None,
    drop_outputs: bool = False,
) -> Traced:
    """Run *module* once on shadows and write down what a device would hold.

    dtype          floats of the module and its inputs are cast to it before they move (None: as they are)
    channels_last  4-d weights and inputs move in that layout
    autocast       the narrow type of an autocast block around each forward (None: no block)
    storage        how the weights of linear layers are kept (None: like everything else)
    drop_outputs   the loop lets go of the previous results before it runs again

    The module is left as it was. Whatever its forward raises leaves here as it is.
    """
    # A meta kernel may import this in the middle of a forward, and the import would keep every frame below it alive.
    importlib.import_module("torch._dynamo")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    ledger = Ledger()
    shadow = Shadow(target, ledger, find_rule)
    moved = _Mover(ledger, dtype, channels_last, storage)
    with pretended(target.capability), _in_eval(module), _on_shadows(module, moved):
        inputs = tree_map(lambda item: map_tensors("input", item, moved.input), (args, dict(kwargs)))
        ledger.phase("load")
        first_index = len(ledger.held)
        out = _forward(module, inputs, shadow, autocast)
        ledger.phase("first_run")
        outputs = tuple(leaf for leaf in _leaves(out) if leaf.is_meta)
        described = tuple(torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta") for leaf in outputs)
        del outputs, out  # in this order: results die as their structure does, not as a list of leaves
        results = ledger.forget_last()
        turn = cut_turn(ledger, ledger.phases[-1].start, first_index, results, shadow.findings.scratch)
        if turn.left - set(shadow.once.values()):
            turn = _second_turn(module, inputs, shadow, autocast)
        repeat(ledger, turn, results, shadow.findings.scratch, drop_outputs=drop_outputs)
        ledger.close()
    return Traced(
        program=ledger.program(),
        findings=shadow.findings,
        outputs=described,
        parameter_count=parameters,
        stored_count=moved.stored_count,
    )


def _forward(module: nn.Module, inputs: Any, shadow: Shadow, autocast: torch.dtype | None) -> Any:
    args, kwargs = inputs
    mixed = torch.autocast("cuda", dtype=autocast) if autocast else contextlib.nullcontext()
    quiet = contextlib.redirect_stdout(sys.stderr)  # what the user's code prints is no part of a report
    with quiet, _uncompiled(), torch.inference_mode(), follow_calls(shadow, module), shadow.looks, shadow, mixed:
        return module(*args, **kwargs)


def _second_turn(module: nn.Module, inputs: Any, shadow: Shadow, autocast: torch.dtype | None) -> Turn:
    """Run again with what the first run left on the module; the ledger and the findings stay those of the first."""
    ledger, findings, shadow.findings = shadow.ledger, shadow.findings, Findings()
    start, first_index = len(ledger.events), len(ledger.held)
    out = _forward(module, inputs, shadow, autocast)
    stop = len(ledger.events)
    del out
    results = [event.buffer_index for event in ledger.events[stop:]]
    del ledger.events[stop:]
    turn = cut_turn(ledger, start, first_index, results, shadow.findings.scratch)
    del ledger.events[start:], ledger.held[first_index:]
    shadow.findings = findings
    return turn


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Functions that the module wrapped in ``torch.compile`` run as they were written, if there can be any."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def _leaves(out: Any) -> Iterator[torch.Tensor]:
    """The tensors of a result: of what PyTorch knows as trees, and of dataclasses and mappings beyond."""
    for leaf in tree_leaves(out):
        yield from (tensor for _, tensor in named_tensors("", leaf))


class _Mover:
    """Makes the shadow of a tensor as ``.to(dtype)`` on the CPU and ``.to("cuda")`` would leave it on the device."""

    def __init__(self, ledger: Ledger, dtype: torch.dtype | None, channels_last: bool, storage: Storage | None) -> None:
        self.ledger, self.dtype, self.channels_last, self.storage = ledger, dtype, channels_last, storage
        self.stored_count = 0
        self._moved: dict[int, torch.Tensor] = {}

    def weight(self, tensor: torch.Tensor, name: str, *, is_linear: bool) -> torch.Tensor:
        """A parameter or buffer; one that is shared moves once. A linear layer's weight may be kept in fewer bits."""
        known = self._moved.get(id(tensor))
        if known is None:
            known = self._moved[id(tensor)] = self._shadow(tensor)
            if is_linear and self.storage is not None and tensor.dim() == 2:
                self._stored(known, name, self.storage)
            else:
                self.ledger.watch(known, Role.WEIGHT, name, name)
                self._reordered(tensor, known, name)
        return known

    def _reordered(self, tensor: torch.Tensor, shadow: torch.Tensor, name: str) -> None:
        """A weight that takes another layout on its way arrives in its own and is reordered on the device.

        Source: ``copy_requires_temporaries``, aten/src/ATen/native/cuda/Copy.cu.
        """
        is_same = shadow.stride() == _dense_stride(tensor) or (shadow.is_contiguous() and tensor.is_contiguous())
        if not is_same:
            size_bytes = shadow.untyped_storage().nbytes()
            self.ledger.free(self.ledger.hold(size_bytes, Role.WORKSPACE, f"{name} before it is reordered", name))

    def _stored(self, shadow: torch.Tensor, name: str, storage: Storage) -> None:
        """The packed weight and its scales are on the device; the shadow stands for them and takes no bytes itself."""
        self.stored_count += 1
        packed_bytes, scale_bytes = storage.sizes(shadow)
        self.ledger.hold(packed_bytes, Role.WEIGHT, name, name)
        self.ledger.hold(scale_bytes, Role.WEIGHT, f"{name}.scale", name)
        self.ledger.ignore(shadow)
        shadow._vramplan_storage = storage  # type: ignore[attr-defined]

    def input(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """An example input."""
        moved = self._shadow(tensor)
        self.ledger.watch(moved, Role.INPUT, name, "")
        return moved

    def _shadow(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.dtype if self.dtype and tensor.is_floating_point() else tensor.dtype
        with torch.no_grad():
            shadow = torch.empty_strided(tensor.shape, _dense_stride(tensor), dtype=dtype, device="meta")
            if self.channels_last and tensor.dim() in (4, 5):
                shadow = shadow.to(memory_format=channels_last_of(tensor.dim()))
        if not tensor.is_meta and tensor.numel() <= _KNOWN_COUNT:
            values.keep(shadow, tensor.detach().cpu().to(dtype, copy=True))
        return shadow


_KNOWN_COUNT = 4096
"""Elements up to which a weight or input keeps its values: strides, anchors, masks."""


def _dense_stride(tensor: torch.Tensor) -> tuple[int, ...]:
    """The layout that a copy to the device has: dense, axes in the same order. A contiguous tensor's is its own."""
    return tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()


@contextlib.contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    """Inference, whatever mode the module is in; an exported program has no other and refuses to be asked."""
    modes = [(part, part.training) for part in module.modules()]
    with contextlib.suppress(NotImplementedError):
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            if part.training != mode:
                part.training = mode


@contextlib.contextmanager
def _on_shadows(module: nn.Module, mover: _Mover) -> Iterator[None]:
    """Exchange the module's parameters and buffers, in the order in which ``.to`` moves them, and put all back afterwards."""
    parts = list(_in_to_order(module, "", set()))
    kept = [(part, _snapshot(part), dict(part._parameters), dict(part._buffers)) for part, _ in parts]
    try:
        for part, path in parts:
            tables: tuple[tuple[dict[str, Any], Any], ...] = ((part._parameters, _as_parameter), (part._buffers, None))
            for table, wrap in tables:
                for name, tensor in list(table.items()):
                    if tensor is not None:
                        is_linear = isinstance(part, nn.Linear) and name == "weight"
                        shadow = mover.weight(tensor, f"{path}.{name}" if path else name, is_linear=is_linear)
                        table[name] = wrap(shadow, tensor) if wrap else shadow
        yield
    finally:
        for part, attributes, parameters, buffers in kept:
            _restore(part._parameters, parameters)
            _restore(part._buffers, buffers)
            _forget_shadows(part, attributes)


def _restore(table: MutableMapping[str, Any], before: dict[str, Any]) -> None:
    """Put a table of tensors back. That of a TorchScript module is a view of C++ attributes, which can only be set."""
    if isinstance(table, dict):
        table.clear()
    for name, tensor in before.items():
        table[name] = tensor


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The module's own attributes, and what its lists and dictionaries hold."""
    own = ((name, value) for name, value in module.__dict__.items() if name not in ("_parameters", "_buffers", "_modules"))
    return {name: (value, value.copy() if type(value) in (dict, list) else None) for name, value in own}


def _forget_shadows(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    """Undo what the forward kept on the module, where it holds shadows: a cached grid, a mask, a KV cache."""
    for name, value in list(module.__dict__.items()):
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        before, content = attributes.get(name, (None, None))
        is_same = value is before and (content is None or _is_same(content, value))
        if is_same or not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
            continue
        if name not in attributes:
            del module.__dict__[name]
        elif content is None:
            module.__dict__[name] = before
        else:
            before.clear()
            before.update(content) if isinstance(content, dict) else before.extend(content)
            module.__dict__[name] = before


def _is_same(before: Any, now: Any) -> bool:
    """Whether two lists or dictionaries hold the very same objects."""
    if isinstance(before, dict):
        return before.keys() == now.keys() and all(item is now[key] for key, item in before.items())
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _as_parameter(shadow: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """One Parameter for one tensor, however often it is shared."""
    if isinstance(shadow, nn.Parameter):
        return shadow
    parameter = getattr(shadow, "_vramplan_parameter", None)
    if parameter is None:
        parameter = nn.Parameter(shadow, requires_grad=original.requires_grad)
        known = values.known_of(shadow)
        if known is not None:
            values.keep(parameter, known.value)
        parameter._vramplan_storage = getattr(shadow, "_vramplan_storage", None)  # type: ignore[attr-defined]
        shadow._vramplan_parameter = parameter  # type: ignore[attr-defined]
    return parameter


def _in_to_order(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[nn.Module, str]]:
    """Children before their parent, as ``Module._apply`` walks."""
    if id(module) in seen:
        return
    seen.add(id(module))
    for name, child in module.named_children():
        yield from _in_to_order(child, f"{path}.{name}" if path else name, seen)
    yield module, path


class Follower(Protocol):
    """Whoever wants to know which module runs."""

    path: str


@contextlib.contextmanager
def follow_calls(follower: Follower, module: nn.Module) -> Iterator[None]:
    """While this is open, ``follower.path`` names the part of *module* that runs."""
    names = {id(item): name for name, item in reversed(list(module.named_modules(remove_duplicate=False)))}
    original: Callable[..., Any] = nn.Module.__call__

    @functools.wraps(original)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outer = follower.path
        follower.path = names.get(id(self), outer)
        try:
            return original(self, *args, **kwargs)
        finally:
            follower.path = outer

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
