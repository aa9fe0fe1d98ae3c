"""Every op of a forward pass, run on shadows: results get their shapes and strides, the ledger their lifetimes.

Under ``inference_mode`` composite ops (``conv2d``, ``linear``, ``matmul``) arrive whole. One with a rule of its own follows it;
any other is taken apart by PyTorch's own code, so that what it holds in between is held here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode

from vramplan.program import Role
from vramplan.progress import tell_detail
from vramplan.ranges import Evidence, Range
from vramplan.runtimes.torch_eager import values
from vramplan.runtimes.torch_eager.autocast import applied
from vramplan.runtimes.torch_eager.device import META, CudaLooks
from vramplan.runtimes.torch_eager.layouts import strides_of
from vramplan.runtimes.torch_eager.ledger import Ledger
from vramplan.runtimes.torch_eager.operations import formula_of
from vramplan.workspace.convolution import ConvCall

Op = Any
"""A ``torch._ops.OpOverload``."""

Rule = Callable[["Shadow", Op, tuple[Any, ...], dict[str, Any]], Any]
"""How one op runs on shadows: returns its results and writes what it holds beside them into the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The device and the software that the trace stands for.

    ``capability`` is the compute capability, ``sm_count`` the number of multiprocessors, ``conv_workspace`` answers what a
    convolution asks for.
    """

    capability: tuple[int, int]
    sm_count: int
    conv_workspace: Callable[[ConvCall], Range]
    torch_version: tuple[int, int]


@dataclass(slots=True)
class Findings:
    """What a trace found out beside the program."""

    ops: int = 0
    bounded: Counter[str] = field(default_factory=Counter)
    unmodelled: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    scratch: dict[int, Range] = field(default_factory=dict)
    doubtful_convolutions: int = 0
    convolutions: dict[int, ConvCall] = field(default_factory=dict)
    flops: int = 0
    uses_gemm: bool = False


class Shadow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs ops on shadows. ``path`` is the module that is running, for the names of what it makes."""

    def __init__(self, target: Target, ledger: Ledger, find_rule: Callable[[Op], Rule | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.target = target
        self.ledger = ledger
        self.findings = Findings()
        self.path = ""
        self.depth = 0
        self.looks = CudaLooks()
        self.once: dict[str, int] = {}
        self._find_rule = find_rule
        self._facts: dict[Op, _Facts] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here, so the guard against it would only cost time."""
        return False

    def __torch_dispatch__(self, func: Op, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one op, without the pretence of CUDA, which is for the user's code: TorchScript calls ops with it still on."""
        if torch._C._len_torch_function_stack():
            with torch._C.DisableTorchFunction():
                return self._run(func, args, kwargs or {})
        return self._run(func, args, kwargs or {})

    def _run(self, func: Op, args: Any, kwargs: dict[str, Any]) -> Any:
        """On the CPU when nothing of it is on the device, else by its rule."""
        facts = self._facts.get(func) or self._learn(func)
        tensors = list(tensors_in(args, kwargs)) if kwargs else list(tensors_in(args))
        if not any(tensor.is_meta for tensor in tensors) and not _names_device(args, kwargs):
            return func(*args, **kwargs)
        if self.depth == 0:
            self._begin(func, facts)
            if self.looks.narrow is not None:
                args, kwargs = self._autocast(facts, args, kwargs, self.looks.narrow)
        if facts.rule is not decompose and any(not tensor.is_meta and tensor.dim() for tensor in tensors):
            args, kwargs = self._on_device(facts, args, kwargs)
        self.depth += 1
        try:
            out = facts.rule(self, func, args, kwargs)
        except NotImplementedError as error:
            raise UnshapedError(func.name()) from error
        finally:
            self.depth -= 1
        if facts.flops is not None and facts.rule is not decompose:
            self.findings.flops += _flops(facts.flops, args, kwargs, out)
        if facts.is_pointwise and type(out) is torch.Tensor and 1 in out.shape and not facts.written:
            out = _canonical(out, tensors)
        if facts.rule is not decompose:
            self._settle(func, facts, (args, kwargs, tensors), out)
        return out

    def scratch(self, size_bytes: int, name: str) -> int:
        """Hold *size_bytes* of a kernel's own memory; free it with ``self.ledger.free``."""
        return self.ledger.hold(size_bytes, Role.WORKSPACE, self.label(name), self.path)

    def doubtful_scratch(self, size: Range, name: str) -> int:
        """Scratch that is known within limits: the program holds the nominal bytes, the budget moves with the limits."""
        if size.low_bytes == size.high_bytes:
            return self.scratch(size.nominal_bytes, name)
        index = self.ledger.hold_doubtful(size.nominal_bytes, self.label(name), self.path)
        self.findings.scratch[index] = size
        return index

    def watch(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """A result, held from now until Python lets it go."""
        self.ledger.watch(tensor, Role.ACTIVATION, self.label(name), self.path)
        return tensor

    def label(self, name: str) -> str:
        """``model.2.cv1 conv2d``: the module, and what it did."""
        return f"{self.path} {name}" if self.path else name

    def bounded(self, name: str, note: str = "") -> None:
        """The op that runs is known within limits only."""
        self.findings.bounded[name] += 1
        if note:
            self.findings.notes[note] = None

    def _begin(self, func: Op, facts: _Facts) -> None:
        self.findings.ops += 1
        if self.findings.ops > OP_LIMIT:
            raise EndlessError(self.path)
        if self.findings.ops % OPS_TOLD == 0:
            tell_detail(f"{self.findings.ops:,} ops")
        self.ledger.op(self.label(facts.name))

    def _autocast(self, facts: _Facts, args: Any, kwargs: Any, narrow: torch.dtype) -> tuple[Any, Any]:
        """Casts are ops of their own, seen by the mode; the op itself runs on what they give."""
        self.depth += 1
        try:
            with self:
                return applied(facts.name, args, kwargs, narrow)
        finally:
            self.depth -= 1

    def _learn(self, func: Op) -> _Facts:
        facts = self._facts[func] = _facts_of(func, self._find_rule(func))
        return facts

    def _on_device(self, facts: _Facts, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Real operands of an op on the device are copied there first, and let go with the op's last reference."""
        if facts.takes_host:
            return args, kwargs
        return _exchanged(args, self._upload), {name: _exchanged(item, self._upload) for name, item in kwargs.items()}

    def _upload(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta or not tensor.dim():
            return tensor
        shadow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        values.keep(shadow, tensor)
        return self.watch(shadow, "copy to the device")

    def _settle(self, func: Op, facts: _Facts, operands: tuple[Any, Any, list[torch.Tensor]], out: Any) -> None:
        """Watch the results, and carry known elements on."""
        args, kwargs, tensors = operands
        for tensor in tensors_in((out,)):
            if tensor.is_meta:
                self.ledger.watch(tensor, Role.ACTIVATION, self.label(facts.name), self.path)
        if facts.is_random or not all(not tensor.is_meta or values.known_of(tensor) for tensor in tensors):
            for index in facts.written:
                if index < len(args) and isinstance(args[index], torch.Tensor):
                    values.forget(args[index])
            return
        if all(tensor.numel() <= values.LIMIT_COUNT for tensor in tensors_in((out,))):
            value = values.computed(func, args, kwargs)
            if value is not None:
                values.keep_results(out, value, tensors)


def _names_device(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call makes or moves something on the device, by keyword or, as ``to.device`` does, by position."""
    return kwargs.get("device") == META or any(type(arg) is torch.device and arg == META for arg in args)


OPS_TOLD = 256
"""How often a long trace tells how far it is."""

OP_LIMIT = 300_000
"""Ops of one forward: beyond it something loops over data, which shadows do not have."""


class EndlessError(Exception):
    """A forward ran more than `OP_LIMIT` ops; the module in which it was."""


class UnshapedError(Exception):
    """An op has no meta kernel, so that nobody can tell the shapes of its results; the op's name."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is looked up once for each op: its rule, the operands it writes to, whether it takes CPU operands as they are."""

    name: str
    rule: Rule
    written: tuple[int, ...]
    is_random: bool
    takes_host: bool
    is_pointwise: bool
    flops: Callable[..., int] | None


_TAKES_HOST = frozenset({"aten::copy_", "aten::_to_copy", "aten::to", "aten::_copy_from", "aten::set_"})

_MOVES = frozenset({"aten::to", "aten::_to_copy", "aten::copy_"})

_WHOLE = frozenset({
    "reshape", "reshape_as", "contiguous", "chunk", "split", "split_with_sizes", "tensor_split", "flatten", "unflatten",
    "movedim", "moveaxis", "narrow", "type_as", "expand_as", "view_as", "ravel", "swapaxes", "swapdims", "numpy_T", "mT",
    "to", "dropout", "feature_dropout", "alpha_dropout", "size", "stride", "is_floating_point", "is_complex", "item",
    "unsafe_chunk", "hsplit", "vsplit", "dsplit", "atleast_1d", "atleast_2d", "atleast_3d", "result_type", "float", "half",
    "square", "resolve_conj", "resolve_neg", "data", "detach", "zeros", "ones",
})  # fmt: skip
"""Composite ops that hold nothing but their result: run whole, to save the time of taking them apart."""


def _facts_of(func: Op, rule: Rule | None) -> _Facts:
    schema = func._schema
    short = schema.name.partition("::")[2]
    if rule is None and func.namespace not in ("aten", "prim", "prims"):
        rule = unmodelled
    if rule is None:
        is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        rule = moved if schema.name in _MOVES else decompose if is_composite and short not in _WHOLE else plain
    written = tuple(index for index, item in enumerate(schema.arguments) if item.alias_info and item.alias_info.is_write)
    return _Facts(
        name=short,
        rule=rule,
        written=written,
        is_random=torch.Tag.nondeterministic_seeded in func.tags,
        takes_host=schema.name in _TAKES_HOST,
        is_pointwise=torch.Tag.pointwise in func.tags,
        flops=formula_of(func),
    )


def _flops(formula: Callable[..., int], args: Any, kwargs: Any, out: Any) -> int:
    """The formulas raise on operands they were not written for; those count nothing."""
    try:
        return int(formula(*args, **kwargs, out_val=out))
    except (TypeError, ValueError, AssertionError, AttributeError, IndexError):
        return 0


def plain(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op that holds nothing but its results, on the meta kernel that has the strides of the CUDA kernel."""
    return func(*args, **kwargs)


def moved(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``to`` and ``copy_``: what comes back to the host is real there, with zeros for elements that are not known.

    Source: aten/src/ATen/native/cuda/Copy.cu, ``copy_requires_temporaries``: what is not dense or changes its type is first
    made so on the device.
    """
    is_written = func._schema.name == "aten::copy_"
    source, place = (args[1], args[0].device) if is_written else (args[0], _place(args, kwargs))
    if not source.is_meta or place is None or place.type != "cpu":
        return func(*args, **kwargs)
    if values.known_of(source) is None:
        shadow.bounded("copy to the host", "elements that a device would bring back to the host are taken to be zero")
    real = values.on_host(source)
    out: torch.Tensor = func(args[0], real) if is_written else func(real, *args[1:], **kwargs)
    if out.dtype is not source.dtype or not source.is_contiguous():
        shadow.ledger.free(shadow.scratch(source.numel() * out.element_size(), "copy to the host"))
    return out


def _place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """Where ``to`` goes: the device that is named, or that of the tensor that is named."""
    place = kwargs.get("device", args[1] if len(args) > 1 else None)
    place = place.device if isinstance(place, torch.Tensor) else place
    return place if isinstance(place, torch.device) else None


def unmodelled(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op of a library that vramplan does not know: its results count, and its scratch may be as much as all it touches."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return decompose(shadow, func, args, kwargs)
    out = func(*args, **kwargs)
    touched = sum(item.numel() * item.element_size() for item in (*tensors_in(args), *tensors_in((out,))))
    for tensor in tensors_in((out,)):
        shadow.watch(tensor, func._schema.name)
    limits = Range(low_bytes=0, nominal_bytes=0, high_bytes=touched, evidence=Evidence.BOUNDED)
    shadow.ledger.free(shadow.doubtful_scratch(limits, f"{func._schema.name} scratch"))
    shadow.findings.unmodelled[func._schema.name.replace("::", ".")] += 1
    return out


def decompose(shadow: Shadow, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A composite op, by the code that CUDA runs too: each part comes back to the mode."""
    with shadow:
        return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def _canonical(out: torch.Tensor, operands: list[torch.Tensor]) -> torch.Tensor:
    """On a device a pointwise op of contiguous operands of one shape writes row-major strides, also where an axis is 1.

    Source: aten/src/ATen/TensorIterator.cpp, ``compute_fast_setup_type``; the meta kernel keeps the operand's strides there.
    """
    if all(operand.shape == out.shape and operand.is_contiguous() for operand in operands):
        strides = strides_of(out.shape, channels_last=False)
        if out.stride() != strides:
            return torch.empty_strided(out.shape, strides, dtype=out.dtype, device=META)
    return out


def tensors_in(items: Any, more: dict[str, Any] | None = None) -> Iterator[torch.Tensor]:
    """The tensors of an op's operands or results, lists and tuples opened."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif type(item) is list or type(item) is tuple:
            yield from tensors_in(item)
    if more:
        yield from tensors_in(more.values())


def _exchanged(item: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(item, torch.Tensor):
        return change(item)
    return type(item)(_exchanged(part, change) for part in item) if type(item) in (list, tuple) else item
