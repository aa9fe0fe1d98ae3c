"""What rules share: a kernel's buffers in the ledger, and an op's operands by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vramplan.runtimes.torch_eager.shadow import Op, Shadow
from vramplan.workspace.kernels import Scratch


def hold(shadow: Shadow, scratch: Iterable[Scratch]) -> list[int]:
    """Hold a kernel's buffers in order; those known as a bound only are counted as such."""
    held = []
    for item in scratch:
        held.append(shadow.scratch(item.size_bytes, item.name.replace("_", " ")))
        if item.bounded:
            shadow.bounded(item.name)
    return held


def release(shadow: Shadow, held: Iterable[int]) -> None:
    """Free them, in the order given."""
    for index in held:
        shadow.ledger.free(index)


def named(func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Operands by the names of the op's schema."""
    names = (item.name for item in func._schema.arguments)
    return dict(zip(names, args, strict=False)) | kwargs
