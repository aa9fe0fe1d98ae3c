"""Which runtimes are installed, and what they say of themselves: versions from their metadata, the rest from a child process.

Importing a runtime takes seconds and may crash or hang, which is why this process never does.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vramplan.device.child import Child, OutOfMemoryResult, child_environment, module_command
from vramplan.errors import VramplanError

PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "PyNvVideoCodec", "av",
    "nvidia-ml-py",
)  # fmt: skip

IMPORT_TIMEOUT_S = 60.0
"""A cold import of PyTorch took 4 s from a local disk and 25 s from a slow one."""

_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """What PyTorch said before it stopped answering: None is unknown.

    ``cuda`` is the CUDA it was built for, empty for a build without. ``gpu_totals_bytes`` is what CUDA calls total, by the
    UUID as NVML writes it. ``failure`` is why there is no more.
    """

    cuda: str | None = None
    cudnn: str | None = None
    is_available: bool | None = None
    gpu_count: int | None = None
    gpu_totals_bytes: Mapping[str, int] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """``versions`` has every name of `PACKAGES`, None where it is not installed. ``torch`` is None without PyTorch.

    ``providers`` are those of ONNX Runtime, None where it is not installed or did not answer: ``providers_failure`` says why.
    ``has_cudnn`` is whether all libraries are there that answer for convolution workspace.
    """

    versions: Mapping[str, str | None]
    torch: TorchFacts | None = None
    providers: tuple[str, ...] | None = None
    providers_failure: str | None = None
    has_cudnn: bool | None = None


def read_installed(environment: Mapping[str, str], *, timeout_s: float = IMPORT_TIMEOUT_S) -> Installed:
    """Ask the packages of this Python."""
    from vramplan.workspace.cudnn_libraries import installed_libraries  # noqa: PLC0415  only here

    versions = {package: _version(package) for package in PACKAGES}
    torch = torch_facts(*_ask("torch", environment, timeout_s)) if versions["torch"] else None
    providers, failure = None, None
    if versions["onnxruntime"] or versions["onnxruntime-gpu"]:
        said, failure = _ask("onnxruntime", environment, timeout_s)
        providers = _words(said.get("providers"))
    return Installed(
        versions=versions, torch=torch, providers=providers, providers_failure=failure, has_cudnn=bool(installed_libraries())
    )


def torch_facts(said: Mapping[str, Any], failure: str | None) -> TorchFacts:
    """The answers of the child as far as they have the right types."""
    gpus = said.get("gpus")
    totals = {
        _uuid(gpu["uuid"]): gpu["total_bytes"]
        for gpu in (gpus if isinstance(gpus, list) else ())
        if isinstance(gpu, dict) and isinstance(gpu.get("uuid"), str) and type(gpu.get("total_bytes")) is int
    }
    available = said.get("is_available")
    return TorchFacts(
        cuda=_word(said.get("cuda")),
        cudnn=_word(said.get("cudnn")),
        is_available=available if isinstance(available, bool) else None,
        gpu_count=len(gpus) if isinstance(gpus, list) else None,
        gpu_totals_bytes=totals,
        failure=failure,
    )


def _ask(runtime: str, environment: Mapping[str, str], timeout_s: float) -> tuple[dict[str, Any], str | None]:
    """Everything that *runtime* said, and why it said no more."""
    said: dict[str, Any] = {}
    command: Sequence[str] = module_command("vramplan.device.installed_child")
    try:
        with Child(command, {"runtime": runtime}, timeout_s=timeout_s, environment=child_environment(environment)) as child:
            for message in child.messages():
                said |= message
    except (VramplanError, OutOfMemoryResult) as error:
        return said, _word(error.message.replace("the model", runtime).replace("\n", " "))
    return said, None


def _version(package: str) -> str | None:
    """None also where the metadata are broken: such a package cannot be relied on."""
    try:
        return _word(importlib.metadata.version(package))
    except Exception:  # metadata of a half-removed package raise whatever their parser does
        return None


def _uuid(text: str) -> str:
    """NVML's spelling: PyTorch leaves out what stands before the digits."""
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def _words(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(word for word in map(_word, value) if word is not None)


def _word(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(char for char in value if char.isprintable())[:_SHOWN_CHARS]
