"""Variables of the environment that change what a GPU program does or takes, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_EFFECTS = {
    "CUDA_VISIBLE_DEVICES": "CUDA sees only these GPUs, and counts them from 0 in this order",
    "CUDA_DEVICE_ORDER": "the order in which CUDA counts GPUs: FASTEST_FIRST unless it is PCI_BUS_ID, the order of nvidia-smi",
    "CUDA_MODULE_LOADING": "EAGER loads every kernel at the start, which takes some hundred MiB more; LAZY is the default",
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for: times are longer than without",
    "PYTORCH_ALLOC_CONF": "how PyTorch's allocator rounds, splits and grows: reserved memory is that of these settings",
    "PYTORCH_CUDA_ALLOC_CONF": "how PyTorch's allocator rounds, splits and grows: reserved memory is that of these settings",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "PyTorch asks the driver for every tensor: slow, and nothing is reserved",
    "CUBLAS_WORKSPACE_CONFIG": "the size of cuBLAS's workspace, one for each handle and stream",
    "CUBLASLT_WORKSPACE_SIZE": "the size of cuBLASLt's workspace, in KiB",
    "CUDNN_DETERMINISTIC": "cuDNN leaves out kernels, and with them other workspaces",
    "NVIDIA_VISIBLE_DEVICES": "which GPUs the container was given",
    "NVIDIA_DRIVER_CAPABILITIES": "what of the driver the container was given: decoding needs `video` or `all`",
    "LD_PRELOAD": "libraries that stand before all others, such as one that shares a GPU",
}

_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A variable as it is set, printable and cut to some length, and what it changes."""

    name: str
    value: str
    effect: str


def read_settings(environment: Mapping[str, str]) -> tuple[Setting, ...]:
    """Those that are set, in a fixed order."""
    return tuple(
        Setting(name=name, value=_shown(environment[name]), effect=effect)
        for name, effect in _EFFECTS.items()
        if name in environment
    )


def hides_all_gpus(environment_value: str | None) -> bool:
    """Whether this value of ``CUDA_VISIBLE_DEVICES`` leaves no GPU: CUDA stops at the first that does not exist."""
    return environment_value is not None and environment_value.strip().split(",")[0].strip() in ("", "-1", "NoDevFiles", "none")


def _shown(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:_SHOWN_CHARS]
