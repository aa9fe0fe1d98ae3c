"""Gives every open dimension of a model's inputs a size: the batch, named dimensions, whole shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vramplan.errors import ModelError, UsageError, close_matches
from vramplan.sources.onnx_dims import evaluate_dim
from vramplan.sources.onnx_tree import ANY_DIM, Declared
from vramplan.sources.onnx_types import check_dims, show

Shapes = dict[str, tuple[int, ...] | None]

_EXPORT_HINT = "Export it with a dynamic batch axis, or leave -b out."


def bind_dims(
    inputs: Sequence[Declared], *, batch: int | None, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]
) -> tuple[Shapes, dict[str, int]]:
    """The shape of each input, and the size of each named dimension.

    A batch axis that nothing else binds is 1 when it is the only dimension still open. Raises `UsageError` when a size
    contradicts the model or another size, names nothing, or is missing. Inputs that are no tensors have shape None.
    """
    binder = _Binder([declared for declared in inputs if declared.container in {"", "optional"}])
    binder.bind_named(dims)
    binder.bind_shapes(shapes)
    if batch is not None:
        binder.bind_batch(batch)
    elif all(binder.is_batch(declared, axis) for declared, axis in binder.open_axes()):
        binder.fill_batch(1)
    binder.check_complete()
    bound: Shapes = dict.fromkeys(declared.name for declared in inputs)
    bound.update(binder.shapes())
    return bound, binder.symbols


class _Binder:
    """Sizes decided so far: of symbols, and of single axes that have no name."""

    def __init__(self, inputs: Sequence[Declared]) -> None:
        self.inputs = inputs
        self.symbols: dict[str, int] = {}
        self.sources: dict[str, str] = {}
        self.axes: dict[tuple[str, int], int] = {}
        self.given: dict[str, tuple[int, ...]] = {}
        self.batch_symbol = batch_symbol(inputs)

    def bind_named(self, dims: Mapping[str, int]) -> None:
        written = {dim for declared in self.inputs for dim in declared.dims or () if isinstance(dim, str)}
        known = sorted(written - {ANY_DIM})
        for given, size in dims.items():
            name = _meant(given, known)
            if name not in known:
                hint = close_matches(name, known) if known else "All its dimensions are fixed, or have no name: use --shape."
                raise UsageError(f"--dim {given}={size}: the model has no dimension {show(given)}", hint=hint)
            self.bind_symbol(name, size, f"--dim {given}={size}")

    def bind_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        by_name = {declared.name: declared for declared in self.inputs}
        for name, shape in shapes.items():
            flag = f"--shape {name}:{'x'.join(map(str, shape))}"
            if name not in by_name:
                raise UsageError(f"{flag}: the model has no input {show(name)}", hint=close_matches(name, by_name))
            declared = by_name[name].dims
            self.given[name] = tuple(_size(size, flag) for size in shape)
            if declared is not None and len(declared) != len(shape):
                raise UsageError(f"{flag}: input {show(name)} has {len(declared)} dimensions, {_written(by_name[name])}")
            for axis, (dim, size) in enumerate(zip(declared or (), shape, strict=False)):
                self.bind_axis(name, axis, dim, size, flag)

    def bind_axis(self, name: str, axis: int, dim: int | str, size: int, flag: str) -> None:
        if isinstance(dim, int) and dim != size:
            hint = _EXPORT_HINT.replace("-b", "it") if axis == 0 else "Export the model with that dimension dynamic."
            raise UsageError(f"{flag}: axis {axis} of input {show(name)} is fixed at {dim} in the file, not {size}", hint=hint)
        if dim == ANY_DIM:
            self.axes[name, axis] = size
        elif isinstance(dim, str):
            self.bind_symbol(dim, size, flag)

    def bind_symbol(self, symbol: str, size: int, flag: str) -> None:
        if self.symbols.setdefault(symbol, _size(size, flag)) != size:
            raise UsageError(f"{flag}: dimension {show(symbol)} is already {self.symbols[symbol]}, by {self.sources[symbol]}")
        self.sources.setdefault(symbol, flag)

    def bind_batch(self, batch: int) -> None:
        flag = f"-b {batch}"
        if batch < 1:
            raise UsageError(f"{flag}: a batch has at least one item")
        if self.batch_symbol is not None:
            self.bind_symbol(self.batch_symbol, batch, flag)
        self.fill_batch(batch)
        for declared in self.inputs:
            given = self.given.get(declared.name, ())
            if declared.dims and declared.dims[0] == ANY_DIM and given and given[0] != batch:
                raise UsageError(f"{flag}: --shape already gives input {show(declared.name)} a batch of {given[0]}")
        if not any(self.is_batch(declared, axis) for declared in self.inputs for axis in range(len(declared.dims or ()))):
            self.check_fixed_batch(batch, flag)

    def fill_batch(self, batch: int) -> None:
        """Bind what is still open of the batch axes."""
        if self.batch_symbol is not None:
            self.symbols.setdefault(self.batch_symbol, batch)
        for declared in self.inputs:
            if declared.dims and declared.dims[0] == ANY_DIM:
                self.axes.setdefault((declared.name, 0), batch)

    def check_fixed_batch(self, batch: int, flag: str) -> None:
        """With no batch axis to bind, *batch* must be what the model was exported with."""
        first = next((declared for declared in self.inputs if declared.dims), None)
        if first is None or not first.dims:
            if not any(declared.dims is None for declared in self.inputs):
                raise UsageError(f"{flag}: the model has no input with a batch axis")
        elif first.dims[0] != batch:
            raise UsageError(
                f"{flag}: the batch of input {show(first.name)} is fixed at {first.dims[0]} in the file ({_written(first)})",
                hint=_EXPORT_HINT,
            )

    def is_batch(self, declared: Declared, axis: int) -> bool:
        """Whether -b binds this axis."""
        dim = (declared.dims or ())[axis] if axis < len(declared.dims or ()) else None
        return (dim == ANY_DIM and axis == 0) or (isinstance(dim, str) and dim != ANY_DIM and dim == self.batch_symbol)

    def size_of(self, declared: Declared, axis: int, dim: int | str) -> int | None:
        if isinstance(dim, int):
            return dim
        return self.axes.get((declared.name, axis)) if dim == ANY_DIM else evaluate_dim(dim, self.symbols)

    def open_axes(self) -> list[tuple[Declared, int]]:
        """Axes without a size; an input of unknown rank counts as one."""
        found = []
        for declared in self.inputs:
            if declared.dims is None:
                found += [(declared, 0)] if declared.name not in self.given else []
            else:
                sizes = (self.size_of(declared, axis, dim) for axis, dim in enumerate(declared.dims))
                found += [(declared, axis) for axis, size in enumerate(sizes) if size is None]
        return found

    def check_complete(self) -> None:
        """Raise the error that names what is open and the flag that binds it."""
        axes = self.open_axes()
        if not axes:
            return
        declared = axes[0][0]
        if declared.dims is None:
            raise UsageError(
                f"input {show(declared.name)} has no declared shape", hint=f"Give it: --shape {declared.name}:1x3x640x640"
            )
        open_here = [axis for other, axis in axes if other is declared]
        names = {axis: str(declared.dims[axis]) for axis in open_here}
        words = [f"axis {axis}" if name == ANY_DIM else f"{show(name)} (axis {axis})" for axis, name in names.items()]
        raise UsageError(
            f"input {show(declared.name)} leaves {_listed(words)} open: {_written(declared)}",
            hint=self.flags(declared, open_here),
        )

    def flags(self, declared: Declared, open_here: Iterable[int]) -> str:
        """The flags to type, with sizes to replace."""
        dims = declared.dims or ()
        example = 640 if len(dims) >= 4 else 128
        sizes = [self.size_of(declared, axis, dim) for axis, dim in enumerate(dims)]
        examples = [1 if self.is_batch(declared, axis) else example for axis in range(len(dims))]
        shown = [given if size is None else size for size, given in zip(sizes, examples, strict=True)]
        shape = f"--shape {declared.name}:{'x'.join(map(str, shown))}"
        named = dict.fromkeys(f"--dim {dims[axis]}={shown[axis]}" for axis in open_here if dims[axis] != ANY_DIM)
        return f"For example: {' '.join(named)}, or {shape}" if named else f"For example: {shape}"

    def shapes(self) -> Shapes:
        """The bound shape of every input, each one checked."""
        bound: Shapes = {}
        for declared in self.inputs:
            shape = self.given.get(declared.name, ())
            if declared.dims is not None:
                sizes = (self.size_of(declared, axis, dim) for axis, dim in enumerate(declared.dims))
                shape = tuple(size for size in sizes if size is not None)
            try:
                check_dims(declared.name, declared.dtype, shape, what="input")
            except ModelError as error:
                raise UsageError(error.message, hint="Check the sizes given with --shape, --dim and -b.") from None
            bound[declared.name] = shape
        return bound


def batch_symbol(inputs: Sequence[Declared]) -> str | None:
    """The dimension that -b binds: one that is called so, else the first open axis 0 (None when that has no name)."""
    symbols = [dim for declared in inputs for dim in declared.dims or () if isinstance(dim, str) and dim.isidentifier()]
    called = next((symbol for symbol in symbols if "batch" in symbol.lower()), None)
    leading = (declared.dims[0] for declared in inputs if declared.dims)
    first = next((dim for dim in leading if isinstance(dim, str)), None)
    return called if called is not None else first if first != ANY_DIM else None


def _size(size: int, flag: str) -> int:
    if size < 0:
        raise UsageError(f"{flag}: a dimension cannot be {size}")
    return size


def _written(declared: Declared) -> str:
    dims = ", ".join(map(str, declared.dims or ()))
    return f"the file says [{dims[:200]}]"


def _listed(words: Sequence[str]) -> str:
    shown = list(words[:4]) + ([f"{len(words) - 4} more"] if len(words) > 4 else [])
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def _meant(given: str, known: Sequence[str]) -> str:
    """The dimension that *given* names: itself, or the only one that begins so in any case (``H`` for ``height``)."""
    near = [name for name in known if name.lower().startswith(given.lower())]
    return near[0] if given not in known and len(near) == 1 else given
