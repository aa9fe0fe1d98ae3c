"""Does it fit, by how much, what takes most, and what to try next: one plain sentence and changes that were solved again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vramplan.errors import VramplanError
from vramplan.gpus import Gpu, usable_bytes
from vramplan.precision import NARROWER
from vramplan.result import Binding, Estimate
from vramplan.units import format_bytes

TRY_COUNT = 3
LARGEST_BATCH = 4096
"""Nobody asks for more in one request, and the search for a larger batch has to stop somewhere."""

WORTH_RATIO = 0.95
"""A change that saves less is not worth a line."""

PIXEL_MULTIPLE = 32
"""Detectors halve their input five times, so that its sides have to be multiples of 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to do differently in one cell; ``flags`` is how a user types it."""

    precision: str | None = None
    batch: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    memory_format: str | None = None
    runtime_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """The command-line flags of the change."""
        words = [f"--precision {self.precision}"] if self.precision else []
        words += [f"--memory-format {self.memory_format}"] if self.memory_format else []
        words += [f"-b {self.batch}"] if self.batch is not None else []
        words += [f"--dim {name}={size}" for name, size in self.dims.items()]
        words += [f"--shape {name}:{'x'.join(map(str, shape))}" for name, shape in self.shapes.items()]
        words += [f"--runtime-option {name}={value}" for name, value in self.runtime_options.items()]
        return " ".join(words)


THRIFTY_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "enable_mem_pattern": "0",
    "session.use_device_allocator_for_initializers": "1",
}
"""The options of an ONNX Runtime session that may save memory: growth by request, kernels with less workspace, no block for a
whole run, weights beside the arena."""

Resolve = Callable[[Estimate, Change], Estimate]
"""Solve a cell again with a change; raises `VramplanError` when the model cannot be changed that way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A change that was solved: the flags to type, the total it leads to, and both in words."""

    flags: str
    total_bytes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a process may take: ``phrase`` names it in a sentence."""

    name: str
    size_bytes: int
    phrase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether every cell fits, by the nominal estimate; None when there is no limit to fit into.

    Invariant: ``fits``, ``limit_bytes`` and ``headroom_bytes`` (of the largest cell, negative when over) are all known
    or all None.
    """

    fits: bool | None
    limit_bytes: int | None
    limit_name: str
    headroom_bytes: int | None
    sentence: str
    tries: tuple[Try, ...]


def judge(
    cells: Sequence[Estimate], *, budget_bytes: int | None = None, gpu: Gpu | None = None, resolve: Resolve | None
) -> Verdict:
    """Compare *cells* with the budget or with what a program can use of *gpu*, whichever is less.

    Without *resolve* there is no advice: solving a change again takes longer than the answer itself.
    """
    limit = find_limit(budget_bytes, gpu)
    tries = tuple(_tries(cells, limit, resolve)) if resolve else ()
    if limit is None:
        return Verdict(
            fits=None, limit_bytes=None, limit_name="", headroom_bytes=None, sentence=_sizes_sentence(cells), tries=tries
        )
    headroom_bytes = limit.size_bytes - max(cell.total_bytes for cell in cells)
    return Verdict(
        fits=headroom_bytes >= 0,
        limit_bytes=limit.size_bytes,
        limit_name=limit.name,
        headroom_bytes=headroom_bytes,
        sentence=_fit_sentence(cells[0], limit) if len(cells) == 1 else _count_sentence(cells, limit),
        tries=tries,
    )


def find_limit(budget_bytes: int | None, gpu: Gpu | None) -> Limit | None:
    """The budget, or what a program can use of the card; the smaller when both are given."""
    limits = []
    if budget_bytes is not None:
        limits.append(Limit(name="budget", size_bytes=budget_bytes, phrase=f"the budget of {format_bytes(budget_bytes)}"))
    if gpu is not None:
        usable = usable_bytes(gpu).nominal_bytes
        size = format_bytes(usable)
        phrase = f"the card's {size}" if is_custom(gpu) else f"the {size} usable on the {_short(gpu)}"
        limits.append(Limit(name=gpu.name, size_bytes=usable, phrase=phrase))
    return min(limits, key=lambda limit: limit.size_bytes, default=None)


def cell_name(cell: Estimate) -> str:
    """``fp16 at batch 8``, or ``fp16`` for a model without a batch."""
    return cell.precision if cell.batch is None else f"{cell.precision} at batch {cell.batch}"


def name_among(cells: Sequence[Estimate], cell: Estimate) -> str:
    """`cell_name`, with the runtime where *cells* have several."""
    several = len({each.runtime for each in cells}) > 1
    return f"{cell.runtime}, {cell_name(cell)}" if several else cell_name(cell)


def is_custom(gpu: Gpu) -> bool:
    """Whether only the memory of the card is known, as the user gave it."""
    return gpu.family == "custom"


def _short(gpu: Gpu) -> str:
    return gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _size(cell: Estimate) -> int:
    return cell.total_bytes


def _largest_part(cell: Estimate) -> str:
    name, part = max(cell.budget.parts.items(), key=lambda item: item[1].nominal_bytes)
    return f"{name.replace('_', ' ')}, {format_bytes(part.nominal_bytes)}"


def _sizes_sentence(cells: Sequence[Estimate]) -> str:
    least, most = min(cells, key=_size), max(cells, key=_size)
    ask = "--gpu NAME or --budget SIZE says whether it fits."
    if len(cells) == 1:
        doubt = f" ({format_bytes(most.total_low_bytes)} to {format_bytes(most.total_high_bytes)})"
        doubt = doubt if most.total_low_bytes < most.total_high_bytes else ""
        return f"Takes {format_bytes(most.total_bytes)}{doubt}; the largest part: {_largest_part(most)}. {ask}"
    return (
        f"From {format_bytes(least.total_bytes)} ({name_among(cells, least)}) to {format_bytes(most.total_bytes)}"
        f" ({name_among(cells, most)}, largest part: {_largest_part(most)}). {ask}"
    )


def _fit_sentence(cell: Estimate, limit: Limit) -> str:
    part = f"The largest part: {_largest_part(cell)}."
    if cell.total_bytes > limit.size_bytes:
        over = format_bytes(cell.total_bytes - limit.size_bytes)
        low = f"; only the low end of the range, {format_bytes(cell.total_low_bytes)}, would fit"
        doubt = low if cell.total_low_bytes <= limit.size_bytes else ""
        return f"Does not fit: takes {format_bytes(cell.total_bytes)}, {over} more than {limit.phrase}{doubt}. {part}"
    spare = format_bytes(limit.size_bytes - cell.total_bytes)
    takes = f"takes {format_bytes(cell.total_bytes)} and leaves {spare} of {limit.phrase}"
    if cell.total_high_bytes > limit.size_bytes:
        high, over = format_bytes(cell.total_high_bytes), format_bytes(cell.total_high_bytes - limit.size_bytes)
        return f"May not fit: {takes}, but the high end of the range, {high}, is {over} over. {part}"
    return f"Fits: {takes}. {part}"


def _count_sentence(cells: Sequence[Estimate], limit: Limit) -> str:
    fitting = [cell for cell in cells if cell.total_bytes <= limit.size_bytes]
    shown = max(cells, key=_size) if fitting else min(cells, key=_size)
    spare = limit.size_bytes - shown.total_bytes
    balance = f"leaves {format_bytes(spare)}" if spare >= 0 else f"is {format_bytes(-spare)} over"
    return (
        f"{_count(len(fitting), len(cells))} {limit.phrase}{_doubt(fitting, limit)}."
        f" The {'largest' if fitting else 'smallest'}, {name_among(cells, shown)}, takes {format_bytes(shown.total_bytes)}"
        f" and {balance}; its largest part: {_largest_part(shown)}."
    )


def _count(fitting: int, all_cells: int) -> str:
    if fitting == 0:
        return f"None of the {all_cells} cells fits"
    return f"All {all_cells} cells fit" if fitting == all_cells else f"{fitting} of {all_cells} cells fit"


def _doubt(fitting: Sequence[Estimate], limit: Limit) -> str:
    doubtful = sum(cell.total_high_bytes > limit.size_bytes for cell in fitting)
    if not doubtful:
        return ""
    which = "all" if doubtful == len(fitting) else f"{doubtful} of them"
    return f", {which} by the nominal estimate only: the high end of the range is over"


def _tries(cells: Sequence[Estimate], limit: Limit | None, resolve: Resolve) -> Iterator[Try]:
    """Up to three changes of one cell: the smallest that does not fit, else the largest.

    A graph of very many ops takes seconds to solve, so it gets no advice that nobody asked for.
    """
    if cells[0].coverage.ops > RESOLVE_OP_COUNT:
        return
    over = [cell for cell in cells if limit and cell.total_bytes > limit.size_bytes]
    base = min(over, key=_size) if over else max(cells, key=_size)
    attempts = _Attempts(base=base, known=cells, limit=limit, resolve=resolve)
    found = (
        attempts.other_options(),
        attempts.narrower(),
        attempts.other_layout(),
        attempts.other_batch(),
        attempts.smaller_input(),
    )
    solved = [attempt for attempt in found if attempt is not None]
    if over and limit:
        solved = [attempt for attempt in solved if attempt[1].total_bytes <= limit.size_bytes] or solved
    for change, cell in solved[:TRY_COUNT]:
        flags = change.flags if len(cells) == 1 else _full_flags(base, change, is_in_turn=any(each.runs for each in cells))
        if len({each.runtime for each in cells}) > 1:
            flags = f"--runtime {base.runtime} {flags}"
        yield Try(flags=flags, total_bytes=cell.total_bytes, text=f"{flags}: {_effect(base, cell, limit)}")


def _full_flags(base: Estimate, change: Change, *, is_in_turn: bool) -> str:
    """Among several cells the flags have to say which one is changed; shapes that change between runs say the batch."""
    own_batch = None if is_in_turn else base.batch
    full = Change(
        precision=change.precision or base.precision,
        batch=change.batch if change.batch is not None else own_batch,
        dims=change.dims,
        shapes=change.shapes,
        memory_format=change.memory_format,
        runtime_options=change.runtime_options,
    )
    return full.flags


def _effect(base: Estimate, cell: Estimate, limit: Limit | None) -> str:
    """``412.0 MiB (-253.1 MiB, -38 %), fits``."""
    ratio = cell.total_bytes / base.total_bytes
    change = f"{100 * (ratio - 1):+.0f} %" if ratio < 2 else f"× {ratio:.1f}"
    change = f"-{format_bytes(base.total_bytes - cell.total_bytes)}, {change}" if ratio < 1 else change
    text = f"{format_bytes(cell.total_bytes)} ({change})"
    if limit is None:
        return text
    if cell.total_bytes > limit.size_bytes:
        return f"{text}, still {format_bytes(cell.total_bytes - limit.size_bytes)} over"
    return f"{text}, fits" + (" by the nominal estimate" if cell.total_high_bytes > limit.size_bytes else "")


RESOLVE_OP_COUNT = 20_000
"""Beyond this many ops no change is solved again: each would take as long as the answer itself."""

Solved = tuple[Change, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempts:
    """The search for changes of *base* that help; ``known`` are the cells that the user sees anyway."""

    base: Estimate
    known: Sequence[Estimate]
    limit: Limit | None
    resolve: Resolve

    def fits(self, cell: Estimate) -> bool:
        return self.limit is None or cell.total_bytes <= self.limit.size_bytes

    def narrower(self) -> Solved | None:
        """The next narrower precision that makes it fit, or the narrowest that saves anything."""
        shown = {cell.precision for cell in self.known if cell.batch == self.base.batch}
        names = [name for name in NARROWER.get(self.base.precision, ()) if name not in shown]
        return self.best(Change(precision=name) for name in names)

    def other_layout(self) -> Solved | None:
        """channels_last for a module of images, where convolutions then need no copies of their operands."""
        has_images = any(len(binding.shape or ()) == 4 for binding in self.base.model.inputs)
        if self.base.runtime != "torch" or self.base.memory_format == "channels_last" or not has_images:
            return None
        return self.best([Change(memory_format="channels_last")])

    def other_options(self) -> Solved | None:
        """ONNX Runtime: the option that saves most, and with it the next ones as long as each is worth it."""
        if self.base.runtime != "onnxruntime":
            return None
        found = self.best_option({}, THRIFTY_OPTIONS)
        while found and not (self.limit and self.fits(found[1])):
            chosen = found[0].runtime_options
            more = self.best_option(chosen, {name: THRIFTY_OPTIONS[name] for name in THRIFTY_OPTIONS if name not in chosen})
            if more is None or more[1].total_bytes > found[1].total_bytes - (1 - WORTH_RATIO) * self.base.total_bytes:
                break
            found = more
        return found

    def best_option(self, chosen: Mapping[str, str], others: Mapping[str, str]) -> Solved | None:
        """The one of *others* that leads to the least memory beside *chosen*."""
        changes = [Change(runtime_options={**chosen, name: value}) for name, value in others.items()]
        solved = [(change, cell) for change in changes if (cell := self.solve(change)) and self.is_worth_it(cell)]
        return min(solved, key=lambda pair: pair[1].total_bytes, default=None)

    def other_batch(self) -> Solved | None:
        """A smaller batch; a larger one when less than half of the limit is used."""
        if self.base.batch is None:
            return None
        if self.limit and 2 * self.base.total_high_bytes <= self.limit.size_bytes:
            return self.larger_batch(self.base.batch, self.limit)
        shown = {cell.batch for cell in self.known if cell.precision == self.base.precision}
        batches = _halves(self.base.batch)
        return self.best(Change(batch=batch) for batch in batches if batch not in shown)

    def larger_batch(self, batch: int, limit: Limit) -> Solved | None:
        """The largest doubling of the batch that surely fits: aimed at along a straight line, solved, and halved if over."""
        doubled = self.solve(Change(batch=2 * batch))
        if doubled is None or doubled.total_high_bytes > limit.size_bytes or doubled.total_bytes <= self.base.total_bytes:
            return None
        # An arena grows in steps: its high end may stay where it is although the nominal size has grown.
        growth = max(doubled.total_high_bytes - self.base.total_high_bytes, doubled.total_bytes - self.base.total_bytes)
        steps = (limit.size_bytes - self.base.total_high_bytes) // growth
        larger = batch << min(1 + steps, LARGEST_BATCH // batch).bit_length() >> 1
        while larger > 2 * batch:
            cell = self.solve(Change(batch=larger))
            if cell is not None and cell.total_high_bytes <= limit.size_bytes:
                return Change(batch=larger), cell
            larger //= 2
        return Change(batch=2 * batch), doubled

    def smaller_input(self) -> Solved | None:
        """Three quarters of the input's height and width, or half when that does not fit either or nothing has to fit."""
        for binding in self.base.model.inputs:
            sides = _pixel_sides(binding)
            if sides and binding.shape:
                factors = (0.75, 0.5) if self.limit else (0.5,)
                changes = [change for factor in factors for change in _scaled(binding, sides, factor)]
                return self.best(changes)
        return None

    def best(self, changes: Iterable[Change]) -> Solved | None:
        """The first of *changes* that saves something and fits; the one that saves most when none fits."""
        saving = []
        for change in changes:
            cell = self.solve(change)
            if cell is None or not self.is_worth_it(cell):
                continue
            if self.fits(cell):
                return change, cell
            saving.append((change, cell))
        return min(saving, key=lambda solved: solved[1].total_bytes, default=None)

    def is_worth_it(self, cell: Estimate) -> bool:
        return cell.total_bytes < WORTH_RATIO * self.base.total_bytes

    def solve(self, change: Change) -> Estimate | None:
        """None when the model cannot be changed that way: its batch is fixed, its sides have to match."""
        try:
            return self.resolve(self.base, change)
        except VramplanError:
            return None


def _halves(batch: int) -> Iterator[int]:
    """8 gives 4, 2, 1."""
    while batch > 1:
        batch //= 2
        yield batch


def _pixel_sides(binding: Binding) -> tuple[int, ...]:
    """The axes of an image's height and width when both are dynamic: NCHW with known channels, or NHWC."""
    for axes, channel in (((2, 3), 1), ((1, 2), 3)):
        dims = binding.dims
        if len(dims) == 4 and isinstance(dims[channel], int) and all(isinstance(dims[axis], str) for axis in axes):
            return axes
    return ()


def _scaled(binding: Binding, axes: tuple[int, ...], factor: float) -> Iterator[Change]:
    """By the names of the dimensions, and by the whole shape for a model where that is how they were given."""
    shape = list(binding.shape or ())
    for axis in axes:
        shape[axis] = max(PIXEL_MULTIPLE, int(shape[axis] * factor) // PIXEL_MULTIPLE * PIXEL_MULTIPLE)
    yield Change(dims={str(binding.dims[axis]): shape[axis] for axis in axes})
    yield Change(shapes={binding.name: tuple(shape)})
