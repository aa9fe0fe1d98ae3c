"""What would spare a convolution its workspace: the other memory format, or half precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from vramplan.dtypes import DType
from vramplan.units import MIB, format_bytes
from vramplan.workspace.convolution import ConvCall
from vramplan.workspace.cudnn import ConvWorkspaces

LEAST_BYTES = MIB
"""Smaller workspaces are not worth a change."""


def remedies(calls: Mapping[int, ConvCall], workspaces: ConvWorkspaces) -> dict[int, str]:
    """For each of *calls* that takes at least `LEAST_BYTES`: the change that leaves least, where it spares half or more.

    The words are those of flags: ``channels_last: 0.5 MiB`` is what is left with ``--memory-format channels_last``.
    """
    large = {key: call for key, call in calls.items() if workspaces.of(call).nominal_bytes >= LEAST_BYTES}
    changed = {key: dict(_alternatives(call)) for key, call in large.items()}
    workspaces.of_many([other for options in changed.values() for other in options.values()])  # asked together
    found = {}
    for key, call in large.items():
        sizes = {name: workspaces.of(other).nominal_bytes for name, other in changed[key].items()}
        name = min(sizes, key=lambda name: sizes[name])
        if 2 * sizes[name] <= workspaces.of(call).nominal_bytes:
            found[key] = f"{name}: {format_bytes(sizes[name])}"
    return found


def _alternatives(call: ConvCall) -> Iterator[tuple[str, ConvCall]]:
    yield ("contiguous" if call.channels_last else "channels_last"), replace(call, channels_last=not call.channels_last)
    if call.dtype is DType.FLOAT32:
        yield "fp16", replace(call, dtype=DType.FLOAT16)
