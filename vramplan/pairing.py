"""Which tensors and layers of two estimates are the same thing, although runtimes fuse and name them differently.

Of one runtime, layers that run a common op are one row: ``a/Conv + a/Relu`` of one precision against ``a/Conv`` and
``a/Relu`` of another. Of two runtimes rows are modules, because nothing else has a name in both: ``/head/head.0/Conv`` of an
exported graph and ``head.0 conv2d`` of a trace are module ``head.0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vramplan.result import Estimate
from vramplan.runtimes.plan import Layer

Row = tuple[str, str, int]
"""A name, a role or kind, and bytes."""

MODEL = "the model itself"
"""The module of ops that belong to none."""

_OUTPUT = re.compile(r"_output_\d+$")
_JOINED = re.compile(r" \+ | … ")
"""How a fused launch names its ops: all of them, or the first and the last."""


def pair_tensors(before: Estimate, after: Estimate) -> tuple[list[Row], list[Row]]:
    """Who is alive at either peak, under names that both sides have."""
    name_of = module_of if before.runtime != after.runtime else _itself
    first, second = (
        [(name_of(item.name, item.role), item.role, item.size_bytes) for item in cell.peak.live] for cell in (before, after)
    )
    return first, second


def pair_layers(before: Estimate, after: Estimate) -> tuple[list[Row], list[Row]]:
    """The layers of both, each with its result, weights and workspace, under names that both sides have."""
    if before.runtime != after.runtime:
        return _modules(before, after)
    groups = _Groups()
    for layer in (*before.layers, *after.layers):
        groups.join(_ops(layer))
    names = _names(before, after, groups)
    first, second = ([_row(layer, names[groups.root(_ops(layer)[0])]) for layer in cell.layers] for cell in (before, after))
    return first, second


def _row(layer: Layer, name_and_kind: tuple[str, str]) -> Row:
    return (*name_and_kind, layer.output_bytes + layer.weights_bytes + layer.workspace_bytes)


def _names(before: Estimate, after: Estimate, groups: _Groups) -> dict[str, tuple[str, str]]:
    """Name and kind of each group: its first layer's where that is all of it on each side, else the name of its first op."""
    kinds: dict[str, str] = {}
    whole: dict[str, set[tuple[str, ...]]] = {}
    for cell in (before, after):
        inside: dict[str, list[str]] = {}
        for layer in cell.layers:
            root = groups.root(_ops(layer)[0])
            kinds.setdefault(root, layer.kind)
            inside.setdefault(root, []).append(layer.name)
        for root, layers in inside.items():
            whole.setdefault(root, set()).add(tuple(layers))
    return {root: (_only(whole[root]) or root, kind) for root, kind in kinds.items()}


def _only(found: set[tuple[str, ...]]) -> str:
    """The name that a group has as a single layer on every side that has it."""
    return next(iter(found))[0] if len(found) == 1 and len(next(iter(found))) == 1 else ""


def _modules(before: Estimate, after: Estimate) -> tuple[list[Row], list[Row]]:
    """Modules that share a launch are one row. Weights are those alive at the peak: not every runtime knows them by layer."""
    groups = _Groups()
    for layer in (*before.layers, *after.layers):
        groups.join([module_of(op) for op in _ops(layer)])
    first, second = (
        [
            *(
                (groups.root(module_of(_ops(layer)[0])), "module", layer.output_bytes + layer.workspace_bytes)
                for layer in cell.layers
            ),
            *(
                (groups.root(module_of(item.name, item.role)), "module", item.size_bytes)
                for item in cell.peak.live
                if item.role == "weight"
            ),
        ]
        for cell in (before, after)
    )
    return first, second


def module_of(name: str, role: str = "") -> str:
    """The module that an op, or a tensor in *role*, belongs to; the name itself where it has no path."""
    text = _OUTPUT.sub("", name.removeprefix("scratch of "))
    if text.endswith("/"):  # ONNX Runtime appends the fusion to the node's name: /stem/act/Mul/QuickGeluFusion/
        text = text.strip("/").rpartition("/")[0]
    if "/" in text:
        return _folded(text.strip("/").split("/")[:-1])
    if " " in text:
        return text.partition(" ")[0]
    return text.rpartition(".")[0] or text if role == "weight" else text


def _folded(scopes: Iterable[str]) -> str:
    """``stages.1/stages.1.0/shortcut`` is ``stages.1.0.shortcut``: exporters repeat the list that a module is an item of."""
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    return ".".join(path) or MODEL


def _itself(name: str, _role: str) -> str:
    return name


def _ops(layer: Layer) -> list[str]:
    return _JOINED.split(layer.name)


class _Groups:
    """Sets of names that were seen together (disjoint sets); the root of one is its earliest name."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._order: dict[str, int] = {}

    def join(self, names: Iterable[str]) -> None:
        roots = [self.root(name) for name in names]
        first = min(roots, key=self._order.__getitem__)
        for root in roots:
            self._parents[root] = first

    def root(self, name: str) -> str:
        self._order.setdefault(name, len(self._order))
        parent = self._parents.setdefault(name, name)
        while parent != self._parents[parent]:
            parent = self._parents[parent]
        self._parents[name] = parent
        return parent
