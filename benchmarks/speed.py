"""Wall time and peak memory of whole processes: ours beside peers, on the same file, in the same run.

    python benchmarks/speed.py [--repeat 5]

``bare`` is what any tool in Python pays: an interpreter that imports typer, rich and onnx and loads the file. ``onnx-tool``
(``pip install onnx-tool``) is a profiler that walks the same graph; it is left out, and said so, when it is not installed.
Every process runs --repeat times; the median is printed. Peak memory is the child's maximum resident set size.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
MIB = 1 << 20

BARE = "import typer, rich, onnx; onnx.load({path!r})"
LOAD_ONLY = "import onnx; onnx.load({path!r})"
ONNX_TOOL = (
    "import onnx_tool; m = onnx_tool.Model({path!r}); import numpy; "
    "m.graph.shape_infer({{'images': numpy.zeros((1, 3, 640, 640), dtype='float32')}}); m.graph.profile()"
)
SWEEP_BATCHES, SWEEP_PRECISIONS = "1,2,4,8,16,32,64,128", "fp32,fp16,int8"


def run(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process; RuntimeError with its last words when it fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            errors.seek(0)
            raise RuntimeError(f"{command[:4]}: {errors.read()[-500:].decode(errors='replace')}")
    return seconds, usage.ru_maxrss * 1024


def measure(name: str, command: Sequence[str], repeat: int) -> float:
    """Run *command* again and again, print one line, return the median seconds."""
    results = [run(command) for _ in range(repeat)]
    seconds = median(result[0] for result in results)
    print(f"{name:<44} {seconds:>8.3f} s {max(result[1] for result in results) / MIB:>8.0f} MiB", flush=True)
    return seconds


def make(write: Callable[..., None], *arguments: object) -> str:
    """Call *write* in a process of its own: a child's peak memory starts at its parent's. Returns the last argument."""
    process = multiprocessing.get_context("spawn").Process(target=write, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{write.__name__} failed")
    return str(arguments[-1])


def with_values(source: Path, target: Path) -> None:
    """A copy of a weight-free file whose weights have values, as a user's file has: zeros of the declared size."""
    import onnx

    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if not tensor.raw_data and tensor.data_type == onnx.TensorProto.FLOAT:
            count = 1
            for dim in tensor.dims:
                count *= dim
            tensor.raw_data = bytes(4 * count)
    onnx.save(model, str(target))


def long_chain(nodes: int, target: Path) -> None:
    """A graph of *nodes* convolutions, clamps and residual sums."""
    from onnx import TensorProto, helper, save

    names, made = ["x", "x"], []
    for index in range(nodes):
        op = ("Conv", "Relu", "Add")[index % 3]
        reads = {"Conv": [names[-1], "w"], "Relu": [names[-1]], "Add": [names[-1], names[-2]]}[op]
        attributes = {"pads": [1, 1, 1, 1]} if op == "Conv" else {}
        made.append(helper.make_node(op, reads, [f"t{index}"], **attributes))
        names.append(f"t{index}")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 8, 3, 3], bytes(8 * 8 * 9 * 4), raw=True)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 32, 32])
    result = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "chain", [given], [result], [weight])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(target))


def main() -> None:
    """Print the whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    ours, python = [sys.executable, "-m", "vramplan"], [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        path = make(with_values, ROOT / "models" / "onnx" / "yolov8s.onnx", Path(folder) / "yolov8s.onnx")
        size = ["--shape", "images:1x3x640x640"]
        dims = ["--dim", "height=640", "--dim", "width=640"]
        print(f"yolov8s, {os.path.getsize(path) / MIB:.1f} MiB with weights")
        bare = measure("bare: import typer, rich, onnx; onnx.load", [*python, BARE.format(path=path)], repeat)
        measure("import onnx; onnx.load", [*python, LOAD_ONLY.format(path=path)], repeat)
        if importlib.util.find_spec("onnx_tool"):
            measure("onnx-tool: shapes and profile", [*python, ONNX_TOOL.format(path=path)], repeat)
        else:
            print("onnx-tool is not installed: pip install onnx-tool")
        one = measure("vramplan estimate, 1 cell", [*ours, "estimate", path, *size, "--precision", "fp16"], repeat)
        sweep = [*ours, "estimate", path, *dims, "-b", SWEEP_BATCHES, "--precision", SWEEP_PRECISIONS]
        many = measure("vramplan estimate, 24 cells", sweep, repeat)
        measure("vramplan --help", [*ours, "--help"], repeat)
        print(f"1 cell / bare: {one / bare:.2f} (aim 1.6)   24 cells / 1 cell: {many / one:.2f} (aim 2)\n")
        previous = 0.0
        for nodes in (6_250, 12_500, 25_000, 50_000):
            chain = make(long_chain, nodes, Path(folder) / "chain.onnx")
            seconds = measure(f"chain of {nodes:,} nodes", [*ours, "estimate", chain, "--precision", "fp16"], 1)
            print(f"    × {seconds / previous:.2f} for twice the nodes" if previous else "", flush=True)
            previous = seconds


if __name__ == "__main__":
    main()
