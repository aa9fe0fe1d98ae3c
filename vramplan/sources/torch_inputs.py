"""The inputs a module is traced with: those the user gives, those that come with the model, or new ones of given shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vramplan.errors import UsageError, close_matches
from vramplan.sources.onnx_types import show
from vramplan.sources.torch_model import DeclaredInput, TorchModel
from vramplan.sources.torch_signature import Parameter, forward_parameters
from vramplan.sources.torch_trees import map_tensors, named_tensors

Shapes = Mapping[str, tuple[int, ...]]

SMALL_BYTES = 1024
"""Integer inputs below this keep real values when their batch changes: a forward may read lengths and indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What forward is called with. ``named`` lists every tensor inside, in order, by the name to give to ``--shape``."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    named: tuple[tuple[str, torch.Tensor], ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name."""
        return {name: tuple(tensor.shape) for name, tensor in self.named}

    @property
    def batch(self) -> int | None:
        """Dimension 0 of the first tensor that has one; None when there is none."""
        return next((tensor.shape[0] for _, tensor in self.named if tensor.ndim), None)


def bind_inputs(
    model: TorchModel,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
) -> Inputs:
    """The inputs of *model* at these sizes. New tensors are on the meta device and take no memory.

    *args* and *kwargs* are kept as they are, on any device, nested in tuples, lists, mappings and dataclasses; without
    them, the example inputs of the model count. *shapes* gives single tensors another shape, by name; without any
    example, they make the tensors: float32, or int64 for token ids (see `Parameter.dtype`). *batch* replaces
    dimension 0 of every tensor whose dimension 0 equals that of the first one. *dims* sets dynamic dimensions of a zoo
    model by name.

    UsageError for unknown names, inputs without a shape, and sizes that an exported program does not allow.
    """
    shapes = {_canonical(model.declared, name): tuple(shape) for name, shape in (shapes or {}).items()}
    dims = dims or {}
    _check_sizes(batch, shapes, dims)
    if model.module is None:
        return _nothing(model, [*shapes, *dims])
    _check_dims(model, dims)
    parameters = forward_parameters(model.module)
    if args is not None or kwargs is not None:
        bound = _named(parameters, tuple(args or ()), dict(kwargs or {}))
    elif model.args or model.kwargs:
        bound = _named(parameters, model.args, dict(model.kwargs))
    else:
        bound, shapes = _made(model, parameters, shapes, dims), {}
    bound = _rebatched(_reshaped(bound, parameters, shapes), parameters, batch)
    _check_exported(model, bound)
    return bound


def _check_sizes(batch: int | None, shapes: Shapes, dims: Mapping[str, int]) -> None:
    if batch is not None and batch < 1:
        raise UsageError(f"batch {batch} is not a positive number", hint="Type: -b 1")
    for name, shape in shapes.items():
        if any(size < 0 for size in shape):
            raise UsageError(f"--shape {show(name)}: a size is negative", hint=f"Type: --shape {name}:1x3x640x640")
    for name, size in dims.items():
        if size < 1:
            raise UsageError(f"--dim {show(name)}: {size} is not a positive number", hint=f"Type: --dim {name}=640")


def _nothing(model: TorchModel, asked: Sequence[str]) -> Inputs:
    """A file of weights has no inputs, and no shape to give them."""
    if asked:
        raise UsageError(f"{show(model.name)} holds weights only: there is no input {show(asked[0])}", hint="Leave it out.")
    return Inputs()


def _check_dims(model: TorchModel, dims: Mapping[str, int]) -> None:
    known = {dim for given in model.declared for dim in given.dims if isinstance(dim, str)} if model.format == "zoo" else set()
    for name in dims:
        if name not in known:
            hint = close_matches(name, known) if known else "Give the whole shape: --shape NAME:1x3x640x640."
            raise UsageError(f"no dimension is called {show(name)}", hint=hint)


