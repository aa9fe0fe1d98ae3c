"""`PYTORCH_CUDA_ALLOC_CONF`, as PyTorch reads it: which options change sizes, which do not, which cannot be modelled.

Source: c10/cuda/CUDAAllocatorConfig.cpp and c10/core/AllocatorConfig.cpp, PyTorch 2.9 to 2.14; what 2.13 accepts, refuses and
makes of it was tried out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from vramplan.allocators.caching import CachingRules
from vramplan.errors import UsageError, close_matches
from vramplan.units import MIB

VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The first that is set counts, even when it is set to nothing: PyTorch looks for the old name first."""

_OWN_SEGMENT_MIB = 10
"""From here on a request has a segment of its own, so that PyTorch wants other segments to be larger."""

_INTERVALS = 16
"""Powers of two from 1 MiB that may have a number of divisions each."""

HARMLESS = frozenset({
    "pinned_use_cuda_host_register", "pinned_use_hip_host_register", "pinned_num_register_threads", "pinned_free_catch_all",
    "pinned_use_background_threads", "pinned_reserve_segment_size_mb", "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb", "release_lock_on_cudamalloc", "release_lock_on_hipmalloc", "throw_on_cudamalloc_oom",
    "graph_capture_record_stream_reuse", "per_process_memory_fraction", "garbage_collection_threshold",
})  # fmt: skip
"""Options that do not change how blocks are cut. Garbage collection begins near a memory limit, which an estimate has not."""


def rules_from_environment(environment: Mapping[str, str]) -> CachingRules:
    """The rules under the variables of *environment*; PyTorch's defaults when none is set."""
    name = next((name for name in VARIABLES if name in environment), None)
    return parse_alloc_conf(environment[name], variable=name) if name else CachingRules()


def parse_alloc_conf(text: str, *, variable: str = "PYTORCH_CUDA_ALLOC_CONF") -> CachingRules:
    """``key:value,key:value`` as rules.

    Raises `UsageError` for an unknown key, a malformed value, and options whose memory is not modelled: another backend, and
    expandable segments, which grow by pages instead of being reserved whole.
    """
    rules = CachingRules()
    options = [_option(part, variable) for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    for key, value in sorted(options, key=lambda option: option[0] != "large_segment_size_mb"):  # others are judged by it
        if key in _READERS:
            rules = _READERS[key](rules, value, f"{variable}: {key}")
    return rules


def _option(part: str, variable: str) -> tuple[str, str]:
    key, _, value = (re.sub(r"\s", "", piece) for piece in part.partition(":"))
    if not (key and value):
        raise UsageError(f"{variable}: {part.strip()[:60]!r} is not KEY:VALUE", hint="Write it like max_split_size_mb:128.")
    if key not in _READERS and key not in HARMLESS:
        raise UsageError(f"{variable}: unknown option {key[:60]!r}", hint=close_matches(key, [*_READERS, *HARMLESS]))
    return key, value


def _large_segment(rules: CachingRules, value: str, what: str) -> CachingRules:
    size = _whole(value, what)
    if size <= _OWN_SEGMENT_MIB:
        raise UsageError(f"{what}: {size} is not above {_OWN_SEGMENT_MIB}", hint="PyTorch refuses it too; its default is 20.")
    return replace(rules, large_segment_bytes=size * MIB)


def _max_split(rules: CachingRules, value: str, what: str) -> CachingRules:
    return replace(rules, max_split_bytes=_at_least_a_large_segment(rules, value, what))


def _non_split_rounding(rules: CachingRules, value: str, what: str) -> CachingRules:
    return replace(rules, max_non_split_rounding_bytes=_at_least_a_large_segment(rules, value, what))


def _at_least_a_large_segment(rules: CachingRules, value: str, what: str) -> int:
    size, least = _whole(value, what), rules.large_segment_bytes // MIB
    if size < least:
        raise UsageError(f"{what}: {size} is below {least}", hint="PyTorch refuses it too; write it like 128.")
    return size * MIB


def _divisions(rules: CachingRules, value: str, what: str) -> CachingRules:
    if not value.startswith("["):
        return replace(rules, power2_divisions=_power_of_two(value, what))
    counts, last, is_first = [0] * _INTERVALS, 0, True
    for entry in value.removeprefix("[").removesuffix("]").split(","):
        interval, colon, number = entry.partition(":")
        if not colon or not value.endswith("]"):
            raise UsageError(f"{what}: {value[:60]!r} is not a list", hint="Write it like [256:1,512:2,>:4].")
        count = 0 if number == "0" else _power_of_two(number, what)
        if interval == ">":
            counts[last + 1 :] = [count] * (_INTERVALS - last - 1)
            continue
        last = min(_power_of_two(interval, what).bit_length() - 1, _INTERVALS - 1)
        if is_first:
            counts[:last] = [count] * last
        counts[last], is_first = count, False
    return replace(rules, power2_divisions=tuple(counts))


def _power_of_two(value: str, what: str) -> int:
    count = _whole(value, what)
    if count < 1 or count & (count - 1):
        raise UsageError(f"{what}: {count} is not a power of two", hint="PyTorch refuses it too; write it like 4.")
    return count


def _expandable(rules: CachingRules, value: str, what: str) -> CachingRules:
    if value == "True":
        raise UsageError(
            f"{what}: expandable segments are not modelled", hint="Unset it for the estimate; real use reserves less than that."
        )
    if value != "False":
        raise UsageError(f"{what}: {value[:40]!r} is neither True nor False", hint="PyTorch refuses it too.")
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
    "large_segment_size_mb": _large_segment,
    "max_split_size_mb": _max_split,
    "max_non_split_rounding_mb": _non_split_rounding,
    "roundup_power2_divisions": _divisions,
    "expandable_segments": _expandable,
    "backend": _backend,
}
