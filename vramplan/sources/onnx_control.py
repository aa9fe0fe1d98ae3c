"""If, Loop and Scan, written down flat.

- If: the branch that a constant condition picks; otherwise the one that writes more bytes, with the other in a note.
- Loop and Scan: the body once, because one iteration's buffers are let go before the next begins. A node of the same
  name stands before it. It writes what the loop itself holds: the counter, the slices, and the outputs that grow with
  every iteration, at their final size, because they are held until the loop ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.graph import Node
from vramplan.sources.onnx_facts import Fact, Shape, unknown
from vramplan.sources.onnx_rules import MAX_ITEMS
from vramplan.sources.onnx_scope import Scope
from vramplan.sources.onnx_tree import Body, Operation
from vramplan.sources.onnx_types import show
from vramplan.sources.onnx_walk import Walk

_ENDLESS = 1 << 31
"""A trip count at least this large means "until the condition says so"; torch writes 2^63 - 1."""


def walk_if(walk: Walk, operation: Operation, scope: Scope) -> None:
    """Inline one branch."""
    branches = [_body(walk, operation, key) for key in ("then_branch", "else_branch")]
    condition = walk.facts[walk.name_of(scope, operation.inputs[0], reader=operation.name)] if operation.inputs else None
    names = [walk.declare(scope, name) if name else "" for name in operation.outputs]
    if condition is not None and condition.value is not None and condition.value.size:
        taken = 0 if bool(condition.value.reshape(-1)[0]) else 1
        _walk_branch(walk, operation, scope, branches[taken], names)
        return
    walked = [_try_branch(walk, operation, scope, branch, names) for branch in branches]
    errors = [found for found in walked if isinstance(found, ModelError)]
    if len(errors) == len(walked):
        raise errors[0]
    if errors:
        walk.notes.append(
            f"If node {show(operation.name)}: one branch cannot run at these sizes ({errors[0].message}); left out"
        )
    kept, *left = sorted((found for found in walked if isinstance(found, _Branch)), key=lambda branch: -branch.size_bytes)
    walk.nodes.extend(kept.nodes)
    for name, fact in zip(names, kept.facts, strict=True):
        if name:
            walk.facts[name] = fact
    for other in left:
        _join(walk, operation, names, kept, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """A branch, walked but not yet written down."""

    label: str
    nodes: tuple[Node, ...]
    facts: tuple[Fact, ...]
    size_bytes: int


def _try_branch(
    walk: Walk, operation: Operation, scope: Scope, branch: tuple[str, Body], names: Sequence[str]
) -> _Branch | ModelError:
    """Walk a branch and take its nodes back; the error, if it cannot run at these sizes."""
    start, notes = len(walk.nodes), len(walk.notes)
    try:
        facts = _walk_branch(walk, operation, scope, branch, names)
    except ModelError as error:
        del walk.nodes[start:], walk.notes[notes:]
        return error
    nodes = tuple(walk.nodes[start:])
    del walk.nodes[start:]
    written = (walk.facts[name] for node in nodes for name in node.writes)
    size_bytes = sum(fact.dtype.storage_bytes(fact.count or 0) for fact in written)
    return _Branch(label=branch[0].removesuffix("_branch"), nodes=nodes, facts=tuple(facts), size_bytes=size_bytes)


def _join(walk: Walk, operation: Operation, names: Sequence[str], kept: _Branch, other: _Branch) -> None:
    """What is known of the outputs whichever branch runs."""
    for name, here, there in zip(names, kept.facts, other.facts, strict=True):
        if name:
            walk.facts[name] = _either(here, there)
    walk.notes.append(
        f"If node {show(operation.name)}: counted with its {kept.label} branch, which writes {kept.size_bytes:,} bytes; "
        f"the {other.label} branch writes {other.size_bytes:,}"
    )


def _walk_branch(walk: Walk, operation: Operation, scope: Scope, branch: tuple[str, Body], names: Sequence[str]) -> list[Fact]:
    """Walk a branch that writes *names*; the facts of those, nothing for an output that nobody reads."""
    key, body = branch
    if len(body.outputs) < len(names):
        raise ModelError(f"{walk.where}: the {key} of node {show(operation.name)} has too few outputs")
    label = key.removesuffix("_branch")
    prefix = f"{scope.inner_prefix(operation.name)}{label}/"
    inner = Scope(body, opsets=scope.opsets, parent=scope, prefix=prefix, attributes=scope.attributes)
    walk.expand(inner, [(value.name, name) for value, name in zip(body.outputs, names, strict=False) if name])
    return [walk.facts[name] if name else unknown(DType.BOOL) for name in names]


def _either(kept: Fact, other: Fact) -> Fact:
    """An output that one branch or the other writes."""
    if kept.dims == other.dims and kept.low is None and other.low is None and kept.items is None:
        return kept.without_value()
    return replace(kept, value=None, low=(other.low or other).without_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """A loop about to be walked: what it carries, what it slices, how often it runs (None when that is not known)."""

    body: Body
    initial: tuple[str, ...]
    slices: tuple[Fact, ...]
    trips: int | None
    leading: int
    output_axes: tuple[int, ...]


def walk_loop(walk: Walk, operation: Operation, scope: Scope) -> None:
    """Inline one iteration of a Loop. Its body reads a counter and the condition before what it carries."""
    names = [walk.name_of(scope, name, reader=operation.name) if name else "" for name in operation.inputs]
    limit = walk.fact(names[0]) if names else None
    trips = None
    if limit is not None and limit.value is not None and limit.value.size:
        trips = max(0, int(limit.value.reshape(-1)[0]))
        trips = None if trips >= _ENDLESS else trips
    counter = (Fact(dtype=DType.INT64, dims=()), Fact(dtype=DType.BOOL, dims=()))
    body = _body(walk, operation, "body")[1]
    loop = _Loop(body=body, initial=tuple(names[2:]), slices=counter, trips=trips, leading=1, output_axes=())
    stops_early = _walk_body(walk, operation, scope, loop, names)
    if trips is None or stops_early:
        walk.notes.append(
            f"Loop node {show(operation.name)} runs "
            + ("a number of times that depends on the data" if trips is None else f"at most {trips:,} times")
        )


def walk_scan(walk: Walk, operation: Operation, scope: Scope) -> None:
    """Inline one iteration of a Scan. Its body reads what it carries before one slice of each sequence."""
    names = [walk.name_of(scope, name, reader=operation.name) if name else "" for name in operation.inputs]
    count = operation.attributes.get("num_scan_inputs")
    if not isinstance(count, int) or not 0 < count <= len(names):
        raise ModelError(f"{walk.where}: Scan node {show(operation.name)} has {len(names)} inputs and num_scan_inputs {count}")
    if scope.opsets.get("", 1) < 9:
        # The first Scan counts axes after a batch axis; no exporter in use writes it.
        walk.compute(operation, scope)
        return
    axes = _ints(operation, "scan_input_axes") or (0,) * count
    sliced = [_slice(walk.facts[name], axis) for name, axis in zip(names[-count:], axes, strict=False)]
    trips = next((size for size, _ in sliced if size is not None), None)
    loop = _Loop(
        body=_body(walk, operation, "body")[1],
        initial=tuple(names[:-count]),
        slices=tuple(fact for _, fact in sliced),
        trips=trips,
        leading=0,
        output_axes=_ints(operation, "scan_output_axes"),
    )
    _walk_body(walk, operation, scope, loop, names)


def _walk_body(walk: Walk, operation: Operation, scope: Scope, loop: _Loop, reads: Sequence[str]) -> bool:
    """Write down the loop's own node, then one iteration; returns whether a condition may stop it early."""
    body, carried = loop.body, len(loop.initial)
    values = (*body.inputs[2:], *body.inputs[:2]) if loop.leading else body.inputs
    results = body.outputs[loop.leading :]
    if len(body.inputs) != carried + len(loop.slices) or len(operation.outputs) > len(results) or len(results) < carried:
        raise ModelError(f"{walk.where}: node {show(operation.name)} does not fit its body's inputs and outputs")
    prefix = f"{scope.inner_prefix(operation.name)}body/"
    inner = Scope(body, opsets=scope.opsets, parent=scope, prefix=prefix, attributes=scope.attributes)
    held = [walk.write(inner, value.name, fact) for value, fact in zip(values[carried:], loop.slices, strict=True)]
    starts = []
    for value, name in zip(values[:carried], loop.initial, strict=True):
        fact = walk.fact(name) or unknown(value.dtype)
        starts.append(fact)
        if fact.value is not None or not name:
            # The first iteration's elements are not the next one's: the value gets a name of its own, without them.
            held.append(walk.write(inner, value.name, fact.without_value()))
        else:
            inner.names[value.name] = name
    gathered = zip(results[carried:], operation.outputs[carried:], strict=False)
    collected = [(value.name, name) for value, name in gathered if name]
    for _, name in collected:
        held.append(walk.declare(scope, name))
        walk.facts[held[-1]] = unknown(DType.FLOAT32)
    if held:
        walk.emit(operation, scope, reads, held)
    states = zip(results[:carried], operation.outputs, strict=False)
    walk.expand(inner, [(value.name, walk.declare(scope, name)) for value, name in states if name])
    stops_early = bool(loop.leading) and not _always_true(walk, inner, body)
    for index, (inside, outside) in enumerate(collected):
        each = walk.facts[walk.name_of(inner, inside, reader=operation.name)]
        axis = loop.output_axes[index] if index < len(loop.output_axes) else 0
        walk.facts[scope.names[outside]] = _collected(each, loop.trips, axis, stops_early=stops_early)
    for index, name in enumerate(operation.outputs[:carried]):
        if name:
            walk.facts[scope.names[name]] = _carried(starts[index], walk.facts[scope.names[name]], loop.trips)
    return stops_early


