"""Measures what only this GPU and driver know, step by step, and tells its parent. Only ever a child process.

First the context, stage by stage, with a barrier after each at which the parent reads the driver; then speeds, which need
memory and load libraries that the context must not contain. A step that fails here is left out with a note.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from vramplan.device.inside import Line, serve
from vramplan.device.torch_device import DEVICE, is_out_of_memory, no_cuda

"""The parent shows this process one GPU only."""

_SIDES = (8192, 4096, 2048, 1024)
"""Sides of the matrices that are multiplied: the largest of which three fit into half of what is free."""

_COPY_BYTES = (4 << 30, 1 << 30, 256 << 20, 64 << 20)
_TRANSFER_BYTES = 256 << 20

_WARM_UP_COUNT, _TIMED_COUNT, _TIMED_S = 3, 20, 2.0
"""Runs before the clock, runs that are timed at most, and the seconds after which no further one begins."""


def work(_: dict[str, Any], line: Line) -> None:
    """Everything, in order."""
    if not torch.cuda.is_available():
        line.tell(error={"kind": "machine", "message": no_cuda(), "hint": "`vramplan doctor` says what is missing."})
        return
    with torch.inference_mode():
        measure_context(line)
        line.tell(environment=environment(), gpu=card())
        for dtype, product in PRODUCTS.items():
            attempt(line, dtype, lambda product=product, dtype=dtype: line.tell(compute={dtype: tflops(product)}))  # type: ignore[misc]
        attempt(line, "memory bandwidth", lambda: line.tell(memory_bandwidth_gb_s=copy_gb_s()))
        for name, transfer in TRANSFERS.items():
            attempt(line, f"PCIe {name}", lambda transfer=transfer, name=name: line.tell(pcie={name: transfer()}))  # type: ignore[misc]


def attempt(line: Line, name: str, step: Callable[[], None]) -> None:
    """Run *step*, or say in one line why it has no result on this device."""
    try:
        step()
    except Exception as error:
        line.tell(note=f"{name} was not measured: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
    with contextlib.suppress(RuntimeError):  # a device that failed for good fails here too
        torch.cuda.empty_cache()


def measure_context(line: Line) -> None:
    """The stages of `vramplan.gpus.calibration.STAGES`, and what cuBLAS takes from the allocator at the first product.

    ``init`` alone does not make the context in every version; asking for the free memory does.
    """
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    torch.cuda.mem_get_info(DEVICE)
    stage(line, "context")
    held = torch.zeros(1, device=DEVICE)
    stage(line, "first_tensor")
    held.add_(1)
    picture, weight = torch.zeros(1, 3, 32, 32, device=DEVICE), torch.zeros(8, 3, 3, 3, device=DEVICE)
    held = torch.nn.functional.conv2d(picture, weight)
    stage(line, "first_convolution")
    factor = torch.zeros(64, 64, device=DEVICE)
    before_bytes = torch.cuda.memory_allocated(DEVICE)
    product = factor @ factor
    stage(line, "first_gemm")
    del product
    line.tell(workspace_bytes=int(torch.cuda.memory_allocated(DEVICE)) - before_bytes)
    del held


def stage(line: Line, name: str) -> None:
    """Let the parent read the driver."""
    torch.cuda.synchronize()
    line.pause(stage=name, reserved_bytes=int(torch.cuda.memory_reserved(DEVICE)))


def median_ms(step: Callable[[], Any]) -> float:
    """Milliseconds of one *step* by CUDA events, after a warm-up."""
    taken: list[float] = []
    for _ in range(_WARM_UP_COUNT):
        step()
    end_s = time.monotonic() + _TIMED_S
    while len(taken) < _TIMED_COUNT and (time.monotonic() < end_s or not taken):
        torch.cuda.synchronize()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        step()
        stop.record()
        stop.synchronize()
        taken.append(start.elapsed_time(stop))
    return statistics.median(taken)


Product = Callable[[int], Callable[[], Any]]


def tflops(product: Product) -> float:
    """10^12 operations a second of a square product: 2 x side^3 operations. Values are random: zeros draw less power."""
    free_bytes, _ = torch.cuda.mem_get_info(DEVICE)
    side = next((side for side in _SIDES if 3 * side * side * 4 <= free_bytes // 2), None)
    if side is None:
        raise MemoryError(f"{free_bytes:,} bytes are free")
    return 2 * side**3 / (median_ms(product(side)) * 1e9)


def _float_product(dtype: torch.dtype, *, tf32: bool = False) -> Product:
    def prepare(side: int) -> Callable[[], Any]:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
        out = torch.empty(side, side, device=DEVICE, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    return prepare


def _tf32_product(side: int) -> Callable[[], Any]:
    if torch.cuda.get_device_capability(DEVICE) < (8, 0):
        raise RuntimeError("this GPU has no TF32")
    return _float_product(torch.float32, tf32=True)(side)


def _bf16_product(side: int) -> Callable[[], Any]:
    if torch.cuda.get_device_capability(DEVICE) < (8, 0):
        raise RuntimeError("this GPU emulates bf16")
    return _float_product(torch.bfloat16)(side)


def _int8_product(side: int) -> Callable[[], Any]:
    a, b = (torch.randint(-128, 127, (side, side), device=DEVICE, dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b.t())


def _fp8_product(side: int) -> Callable[[], Any]:
    if torch.cuda.get_device_capability(DEVICE) < (8, 9):
        raise RuntimeError("this GPU has no FP8")
    a, b = (torch.randn(side, side, device=DEVICE).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=DEVICE)
    return lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


PRODUCTS: dict[str, Product] = {
    "fp32": _float_product(torch.float32),
    "tf32": _tf32_product,
    "fp16": _float_product(torch.float16),
    "bf16": _bf16_product,
    "int8": _int8_product,
    "fp8": _fp8_product,
}


def copy_gb_s() -> float:
    """10^9 bytes a second that a large copy on the device reads and writes."""
    free_bytes, _ = torch.cuda.mem_get_info(DEVICE)
    size_bytes = next((size for size in _COPY_BYTES if 2 * size <= free_bytes // 2), None)
    if size_bytes is None:
        raise MemoryError(f"{free_bytes:,} bytes are free")
    source, target = (torch.ones(size_bytes // 4, device=DEVICE, dtype=torch.int32) for _ in range(2))
    return 2 * size_bytes / (median_ms(lambda: target.copy_(source)) * 1e6)


def _host(*, pinned: bool) -> torch.Tensor:
    """Memory of the host that has been written once: pages that nobody touched are not there yet."""
    return torch.empty(_TRANSFER_BYTES, dtype=torch.uint8, pin_memory=pinned).fill_(1)


def _transfer_gb_s(source: torch.Tensor, target: torch.Tensor) -> float:
    """10^9 bytes a second from one side to the other, by the host's clock: pageable copies keep the host busy too."""
    taken: list[float] = []
    for _ in range(_WARM_UP_COUNT + _TIMED_COUNT // 2):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start_s)
    return _TRANSFER_BYTES / statistics.median(taken[_WARM_UP_COUNT:]) / 1e9


def _device() -> torch.Tensor:
    return torch.ones(_TRANSFER_BYTES, dtype=torch.uint8, device=DEVICE)


TRANSFERS: dict[str, Callable[[], float]] = {
    "to_gpu_pinned_gb_s": lambda: _transfer_gb_s(_host(pinned=True), _device()),
    "to_gpu_pageable_gb_s": lambda: _transfer_gb_s(_host(pinned=False), _device()),
    "from_gpu_pinned_gb_s": lambda: _transfer_gb_s(_device(), _host(pinned=True)),
}


def environment() -> dict[str, str]:
    """What decides the numbers, by name."""
    return {
        "cuda": str(torch.version.cuda or ""),
        "torch": str(torch.__version__),
        "cudnn": str(torch.backends.cudnn.version() or ""),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def card() -> dict[str, int]:
    """What CUDA says of the card."""
    return {
        "sm_count": int(torch.cuda.get_device_properties(DEVICE).multi_processor_count),
        "cuda_visible_total_bytes": int(torch.cuda.mem_get_info(DEVICE)[1]),
    }


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=is_out_of_memory)
