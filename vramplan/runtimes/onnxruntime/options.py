"""The options of a session that change its memory, by the names ONNX Runtime gives them.

Sources: cuda_execution_provider_info.cc, onnxruntime_session_options_config_keys.h, onnxruntime/core/providers/cuda/nn/conv.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vramplan.allocators.bfc import BfcRules
from vramplan.allocators.bfc_options import parse_arena_options
from vramplan.errors import UsageError, close_matches, show
from vramplan.runtimes.onnxruntime.rewrites import LEVELS
from vramplan.workspace.cudnn import CudnnFlags


class Search(StrEnum):
    """``cudnn_conv_algo_search``: since cuDNN 9 it chooses a heuristic of cuDNN's, and nothing is timed."""

    EXHAUSTIVE = "EXHAUSTIVE"
    """Heuristic mode B: kernels that copy their operands into the layout they like."""
    HEURISTIC = "HEURISTIC"
    """Heuristic mode A, which is PyTorch's."""
    DEFAULT = "DEFAULT"
    """The fallback list: kernels without tensor cores, next to no workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What a session is made with; the defaults are ONNX Runtime's.

    ``given`` is what the user wrote, for reports. ``level`` is one of `LEVELS`.
    """

    arena: BfcRules = field(default_factory=BfcRules)
    search: Search = Search.EXHAUSTIVE
    prefers_nhwc: bool = False
    uses_tf32: bool = True
    uses_pattern: bool = True
    reserves_weights: bool = False
    captures_graph: bool = False
    level: str = "all"
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def cudnn_flags(self) -> CudnnFlags:
        """What cuDNN may choose from: without ``use_tf32`` no kernel on tensor cores, in half precision either (conv.cc)."""
        heuristic = "B" if self.search is Search.EXHAUSTIVE else "A"
        return CudnnFlags(tf32=self.uses_tf32, tensor_cores=self.uses_tf32, heuristic=heuristic)


def parse_session_options(options: Mapping[str, str]) -> SessionOptions:
    """*options* by name, as in ``--runtime-option KEY=VALUE``. UsageError for an unknown key or value, with what is known."""
    session = SessionOptions(given=dict(options))
    arena = {}
    for key, value in options.items():
        if key in _ARENA:
            arena[key] = value
        elif key in _READERS:
            session = _READERS[key](session, str(value).strip(), key)
        else:
            near = close_matches(key, OPTION_NAMES)
            known = f"Known: {', '.join(OPTION_NAMES)}."
            hint = known if near in ("", known) else f"{near}\n{known}"
            raise UsageError(f"unknown runtime option {show(key)}", hint=hint)
    return replace(session, arena=parse_arena_options(arena))


def _search(session: SessionOptions, value: str, key: str) -> SessionOptions:
    if value not in list(Search):
        raise UsageError(f"{key}: {show(value)} is no search", hint=f"One of {', '.join(Search)}.")
    return replace(session, search=Search(value))


def _level(session: SessionOptions, value: str, key: str) -> SessionOptions:
    word = value.lower().removeprefix("ort_enable_").removeprefix("ort_").removesuffix("_all")
    word = "disabled" if word == "disable" else word
    if word not in LEVELS:
        raise UsageError(f"{key}: {show(value)} is no level", hint=f"One of {', '.join(LEVELS)}.")
    return replace(session, level=word)


def _max_workspace(session: SessionOptions, value: str, key: str) -> SessionOptions:
    """Read, and without effect: with cuDNN 9 the workspace of a convolution is what its kernel asks for."""
    _is_on(value, key)
    return session


def _is_on(value: str, key: str) -> bool:
    if value.lower() not in ("0", "1", "true", "false"):
        raise UsageError(f"{key}: {show(value)} is not 0 or 1", hint=f"Write {key}=0 or {key}=1.")
    return value.lower() in ("1", "true")


_ARENA = ("arena_extend_strategy", "gpu_mem_limit")

_READERS: dict[str, Callable[[SessionOptions, str, str], SessionOptions]] = {
    "cudnn_conv_algo_search": _search,
    "cudnn_conv_use_max_workspace": _max_workspace,
    "enable_cuda_graph": lambda session, value, key: replace(session, captures_graph=_is_on(value, key)),
    "enable_mem_pattern": lambda session, value, key: replace(session, uses_pattern=_is_on(value, key)),
    "graph_optimization_level": _level,
    "prefer_nhwc": lambda session, value, key: replace(session, prefers_nhwc=_is_on(value, key)),
    "session.use_device_allocator_for_initializers": (
        lambda session, value, key: replace(session, reserves_weights=_is_on(value, key))
    ),
    "use_tf32": lambda session, value, key: replace(session, uses_tf32=_is_on(value, key)),
}

OPTION_NAMES = tuple(sorted((*_ARENA, *_READERS)))
"""Every option that is understood."""