def _always_true(walk: Walk, inner: Scope, body: Body) -> bool:
    """Whether the condition that the body computes never ends the loop: constant, or handed through unchanged."""
    condition, given = body.outputs[0].name, body.inputs[1].name
    written_by = {name: step for step in body.operations for name in step.outputs}
    while condition in written_by and written_by[condition].op in {"Identity", "Cast"}:
        condition = written_by[condition].inputs[0]
    if condition == given:
        return True
    fact = walk.facts[walk.name_of(inner, condition, reader="the loop's condition")]
    return fact.value is not None and bool(fact.value.all())


def _collected(each: Fact, trips: int | None, axis: int, *, stops_early: bool) -> Fact:
    """An output that gathers one piece from each iteration."""
    if each.dims is None:
        return unknown(each.dtype)
    rank = len(each.dims) + 1
    if not -rank <= axis < rank:
        return unknown(each.dtype)
    axis %= rank

    def stacked(dims: Shape, count: int | None) -> Fact:
        return Fact(dtype=each.dtype, dims=(*dims[:axis], count, *dims[axis:]))

    least = 0 if stops_early else trips
    low_dims = each.low.dims if each.low is not None and each.low.dims is not None else each.dims
    low = None if least == trips and each.low is None else stacked(low_dims, least)
    return replace(stacked(each.dims, trips), low=low)


