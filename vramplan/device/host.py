"""What kind of machine this is, from a few small files: a container, Windows' Linux, a Jetson."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_READ_CHARS = 4096
_SHOWN_CHARS = 120

_CGROUP = re.compile(r"\b(docker|kubepods|containerd|libpod|lxc|podman)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Versions as their programs print them. ``container`` and ``jetson`` say which one, None where it is none.

    Invariant: all text is printable.
    """

    vramplan: str
    python: str
    platform: str
    is_wsl: bool = False
    container: str | None = None
    jetson: str | None = None


def read_host(environment: Mapping[str, str], *, version: str, root: Path = Path("/")) -> Host:
    """Read the machine from the files below *root*. A file that cannot be read says nothing. *version* is vramplan's."""
    return Host(
        vramplan=version,
        python=platform.python_version(),
        platform=platform.platform(),
        is_wsl="microsoft" in _text(root / "proc/version").lower(),
        container=_container(root, environment),
        jetson=_jetson(root),
    )


def _container(root: Path, environment: Mapping[str, str]) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    found = _CGROUP.search(_text(root / "proc/self/cgroup") + _text(root / "proc/1/cgroup"))
    return found.group(1) if found else None


def _jetson(root: Path) -> str | None:
    """Its model, or the first line of its release; other boards with a device tree are none."""
    model = _text(root / "proc/device-tree/model")
    if "jetson" in model.lower():
        return _shown(model)
    release = _text(root / "etc/nv_tegra_release")
    return _shown(release.partition("\n")[0]) or "a Tegra board" if release else None


def _shown(text: str) -> str:
    return "".join(char for char in text if char.isprintable()).strip()[:_SHOWN_CHARS]


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_READ_CHARS)
    except OSError:
        return ""
