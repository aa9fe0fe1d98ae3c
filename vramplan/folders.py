"""Where vramplan keeps what it learns: a cache that may be deleted at any time, and settings of the user that may not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """``$VRAMPLAN_CACHE_DIR``, else ``$XDG_CACHE_HOME/vramplan``, else ``~/.cache/vramplan``; it need not exist."""
    return _folder(environment, "VRAMPLAN_CACHE_DIR", "XDG_CACHE_HOME", "~/.cache")


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """``$VRAMPLAN_CONFIG_DIR``, else ``$XDG_CONFIG_HOME/vramplan``, else ``~/.config/vramplan``; it need not exist."""
    return _folder(environment, "VRAMPLAN_CONFIG_DIR", "XDG_CONFIG_HOME", "~/.config")


def _folder(environment: Mapping[str, str], own: str, base: str, home: str) -> Path:
    if chosen := environment.get(own):
        return Path(chosen)
    parent = environment.get(base)
    return (Path(parent) if parent else Path(home).expanduser()) / "vramplan"