def _carried(start: Fact, end: Fact, trips: int | None) -> Fact:
    """A value after the last iteration: what it was after one, unless it grows each time."""
    if start.items is not None and end.items is not None and trips is not None:
        added = end.items[len(start.items) :]
        return replace(end, items=(*start.items, *added * trips)) if len(added) * trips <= MAX_ITEMS else unknown(end.dtype)
    first, second = start.count, end.count
    if first is None or second is None or first == second:
        return end.without_value()
    if trips is None or end.items is not None:
        return unknown(end.dtype)
    grown = first + trips * (second - first)
    return replace(unknown(end.dtype), limits=(max(0, min(first, second, grown)), max(first, second, grown)))


def _slice(fact: Fact, axis: int) -> tuple[int | None, Fact]:
    """How many slices a sequence has along *axis*, and what one of them is."""
    if fact.dims is None or not -len(fact.dims) <= axis < len(fact.dims):
        return None, unknown(fact.dtype)
    axis %= len(fact.dims)
    return fact.dims[axis], Fact(dtype=fact.dtype, dims=(*fact.dims[:axis], *fact.dims[axis + 1 :]))


def _body(walk: Walk, operation: Operation, key: str) -> tuple[str, Body]:
    if key not in operation.bodies:
        raise ModelError(f"{walk.where}: node {show(operation.name)} ({operation.op}) has no {key}")
    return key, operation.bodies[key]


def _ints(operation: Operation, name: str) -> tuple[int, ...]:
    value = operation.attributes.get(name, ())
    return tuple(int(item) for item in value) if isinstance(value, tuple) else ()
