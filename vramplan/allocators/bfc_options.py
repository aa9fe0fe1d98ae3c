"""The options of ONNX Runtime's CUDA provider that change its arena, as ONNX Runtime reads them.

Source: cuda_execution_provider_info.cc (provider options), include/onnxruntime/core/framework/allocator.h (``OrtArenaCfg``,
and its ``arena.`` keys from 1.23), allocator_utils.cc (which values mean the default), ONNX Runtime 1.16 and later.

Known limitation: at least at first, ``CreateAllocator`` made the CUDA provider's stream-aware arena without
``max_power_of_two_extend_bytes``, so that 1 GiB held whatever was set. Here what is set counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from vramplan.allocators.bfc import BfcRules, ExtendStrategy
from vramplan.errors import UsageError, close_matches, show

HARMLESS = frozenset({
    "device_id", "has_user_compute_stream", "user_compute_stream", "cudnn_conv_algo_search", "do_copy_in_default_stream",
    "cudnn_conv_use_max_workspace", "enable_cuda_graph", "cudnn_conv1d_pad_to_nc1d", "tunable_op_enable",
    "tunable_op_tuning_enable", "tunable_op_max_tuning_duration_ms", "enable_skip_layer_norm_strict_mode", "prefer_nhwc",
    "use_ep_level_unified_stream", "use_tf32", "fuse_conv_bias", "sdpa_kernel",
})  # fmt: skip
"""Options of the CUDA provider that do not change how its arena hands out memory."""

_OTHER_ALLOCATORS = frozenset({"gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache"})

_SIZE_MAX = (1 << 64) - 1
"""``gpu_mem_limit`` by default."""

_INT_MAX = (1 << 31) - 1
"""Sizes of chunks are ``int`` in ``OrtArenaCfg``."""

_STRATEGIES = {
    "kNextPowerOfTwo": ExtendStrategy.NEXT_POWER_OF_TWO,
    "kSameAsRequested": ExtendStrategy.SAME_AS_REQUESTED,
    "0": ExtendStrategy.NEXT_POWER_OF_TWO,
    "1": ExtendStrategy.SAME_AS_REQUESTED,
    "-1": ExtendStrategy.NEXT_POWER_OF_TWO,
}


def parse_arena_options(options: Mapping[str, str | int]) -> BfcRules:
    """Options of the CUDA provider and keys of ``OrtArenaCfg``, in one mapping, as rules.

    An ``OrtArenaCfg`` overrides ``gpu_mem_limit``, so ``max_mem`` does. Raises `UsageError` for an unknown key, for a value
    ONNX Runtime cannot use, and for external allocators, which are not modelled.
    """
    rules = BfcRules()
    for key, value in sorted(options.items(), key=lambda option: option[0].endswith("max_mem")):
        name = _known(key)
        if name in _READERS:
            rules = _READERS[name](rules, str(value).strip(), name)
        elif name in _OTHER_ALLOCATORS and str(value).strip() not in ("", "0"):
            raise UsageError(f"{name}: an external allocator is not modelled", hint="Leave it out of the estimate.")
    return rules


def _known(key: str) -> str:
    """The option's name without the prefix it has in a session's options."""
    name = key.removeprefix("arena.")
    if name != key and name == "extend_strategy":
        name = "arena_extend_strategy"
    if name not in _READERS and (name != key or name not in HARMLESS | _OTHER_ALLOCATORS):
        known = [*_READERS, *HARMLESS, *_OTHER_ALLOCATORS]
        raise UsageError(f"unknown option {show(key)} of the CUDA provider", hint=close_matches(name, known))
    return name


def _strategy(rules: BfcRules, value: str, what: str) -> BfcRules:
    if value not in _STRATEGIES:
        hint = close_matches(value, list(ExtendStrategy))
        raise UsageError(f"{what}: {show(value)} is no way to grow an arena", hint=hint)
    return replace(rules, strategy=_STRATEGIES[value])


def _limit(rules: BfcRules, value: str, what: str) -> BfcRules:
    size = _whole(value, what, _SIZE_MAX)
    return replace(rules, limit_bytes=None if size in (None, 0, _SIZE_MAX) else size)


def _initial_chunk(rules: BfcRules, value: str, what: str) -> BfcRules:
    return replace(rules, initial_chunk_bytes=_size(value, what, _INT_MAX) or BfcRules().initial_chunk_bytes)


def _max_dead(rules: BfcRules, value: str, what: str) -> BfcRules:
    return replace(rules, max_dead_bytes=_size(value, what, _INT_MAX) or BfcRules().max_dead_bytes)


def _growth(rules: BfcRules, value: str, what: str) -> BfcRules:
    size = _region_size(rules, value, what, _INT_MAX)
    return replace(rules, initial_growth_bytes=size or BfcRules().initial_growth_bytes)


def _max_extend(rules: BfcRules, value: str, what: str) -> BfcRules:
    size = _region_size(rules, value, what, _SIZE_MAX >> 1)
    return replace(rules, max_extend_bytes=size or BfcRules().max_extend_bytes)


def _region_size(rules: BfcRules, value: str, what: str, most: int) -> int | None:
    size = _size(value, what, most)
    if size is not None and size % rules.alignment_bytes:
        raise UsageError(
            f"{what}: {size} is not a multiple of {rules.alignment_bytes}", hint="ONNX Runtime fails at such a region."
        )
    return size


def _size(value: str, what: str, most: int) -> int | None:
    """A positive number of bytes; None for -1, which stands for the default."""
    size = _whole(value, what, most)
    if size == 0:
        raise UsageError(f"{what}: 0 leaves the arena no size", hint="Write -1 for ONNX Runtime's default.")
    return size


def _whole(value: str, what: str, most: int) -> int | None:
    if value == "-1":
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise UsageError(f"{what}: {show(value)} is not a whole number of bytes", hint="Write it in digits, like 1073741824.")
    if int(value) > most:
        raise UsageError(f"{what}: {value} is above {most}", hint="ONNX Runtime refuses it too.")
    return int(value)


_READERS: dict[str, Callable[[BfcRules, str, str], BfcRules]] = {
    "arena_extend_strategy": _strategy,
    "gpu_mem_limit": _limit,
    "max_mem": _limit,
    "initial_chunk_size_bytes": _initial_chunk,
    "max_dead_bytes_per_chunk": _max_dead,
    "initial_growth_chunk_size_bytes": _growth,
    "max_power_of_two_extend_bytes": _max_extend,
}
