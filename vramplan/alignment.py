"""A predicted program beside a recorded one, op by op: which ops ask for the same bytes, and where they first do not.

Both name their ops alike, "module.path aten-name", in the order of execution. Ops are paired by name and order; what is
compared of a pair is the list of its requests: bytes, and whether they are freed before the next op begins.

Known limitation: of ops that repeat without a module to tell them apart, an op that only one program has may shift the pairs
between two ops that both have; a stretch of more than `_CELLS` possible pairs is not searched.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vramplan.program import Action, MemoryProgram

_CELLS = 40_000
"""Pairs that are tried in a stretch between two certain pairs: 200 ops against 200. It bounds the time by the length."""

_MOST_RUNS = 2_000_000
"""Six times as many as a forward may have. Beyond it ops that ask for nothing are left out: a recording may name any."""

Pair = tuple[int | None, int | None]


class Request(NamedTuple):
    """Bytes that an op asks for; ``is_transient`` when they are freed before the next op begins."""

    size_bytes: int
    is_transient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRequests:
    """What one run of an op asks for, in order: bytes, what for, and by which name; ``index`` is its op's in the program.

    Its events are ``[start, stop)``; an op that asks for nothing and frees nothing has none.
    """

    name: str
    index: int
    requests: tuple[Request, ...] = ()
    roles: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    start: int = 0
    stop: int = 0

    @property
    def size_bytes(self) -> int:
        """All that it asks for."""
        return sum(request.size_bytes for request in self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An op that asks for other bytes, or that only one program has (the index of the other is None).

    ``role`` is that of the largest request that has no equal on the other side. Sizes are all that the op asks for: they are
    equal where only the order or the lifetimes differ.
    """

    name: str
    role: str
    predicted_index: int | None
    measured_index: int | None
    predicted_bytes: int
    measured_bytes: int

    @property
    def error_bytes(self) -> int:
        """Predicted less measured."""
        return self.predicted_bytes - self.measured_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How two programs compare in one phase. Ops that ask for nothing are not counted.

    Invariant: there is a first difference exactly when some op is not equal; ``largest`` has the largest differences in bytes
    first.
    """

    phase: str
    equal_count: int
    different_count: int
    only_predicted_count: int
    only_measured_count: int
    first: Difference | None
    largest: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every op asks for the same bytes in both."""
        return self.first is None


def align(predicted: MemoryProgram, measured: MemoryProgram, phase: str, *, top: int = 10) -> Alignment:
    """Compare the two programs in *phase*, with the *top* largest differences. KeyError for a phase that one of them lacks."""
    counts: Counter[str] = Counter()
    differences = []
    for left, right in paired_ops(predicted, measured, phase):
        kind = _kind(left, right)
        counts[kind] += 1
        if kind in ("different", "predicted", "measured"):
            differences.append(_difference(left, right))
    return Alignment(
        phase=phase,
        equal_count=counts["equal"],
        different_count=counts["different"],
        only_predicted_count=counts["predicted"],
        only_measured_count=counts["measured"],
        first=differences[0] if differences else None,
        largest=tuple(sorted(differences, key=lambda item: -abs(item.error_bytes))[:top]),
    )


def paired_ops(
    predicted: MemoryProgram, measured: MemoryProgram, phase: str
) -> Iterator[tuple[OpRequests | None, OpRequests | None]]:
    """The runs of ops of both programs in *phase*, paired; None where only one of them has the op."""
    ours, theirs = op_requests(predicted, phase), op_requests(measured, phase)
    for mine, real in _pairs([op.name for op in ours], [op.name for op in theirs]):
        yield (None if mine is None else ours[mine]), (None if real is None else theirs[real])


def op_requests(program: MemoryProgram, phase: str) -> list[OpRequests]:
    """Every run of an op in *phase*, in order, also of ops between them that ask for nothing.

    An op that runs again, as in a loop, is there again.
    """
    _, start, stop = program.phase(phase)
    found: list[OpRequests] = []
    while start < stop:
        op_index, end = program.events[start].op_index, start + 1
        while end < stop and program.events[end].op_index == op_index:
            end += 1
        silent = range(found[-1].index + 1, op_index) if found and len(found) + op_index < _MOST_RUNS else ()
        found += (OpRequests(name=program.ops[index], index=index) for index in silent)
        found.append(_run(program, op_index, start, end))
        start = end
    return found


def _run(program: MemoryProgram, op_index: int, start: int, stop: int) -> OpRequests:
    """One run of an op: events ``[start, stop)``. No bytes are no request."""
    events = program.events[start:stop]
    freed = {event.buffer_index for event in events if event.action is Action.FREE}
    held = [event.buffer_index for event in events if event.action is Action.HOLD]
    held = [index for index in held if program.buffers[index].size_bytes]
    return OpRequests(
        name=program.ops[op_index],
        index=op_index,
        requests=tuple(Request(program.buffers[index].size_bytes, index in freed) for index in held),
        roles=tuple(program.buffers[index].role.value for index in held),
        names=tuple(program.buffers[index].name for index in held),
        start=start,
        stop=stop,
    )


