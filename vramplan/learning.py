"""What a verified run teaches: the workspace that each of its convolutions took on this card, for later estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from vramplan.alignment import OpRequests, paired_ops
from vramplan.program import MemoryProgram
from vramplan.result import Estimate
from vramplan.workspace.convolution import WORKSPACE_NAME, ConvCall


def measured_workspaces(expected: Estimate, recorded: MemoryProgram) -> dict[ConvCall, int]:
    """Bytes of workspace by convolution, read off the first run of *recorded*, which ran the model of *expected*.

    A convolution is left out where the two programs differ in more than its workspace, and where its runs do not agree.
    """
    found: dict[ConvCall, set[int]] = {}
    for call, size_bytes in _readings(expected, recorded):
        found.setdefault(call, set()).add(size_bytes)
    return {call: next(iter(sizes)) for call, sizes in found.items() if len(sizes) == 1}


def _readings(expected: Estimate, recorded: MemoryProgram) -> Iterator[tuple[ConvCall, int]]:
    for ours, theirs in paired_ops(expected.program, recorded, "first_run"):
        if ours is None or theirs is None or ours.index not in expected.convolutions:
            continue
        size_bytes = _workspace(ours, theirs)
        if size_bytes is not None:
            yield expected.convolutions[ours.index], size_bytes


def _workspace(ours: OpRequests, theirs: OpRequests) -> int | None:
    """What *theirs* asks for beyond what *ours* does without cuDNN: one transient request, or none at all."""
    rest = Counter(theirs.requests)
    rest.subtract(request for request, name in zip(ours.requests, ours.names, strict=True) if not name.endswith(WORKSPACE_NAME))
    left = [request for request, count in rest.items() if count]
    if not left:
        return 0
    is_one = len(left) == 1 and rest[left[0]] == 1 and left[0].is_transient
    return left[0].size_bytes if is_one else None
