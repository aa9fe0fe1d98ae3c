"""What cuBLASLt chooses for matrix products that are 1x1 convolutions, on a GPU: splits, reduction and workspace.

    python benchmarks/torch/record_products.py CALLS.csv.gz OUT.csv.gz [--count 600000] [--processes 14] [--seconds 30]

cuDNN asks cuBLASLt for such a product with a limit on its workspace: 4 MiB or 128 MiB (or none at all), by a knob.
Here the same questions are asked for random products, without cuDNN. Every image of a row-major batch is one product of a
batch that shares the weight; channels_last is one product of all images' pixels.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gzip
import itertools
import math
import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMITS = (4 << 20, 128 << 20)
KEY = ("dtype", "channels_last", "images", "pixels", "channels", "outputs")
NAMES = (*KEY, "sizes_4", "sizes_128", "first_4", "first_128")
_TYPES = {"fp32": 0, "fp16": 2, "bf16": 14}
_TF32, _FLOAT = 77, 0
_SIDES = (1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 12, 13, 14, 14, 15, 16, 17, 19, 20, 24, 26, 28, 28, 32, 33, 35, 38, 40, 48, 52, 56,
          56, 64, 65, 72, 80, 96, 112, 128, 160)  # fmt: skip
_CHUNK = 1000


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [("algo", ctypes.c_uint64 * 8), ("size", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float),
                ("reserved", ctypes.c_int * 4)]  # fmt: skip


class Library:
    """cuBLASLt as PyTorch has loaded it."""

    def __init__(self) -> None:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8").split()
        self.lt = ctypes.CDLL(next(path for path in loaded if "libcublasLt" in path))
        self.handle = self.made("cublasLtCreate")

    def call(self, name: str, *arguments: Any) -> None:
        """Call *name*; RuntimeError unless it succeeds."""
        status = getattr(self.lt, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: {status}")

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What the constructor *name* makes."""
        pointer = ctypes.c_void_p()
        self.call(name, ctypes.byref(pointer), *arguments)
        return pointer

    def set(self, name: str, what: ctypes.c_void_p, attribute: int, value: Any) -> None:
        """Set one attribute."""
        self.call(name, what, ctypes.c_int(attribute), ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))

    def layout(self, dtype: int, shape: tuple[int, int], images: int, step: int) -> ctypes.c_void_p:
        """Columns of *shape*, one matrix an image."""
        rows, columns = shape
        layout = self.made(
            "cublasLtMatrixLayoutCreate", dtype, ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows)
        )
        self.set("cublasLtMatrixLayoutSetAttribute", layout, 5, ctypes.c_int32(images))
        self.set("cublasLtMatrixLayoutSetAttribute", layout, 6, ctypes.c_int64(step))
        return layout

    def chosen(self, row: dict[str, Any], limit: int) -> tuple[str, str]:
        """The workspaces of the (up to eight) choices for one product, best first, and the first choice by its numbers."""
        dtype, pixels, channels, outputs = _TYPES[row["dtype"]], row["pixels"], row["channels"], row["outputs"]
        product = self.made("cublasLtMatmulDescCreate", _TF32, _FLOAT)
        is_last = row["channels_last"]
        self.set("cublasLtMatmulDescSetAttribute", product, 3, ctypes.c_int32(int(is_last)))
        if is_last:
            rows = row["images"] * pixels
            layouts = [self.layout(dtype, shape, 1, 0) for shape in ((channels, outputs), (channels, rows), (outputs, rows))]
        else:
            images = row["images"]
            layouts = [
                self.layout(dtype, (pixels, channels), images, pixels * channels),
                self.layout(dtype, (channels, outputs), images, 0),
                self.layout(dtype, (pixels, outputs), images, pixels * outputs),
            ]
        wish = self.made("cublasLtMatmulPreferenceCreate")
        self.set("cublasLtMatmulPreferenceSetAttribute", wish, 1, ctypes.c_uint64(limit))
        self.set("cublasLtMatmulPreferenceSetAttribute", wish, 12, ctypes.c_uint64(0xFFFFFF))
        for attribute in (5, 6, 7, 8):
            self.set("cublasLtMatmulPreferenceSetAttribute", wish, attribute, ctypes.c_uint32(16))
        found, count = (Heuristic * 8)(), ctypes.c_int()
        try:
            a, b, c = layouts
            self.call("cublasLtMatmulAlgoGetHeuristic", self.handle, product, a, b, c, c, wish, 8, found, ctypes.byref(count))
            sizes = " ".join(str(one.size) for one in found[: count.value])
            return sizes, self.described(found[0]) if count.value else ""
        except RuntimeError as error:
            return "", str(error).rpartition(" ")[2]
        finally:
            for layout in layouts:
                self.lt.cublasLtMatrixLayoutDestroy(layout)
            self.lt.cublasLtMatmulPreferenceDestroy(wish)
            self.lt.cublasLtMatmulDescDestroy(product)

    def described(self, found: Heuristic) -> str:
        """The configuration: SPLITK_NUM, REDUCTION_SCHEME, TILE_ID, ID."""
        values = []
        for attribute in (2, 3, 1, 0):
            value, written = ctypes.c_int32(), ctypes.c_size_t()
            self.lt.cublasLtMatmulAlgoConfigGetAttribute(
                ctypes.byref(found.algo), attribute, ctypes.byref(value), ctypes.c_size_t(4), ctypes.byref(written)
            )
            values.append(value.value)
        return " ".join(map(str, values))


