"""What convolutions ask for on a GPU: by PyTorch's allocator, and by the device's own cuDNN.

    python benchmarks/torch/record_convolutions.py CALLS.csv.gz OUT.csv.gz [--processes 14] [--seconds 300]

Each call of `convolution_calls` is run by PyTorch for the first time in its process: ``workspace_bytes`` is the largest request
beyond the output, ``requests`` are all of them. Then cuDNN is walked with a handle on the device as PyTorch walks it
(``vramplan/workspace/cudnn_child.py``): engine, knobs and workspace of the first configuration that builds, and the engines
that are listed first, built or not. ``backend`` says who runs the call in PyTorch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import multiprocessing
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
from vramplan.workspace import cudnn_child

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ANSWERS = ("backend", "workspace_bytes", "requests", "device_bytes", "engine", "knobs", "unshared_bytes", "listed")
_CHUNK = 64


def sizes(text: str) -> list[int]:
    """2x3 as [2, 3]."""
    return [int(side) for side in text.split("x")]


def measured(cells: dict[str, str]) -> dict[str, Any]:
    """Who runs the call, and what PyTorch requests while it runs, beyond its output."""
    dtype, is_last = DTYPES[cells["dtype"]], cells["channels_last"] == "1"
    shape, weight = sizes(cells["input_shape"]), sizes(cells["weight_shape"])
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)] if is_last else torch.contiguous_format
    x = torch.empty(shape, dtype=dtype, device="cuda", memory_format=layout)
    w = torch.empty(weight, dtype=dtype, device="cuda", memory_format=layout)
    stride, padding, dilation = (sizes(cells[name]) for name in ("stride", "padding", "dilation"))
    is_transposed, groups = cells["transposed"] == "1", int(cells["groups"])
    torch.backends.cudnn.allow_tf32 = cells["tf32"] == "1"
    rest = (stride, padding, dilation, is_transposed, [0] * len(stride), groups)
    backend = str(torch._C._select_conv_backend(x, w, None, *rest)).rpartition(".")[2]
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=10_000)
    try:
        y = torch.ops.aten.convolution.default(x, w, None, *rest)
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    made = [entry["size"] for entry in trace if entry["action"] == "alloc"]
    made.remove(y.untyped_storage().nbytes())
    return {"backend": backend, "workspace_bytes": max(made, default=0), "requests": " ".join(map(str, made))}


def request(cells: dict[str, str]) -> dict[str, Any]:
    """The call as the child wants it."""
    x, w = sizes(cells["input_shape"]), sizes(cells["weight_shape"])
    stride, padding, dilation = (sizes(cells[name]) for name in ("stride", "padding", "dilation"))
    if len(stride) == 1:
        x, w, stride, padding, dilation = [*x[:2], 1, *x[2:]], [*w[:2], 1, *w[2:]], [1, *stride], [0, *padding], [1, *dilation]
    is_transposed = cells["transposed"] == "1"
    outputs = w[1] * int(cells["groups"]) if is_transposed else w[0]
    reach = [gap * (side - 1) + 1 for gap, side in zip(dilation, w[2:], strict=True)]
    axes = list(zip(x[2:], stride, padding, reach, strict=True))
    if is_transposed:
        y = [(side - 1) * step - 2 * pad + size for side, step, pad, size in axes]
    else:
        y = [(side + 2 * pad - size) // step + 1 for side, step, pad, size in axes]
    return {
        "dtype": {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[cells["dtype"]],
        "input_shape": x,
        "weight_shape": w,
        "output_shape": [x[0], outputs, *y],
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "transposed": is_transposed,
        "channels_last": cells["channels_last"] == "1",
        "tensor_cores": cells["dtype"] != "fp32" or cells["tf32"] == "1",
        "deterministic": False,
        "benchmark": False,
        "heuristic": "A",
    }


def own(cudnn: Any, device: Any, cells: dict[str, str]) -> dict[str, Any]:
    """What the device's own cuDNN names first, and the first engines of its list, built or not."""
    try:
        asked = request(cells)
        reply = cudnn_child.answer(cudnn, device, asked)
        listed = itertools.islice(cudnn_child.engines(cudnn, device, asked), 6)
    except cudnn_child.CudnnError:
        return {}
    knobs = " ".join(f"{kind}:{value}" for kind, value in reply.get("knobs", {}).items())
    return {"device_bytes": reply["bytes"], "engine": reply.get("engine"), "knobs": knobs,
            "unshared_bytes": reply.get("unshared_bytes"), "listed": " ".join(map(str, listed))}  # fmt: skip


_STATE: dict[str, Any] = {}


def prepare(deadline: float) -> None:
    """One process: PyTorch's context, and a handle of the cuDNN that it has loaded."""
    torch.zeros(1, device="cuda")
    torch.backends.cudnn.version()
    x = torch.zeros(1, 8, 8, 8, device="cuda")
    torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3, device="cuda"))
    loaded = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    cudnn = cudnn_child.Cudnn([next(path for path in loaded if "libcudnn_graph" in path)])
    _STATE.update(cudnn=cudnn, device=cudnn_child.Present(cudnn), deadline=deadline)


def work(chunk: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The answers to some calls; none after the deadline."""
    found = []
    for cells in chunk:
        if time.time() > _STATE["deadline"]:
            break
        try:
            answer = measured(cells)
        except Exception as error:
            answer = {"backend": f"{type(error).__name__}: {error}"[:80].replace("\n", " ")}
        if answer["backend"] in ("Cudnn", "CudnnTranspose"):
            answer |= own(_STATE["cudnn"], _STATE["device"], cells)
        found.append(cells | answer)
        if torch.cuda.memory_reserved() > 6 << 30:
            torch.cuda.empty_cache()
    return found


def about() -> dict[str, Any]:
    """Provenance."""
    command = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    driver, name, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    return {"gpu": name, "memory": memory, "driver": driver, "torch": torch.__version__,
            "python": platform.python_version(), "cudnn": torch.backends.cudnn.version()}  # fmt: skip


def main() -> None:
    """Write the answers as they come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("calls", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    with gzip.open(options.calls, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chunks = [rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK)]
    began = time.time()
    print(json.dumps(about()), flush=True)
    context = multiprocessing.get_context("spawn")
    with (
        gzip.open(options.out, "wt", encoding="utf-8", newline="", compresslevel=5) as file,
        context.Pool(options.processes, prepare, (began + options.seconds,)) as pool,
    ):
        writer = csv.DictWriter(file, [*rows[0], *ANSWERS], lineterminator="\n")
        writer.writeheader()
        count = 0
        for index, found in enumerate(pool.imap_unordered(work, chunks)):
            writer.writerows(found)
            count += len(found)
            if index % 100 == 0:
                print(count, "of", len(rows), round(time.time() - began), "s", flush=True)
    print(count, "calls in", round(time.time() - began), "s")


if __name__ == "__main__":
    main()
