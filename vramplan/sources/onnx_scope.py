"""Which value a name means: each graph, branch, loop body and function has names of its own.

A flat `Graph` has one name for each value, so inner names get the path of the nodes around them as a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.sources.onnx_tree import Body

_MAX_NAME_CHARS = 240
_MAX_STEP_CHARS = 60


class Scope:
    """The names of one body. ``wanted`` says what some of its values are called outside, once they are written."""

    def __init__(
        self,
        body: Body,
        *,
        opsets: Mapping[str, int],
        parent: Scope | None = None,
        prefix: str = "",
        wanted: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.body = body
        self.opsets = opsets
        self.parent = parent
        self.prefix = prefix
        self.wanted = dict(wanted or {})
        self.attributes = attributes or {}
        self.names: dict[str, str] = {}

    def inner_prefix(self, step: str) -> str:
        """The prefix of names inside node *step*. Deep paths keep their end: hostile nesting must not cost memory."""
        prefix = f"{self.prefix}{step[-_MAX_STEP_CHARS:]}/"
        return prefix if len(prefix) <= _MAX_NAME_CHARS else "…" + prefix[-_MAX_NAME_CHARS:]


class Names:
    """Hands out names that no value has yet."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def fresh(self, name: str) -> str:
        """*name*, or *name* with a number when it is taken."""
        count = self._taken.get(name)
        self._taken[name] = (count or 0) + 1
        if count is None:
            return name
        return self.fresh(f"{name}~{count + 1}")
