"""Where cuDNN's libraries are: those of an installed CUDA build of PyTorch, or of ``pip install vramplan[cudnn]``.

Nothing is imported or loaded here; only files are looked for.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

_CUDA_RUNTIME = ("libcudart.so", "libnvrtc.so", "libcublasLt.so")
"""cuDNN opens these by name, and aborts the process when cublasLt is missing."""

_CUDNN = ("libcudnn_graph.so.9", "libcudnn_engines_precompiled.so.9", "libcudnn_engines_runtime_compiled.so.9",
          "libcudnn_heuristic.so.9")  # fmt: skip

_CUDA_FOLDERS = ("cu13/lib", "cublas/lib", "cuda_nvrtc/lib", "cuda_runtime/lib")
"""Where the wheels of CUDA 13 and of CUDA 12 put them, below ``site-packages/nvidia``."""


@functools.cache
def installed_libraries() -> tuple[str, ...]:
    """Paths of everything the child loads, in order; empty when something is missing, and on anything but Linux."""
    if not sys.platform.startswith("linux"):
        return ()
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        found = libraries_below(Path(folder))
        if found:
            return found
    return ()


@functools.cache
def pinned_version() -> str | None:
    """The cuDNN that the installed PyTorch asks for, such as ``9.19.0``; None for a CPU build, and where there is none."""
    try:
        wanted = metadata.requires("torch") or ()
    except metadata.PackageNotFoundError:
        return None
    pins = (re.match(r"nvidia-cudnn-cu\d+==(\d+\.\d+\.\d+)", requirement) for requirement in wanted)
    return next((pin[1] for pin in pins if pin), None)


def libraries_below(nvidia: Path) -> tuple[str, ...]:
    """The same for one folder ``site-packages/nvidia``."""
    runtime = [path for name in _CUDA_RUNTIME for path in _first(nvidia, name)]
    cudnn = [nvidia / "cudnn" / "lib" / name for name in _CUDNN]
    has_cublas = any(path.name.startswith("libcublasLt.so") for path in runtime)
    if not has_cublas or not all(path.is_file() for path in cudnn):
        return ()
    return tuple(str(path) for path in (*runtime, *cudnn))


def _first(nvidia: Path, name: str) -> list[Path]:
    """The library *name* with its version in the first folder that has one; none at all when there is none."""
    for folder in _CUDA_FOLDERS:
        found = sorted((nvidia / folder).glob(name + ".[0-9]*"), key=lambda path: len(path.name))
        if found:
            return found[:1]
    return []
