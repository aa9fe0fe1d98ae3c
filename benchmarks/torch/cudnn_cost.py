"""What asking cuDNN costs an estimate: whole processes without its libraries, with a cold cache, and with a warm one.

    python benchmarks/torch/cudnn_cost.py [MODEL] [--repeat 7]

cuDNN must be installed where this Python finds it (``pip install 'vramplan[cudnn]'``). The closed form is asked by a process
that does not see the libraries. Runs take turns, so that a busy machine slows all three; medians are printed, and the largest
resident set of the child that holds cuDNN.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20

ESTIMATE = """
import sys
sys.path.insert(0, {root!r})
from vramplan.workspace import cudnn, cudnn_libraries
if not {is_asked}:
    cudnn.installed_libraries = lambda: ()
from vramplan.__main__ import main
main()
"""


def seconds(model: str, cache: Path, *, is_asked: bool) -> float:
    """Wall time of one ``vramplan estimate`` in a process of its own."""
    code = ESTIMATE.format(root=str(ROOT), is_asked=is_asked)
    arguments = ["estimate", model, "--runtime", "torch", "--precision", "fp16", "-b", "8", "--gpu", "h200", "--json"]
    start_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"VRAMPLAN_CACHE_DIR": str(cache)},
    )
    return time.perf_counter() - start_s


def child_bytes(model: str) -> int:
    """The largest resident set of a child that has answered a model's convolutions with a cold cache."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import vramplan as vp
vp.estimate({model!r}, batch=8, precision="fp16", runtime="torch", gpu="h200")
from vramplan.workspace.cudnn_libraries import installed_libraries
from vramplan.workspace.cudnn_process import cudnn_process
cudnn_process(installed_libraries()).stop()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"VRAMPLAN_CACHE_DIR": cache}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="yolov8s")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {"without cuDNN": [], "cuDNN, cold cache": [], "cuDNN, warm cache": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeat):
            cache = Path(folder) / str(turn)
            taken["without cuDNN"].append(seconds(options.model, cache, is_asked=False))
            taken["cuDNN, cold cache"].append(seconds(options.model, cache, is_asked=True))
            taken["cuDNN, warm cache"].append(seconds(options.model, cache, is_asked=True))
    base_s = median(taken["without cuDNN"])
    for name, times in taken.items():
        print(f"{name:<24} {median(times):>7.3f} s  {(median(times) - base_s) * 1000:>+7.0f} ms  best {min(times):.3f} s")
    print(f"{'the child':<24} {child_bytes(options.model) / MIB:>7.0f} MiB resident at most")


if __name__ == "__main__":
    main()
