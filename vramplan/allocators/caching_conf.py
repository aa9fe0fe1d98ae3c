"""`PYTORCH_CUDA_ALLOC_CONF`, as PyTorch reads it: which options change sizes, which do not, which cannot be modelled.

Source: c10/cuda/CUDAAllocatorConfig.cpp and c10/core/AllocatorConfig.cpp, PyTorch 2.9 to 2.14.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from vramplan.allocators.caching import CachingRules
from vramplan.errors import UsageError, close_matches
from vramplan.units import MIB

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The first that is set counts."""

_SMALLEST_SPLIT_MIB = 20
"""PyTorch refuses a ``max_split_size_mb`` that is not above the large segment."""

HARMLESS = frozenset({
    "pinned_use_cuda_host_register", "pinned_num_register_threads", "pinned_use_background_threads",
    "pinned_reserve_segment_size_mb", "release_lock_on_cudamalloc", "release_lock_on_hipmalloc",
    "graph_capture_record_stream_reuse", "per_process_memory_fraction", "garbage_collection_threshold",
    "use_cuda_host_register",
})  # fmt: skip
"""Options that do not change how blocks are cut. Garbage collection begins near a memory limit, which an estimate has not."""


def rules_from_environment(environment: Mapping[str, str]) -> CachingRules:
    """The rules under the variables of *environment*; PyTorch's defaults when none is set."""
    name = next((name for name in VARIABLES if environment.get(name)), None)
    return parse_alloc_conf(environment[name], variable=name) if name else CachingRules()


def parse_alloc_conf(text: str, *, variable: str = "PYTORCH_CUDA_ALLOC_CONF") -> CachingRules:
    """``key:value,key:value`` as rules.

    Raises `UsageError` for an unknown key, a malformed value, and options whose memory is not modelled: another backend, and
    expandable segments, which grow by pages instead of being reserved whole.
    """
    rules = CachingRules()
    for part in re.split(r",(?![^\[]*\])", text.strip().strip(",")):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if not colon:
            raise UsageError(f"{variable}: {part[:60]!r} is not KEY:VALUE", hint="Write it like max_split_size_mb:128.")
        if key in HARMLESS:
            continue
        if key not in _READERS:
            raise UsageError(f"{variable}: unknown option {key[:60]!r}", hint=close_matches(key, [*_READERS, *HARMLESS]))
        rules = _READERS[key](rules, value, f"{variable}: {key}")
    return rules


def _max_split(rules: CachingRules, value: str, what: str) -> CachingRules:
    size = _whole(value, what)
    if size <= _SMALLEST_SPLIT_MIB:
        raise UsageError(
            f"{what}: {size} is not above {_SMALLEST_SPLIT_MIB}", hint="PyTorch refuses it too; write it like 128."
        )
    return replace(rules, max_split_bytes=size * MIB)


def _large_segment(rules: CachingRules, value: str, what: str) -> CachingRules:
    size = _whole(value, what)
    if size < 2:
        raise UsageError(f"{what}: {size} MiB is too small a segment", hint="PyTorch's default is 20.")
    return replace(rules, large_segment_bytes=size * MIB)


def _divisions(rules: CachingRules, value: str, what: str) -> CachingRules:
    if value.startswith("["):
        raise UsageError(f"{what}: divisions by size are not modelled", hint="Use one number, or leave the option out.")
    count = _whole(value, what)
    if count < 1 or count & (count - 1):
        raise UsageError(f"{what}: {count} is not a power of two", hint="PyTorch refuses it too; write it like 4.")
    return replace(rules, power2_divisions=count)


def _expandable(rules: CachingRules, value: str, what: str) -> CachingRules:
    if value == "True":
        raise UsageError(
            f"{what}: expandable segments are not modelled", hint="Unset it for the estimate; real use reserves less than that."
        )
    return rules


def _backend(rules: CachingRules, value: str, what: str) -> CachingRules:
    if value != "native":
        raise UsageError(f"{what}: the allocator {value[:40]!r} is not modelled", hint="Leave it out, or write backend:native.")
    return rules


def _whole(value: str, what: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise UsageError(f"{what}: {value[:40]!r} is not a whole number", hint="Write it in digits.")
    return int(value)


_READERS: dict[str, Callable[[CachingRules, str, str], CachingRules]] = {
    "max_split_size_mb": _max_split,
    "large_segment_size_mb": _large_segment,
    "roundup_power2_divisions": _divisions,
    "expandable_segments": _expandable,
    "backend": _backend,
}