def asked(calls: Path, sets: Sequence[str] = ("guided", "judged", "apart")) -> list[dict[str, Any]]:
    """The products among recorded calls of some sets."""
    with gzip.open(calls, "rt", encoding="utf-8", newline="") as file:
        found = [cells for cells in csv.DictReader(file) if cells["engine"] in {"58", "58.0"} and cells["set"] in sets]
    return [row for row in map(_product_of, found) if row]


def _product_of(cells: dict[str, str]) -> dict[str, Any]:
    images, channels, *sides = map(int, cells["input_shape"].split("x"))
    outputs, *kernel = map(int, cells["weight_shape"].split("x"))
    if cells["transposed"] == "1" or any(side > 1 for side in kernel[1:]):
        return {}
    values = (cells["dtype"], int(cells["channels_last"]), images, math.prod(sides), channels, outputs)
    return dict(zip(KEY, values, strict=True))


def products(seed: int, widths: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Random products, as convolutions have them: half of them with the *widths* of real ones, in other sizes."""
    dice = random.Random(seed)
    found = []
    for _ in range(_CHUNK):
        side = dice.choice(_SIDES)
        pixels = side * (side if dice.random() < 0.85 else dice.choice(_SIDES))
        channels, outputs = dice.choice(widths) if dice.random() < 0.5 else (_width(dice), _width(dice))
        images = dice.choice((1, 1, 1, 2, 2, 3, 4, 4, 6, 8, 8, 12, 16, 16, 24, 32))
        dtype = dice.choice(("fp32", "fp32", "fp32", "fp32", "fp16", "fp16", "bf16", "bf16"))
        values = (dtype, dice.randrange(2), images, pixels, channels, outputs)
        found.append(dict(zip(KEY, values, strict=True)))
    return found


def _width(dice: random.Random) -> int:
    size = 2 ** dice.uniform(2, 11.5)
    step = dice.choice((1, 2, 4, 8, 8, 8, 16, 16, 32))
    return max(1, round(size / step)) * step


_STATE: dict[str, Any] = {}


def prepare(deadline: float) -> None:
    """One process with PyTorch's context and libraries."""
    import torch

    x = torch.zeros(16, 16, device="cuda")
    torch.nn.functional.linear(x, x, x[0])
    _STATE.update(library=Library(), deadline=deadline)


def work(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some products, answered; none after the deadline."""
    found = []
    for row in rows:
        if time.time() > _STATE["deadline"]:
            break
        (sizes_4, first_4), (sizes_128, first_128) = (_STATE["library"].chosen(row, limit) for limit in LIMITS)
        found.append(row | {"sizes_4": sizes_4, "sizes_128": sizes_128, "first_4": first_4, "first_128": first_128})
    return found


def main() -> None:
    """Write the answers as they come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("calls", type=Path, help="recorded convolutions, whose products are asked about first")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=600_000)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    began = time.time()
    known = asked(options.calls)
    widths = sorted({(row["channels"], row["outputs"]) for row in asked(options.calls, ("guided",))})
    chunks = [known[at : at + _CHUNK] for at in range(0, len(known), _CHUNK)]
    tasks = itertools.chain(chunks, (products(seed, widths) for seed in range(options.count // _CHUNK)))
    context = multiprocessing.get_context("spawn")
    with (
        gzip.open(options.out, "wt", encoding="utf-8", newline="", compresslevel=6) as file,
        context.Pool(options.processes, prepare, (began + options.seconds,)) as pool,
    ):
        writer = csv.DictWriter(file, NAMES, lineterminator="\n")
        writer.writeheader()
        count = 0
        for found in pool.imap(work, tasks):
            writer.writerows(found)
            count += len(found)
    print(count, "products in", round(time.time() - began), "s")


if __name__ == "__main__":
    main()