def _kind(ours: OpRequests | None, theirs: OpRequests | None) -> str:
    mine, real = ours.requests if ours else (), theirs.requests if theirs else ()
    if not mine and not real:
        return "silent"
    if ours is None:
        return "measured"
    if theirs is None:
        return "predicted"
    return "equal" if mine == real else "different"


def _difference(ours: OpRequests | None, theirs: OpRequests | None) -> Difference:
    return Difference(
        name=ours.name if ours else theirs.name if theirs else "",
        role=_role(ours, theirs),
        predicted_index=ours.index if ours else None,
        measured_index=theirs.index if theirs else None,
        predicted_bytes=ours.size_bytes if ours else 0,
        measured_bytes=theirs.size_bytes if theirs else 0,
    )


def _role(ours: OpRequests | None, theirs: OpRequests | None) -> str:
    """What the largest request is for that the other side has not: ours, of two of one size; any, if only the order differs."""
    left, right = ([] if op is None else list(zip(op.requests, op.roles, strict=True)) for op in (ours, theirs))
    rest = [*_without(left, right), *_without(right, left)] or left
    return max(rest, key=lambda item: item[0].size_bytes)[1]


def _without(these: list[tuple[Request, str]], others: list[tuple[Request, str]]) -> Iterator[tuple[Request, str]]:
    """Those of *these* that have no equal request among *others*."""
    left = Counter(request for request, _ in others)
    for request, role in these:
        if left[request]:
            left[request] -= 1
        else:
            yield request, role


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Pair]:
    """Both sequences in order: pairs of positions with one name, and positions of one side with None for the other."""
    mine = real = 0
    for anchor in (*_anchors(ours, theirs), (len(ours), len(theirs))):
        yield from _gap(ours, theirs, range(mine, anchor[0]), range(real, anchor[1]))
        if anchor[0] < len(ours):
            yield anchor
        mine, real = anchor[0] + 1, anchor[1] + 1


def _anchors(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Certain pairs: the equal start and end, and between them the longest chain of the n-th runs of one name on both sides."""
    start, stop = 0, min(len(ours), len(theirs))
    while start < stop and ours[start] == theirs[start]:
        start += 1
    tail = 0
    while tail < stop - start and ours[-1 - tail] == theirs[-1 - tail]:
        tail += 1
    places = {key: start + place for place, key in enumerate(_numbered(ours[start : len(ours) - tail]))}
    middle = enumerate(_numbered(theirs[start : len(theirs) - tail]), start)
    same = [(places[key], place) for place, key in middle if key in places]
    ends = ((len(ours) - tail + step, len(theirs) - tail + step) for step in range(tail))
    return [*((step, step) for step in range(start)), *_rising(same), *ends]


def _numbered(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each name with how often it was there before."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest of the chains in *pairs* whose first numbers rise; the second ones rise already (patience sorting)."""
    tops: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, (place, _) in enumerate(pairs):
        pile = bisect_left(tops, place)
        before.append(ends[pile - 1] if pile else -1)
        tops[pile : pile + 1], ends[pile : pile + 1] = [place], [index]
    chain, index = [], ends[-1] if ends else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


def _gap(ours: Sequence[str], theirs: Sequence[str], mine: range, real: range) -> Iterator[Pair]:
    """A stretch between two anchors: by the longest common subsequence of names, or unpaired when it is too long for that."""
    common = _common([ours[place] for place in mine], [theirs[place] for place in real]) if mine and real else []
    left, right = 0, 0
    for step, other in (*common, (len(mine), len(real))):
        yield from ((place, None) for place in mine[left:step])
        yield from ((None, place) for place in real[right:other])
        if step < len(mine):
            yield mine[step], real[other]
        left, right = step + 1, other + 1


def _common(ours: list[str], theirs: list[str]) -> list[tuple[int, int]]:
    """The longest common subsequence, as pairs of positions."""
    if len(ours) * len(theirs) > _CELLS:
        return []
    lengths = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for step in range(len(ours) - 1, -1, -1):
        row, below = lengths[step], lengths[step + 1]
        for other in range(len(theirs) - 1, -1, -1):
            row[other] = below[other + 1] + 1 if ours[step] == theirs[other] else max(below[other], row[other + 1])
    pairs, step, other = [], 0, 0
    while step < len(ours) and other < len(theirs):
        if ours[step] == theirs[other]:
            pairs.append((step, other))
            step, other = step + 1, other + 1
        elif lengths[step + 1][other] >= lengths[step][other + 1]:
            step += 1
        else:
            other += 1
    return pairs