def _named(parameters: tuple[Parameter, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """*args* and *kwargs* with every tensor in them named."""
    values = [*zip(_positions(parameters, len(args)), args, strict=True), *kwargs.items()]
    return Inputs(args=args, kwargs=kwargs, named=tuple(pair for name, value in values for pair in named_tensors(name, value)))


def _positions(parameters: tuple[Parameter, ...], count: int) -> list[str]:
    """Names of the first *count* positional arguments. One too many is for forward itself to refuse."""
    single = [parameter.name for parameter in parameters if not parameter.by_name and not parameter.many][:count]
    many = next((parameter.name for parameter in parameters if parameter.many), "args")
    return single + [f"{many}[{index}]" for index in range(count - len(single))]


def _reshaped(bound: Inputs, parameters: tuple[Parameter, ...], shapes: Shapes) -> Inputs:
    known = bound.shapes
    for name in shapes:
        if name not in known:
            raise UsageError(f"no input is called {show(name)}", hint=close_matches(name, known))
    return _changed(bound, parameters, {name: shape for name, shape in shapes.items() if known[name] != shape})


def _rebatched(bound: Inputs, parameters: tuple[Parameter, ...], batch: int | None) -> Inputs:
    """Dimension 0 of the first tensor is the batch; tensors that share it follow, others do not have one."""
    before = bound.batch
    if batch is None or before is None or batch == before:
        return bound
    shapes = {name: (batch, *shape[1:]) for name, shape in bound.shapes.items() if shape[:1] == (before,)}
    return _changed(bound, parameters, shapes)


def _changed(bound: Inputs, parameters: tuple[Parameter, ...], shapes: Shapes) -> Inputs:
    """*bound* with the tensors named in *shapes* replaced."""
    if not shapes:
        return bound

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return _resized(tensor, shapes[name]) if name in shapes else tensor

    names = _positions(parameters, len(bound.args))
    args = tuple(map_tensors(name, value, change) for name, value in zip(names, bound.args, strict=True))
    kwargs = {name: map_tensors(name, value, change) for name, value in bound.kwargs.items()}
    return _named(parameters, args, kwargs)


def _resized(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of this shape with the dtype and memory format of *tensor*: on meta, unless its values may be read."""
    small = not tensor.is_floating_point() and not tensor.is_meta and tensor.nbytes < SMALL_BYTES
    if small and tensor.numel() and tensor.shape[1:] == shape[1:]:
        return tensor[torch.arange(shape[0]) % tensor.shape[0]]
    made = _empty(shape, tensor.dtype)
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if channels_last and len(shape) == 4 and not tensor.is_contiguous():
        return made.contiguous(memory_format=torch.channels_last)
    return made


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(shape, dtype=dtype, device="meta")
    except (RuntimeError, TypeError):
        raise UsageError(f"no tensor can have the shape {'x'.join(map(str, shape))}", hint="Give smaller sizes.") from None


def _made(model: TorchModel, parameters: tuple[Parameter, ...], shapes: Shapes, dims: Mapping[str, int]) -> Inputs:
    """New inputs: of the shapes that were given, else of those that the source declares."""
    declared = {one.parameter: _declared_shape(one, dims) for one in model.declared}
    known = [parameter.name for parameter in parameters]
    many = next((parameter for parameter in parameters if parameter.many), None)
    for name in shapes:
        if name not in known and many is None:
            aliases = [alias for one in model.declared for alias in one.aliases]
            raise UsageError(f"no input is called {show(name)}", hint=close_matches(name, [*known, *aliases]))
    sizes = {**declared, **shapes}
    _check_complete(parameters, sizes)
    return _placed(parameters, sizes)


def _canonical(declared: Iterable[DeclaredInput], name: str) -> str:
    return next((one.parameter for one in declared if name in one.aliases), name)


def _declared_shape(declared: DeclaredInput, dims: Mapping[str, int]) -> tuple[int, ...]:
    sizes = zip(declared.dims, declared.shape, strict=True)
    return tuple(dims.get(dim, size) if isinstance(dim, str) else size for dim, size in sizes)


def _check_complete(parameters: tuple[Parameter, ...], sizes: Shapes) -> None:
    """Every required parameter has a shape, and there is at least one."""
    missing = [parameter.name for parameter in parameters if parameter.required and parameter.name not in sizes]
    if not missing and (sizes or not parameters):
        return
    if not missing:
        raise UsageError(f"no input has a shape; forward takes {_listed(parameters)}", hint=_how(parameters[:1]))
    wanted = [parameter for parameter in parameters if parameter.name in missing]
    raise UsageError(f"forward({_listed(parameters)}) needs a shape for {', '.join(missing)}", hint=_how(wanted))


def _listed(parameters: Iterable[Parameter]) -> str:
    return ", ".join(f"*{parameter.name}" if parameter.many else parameter.name for parameter in parameters)


def _how(parameters: Iterable[Parameter]) -> str:
    examples = ((one.name, "1x3x640x640" if one.dtype.is_floating_point else "1x128") for one in parameters)
    flags = " ".join(f"--shape {name}:{shape}" for name, shape in examples)
    return f"Add {flags}; or let the factory return (module, args); or give args=… in the API."


def _placed(parameters: tuple[Parameter, ...], sizes: Shapes) -> Inputs:
    """By position as long as no parameter is left out, by name from there on; ``*args`` takes what has no other place."""
    made = {name: _empty(shape, _dtype(parameters, name)) for name, shape in sizes.items()}
    single = {parameter.name for parameter in parameters if not parameter.many}
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    gap = False
    for parameter in parameters:
        if parameter.many:
            args.extend(tensor for name, tensor in made.items() if name not in single)
            gap = True
        elif parameter.name not in made:
            gap = True
        elif gap or parameter.by_name:
            kwargs[parameter.name] = made[parameter.name]
        else:
            args.append(made[parameter.name])
    return _named(parameters, tuple(args), kwargs)


def _dtype(parameters: tuple[Parameter, ...], name: str) -> torch.dtype:
    return next((one for one in parameters if one.name == name), Parameter(name=name)).dtype


def _check_exported(model: TorchModel, bound: Inputs) -> None:
    """An exported program runs the shapes it was exported for; anything else would be an estimate of another model."""
    if model.format != "pt2" or len(model.declared) != len(bound.named):
        return
    for declared, (name, tensor) in zip(model.declared, bound.named, strict=True):
        for axis, (dim, size) in enumerate(zip(declared.dims, tensor.shape, strict=False)):
            if (isinstance(dim, int) and dim != size) or tensor.ndim != len(declared.dims):
                exported = "x".join(map(str, declared.dims))
                raise UsageError(
                    f"{show(name)} was exported as {exported}; dimension {axis} cannot be {size}",
                    hint="Export it again with that dimension dynamic: torch.export.export(…, dynamic_shapes=…).",
                )
