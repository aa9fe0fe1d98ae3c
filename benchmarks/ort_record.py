"""Record what sessions of ONNX Runtime's CUDA provider take on a GPU: one fresh process each, several at a time.

    python benchmarks/ort_record.py OUT --graphs FOLDER --site FOLDER_WITH_ONNXRUNTIME_GPU --seconds 480 --workers 14

FOLDER has the files of ``graphs.tar.xz``; they get random weights in ``--work`` (a memory file system). OUT gets

``runs.jsonl.gz``    one line a process: bytes by NVML after the session and runs 1 to 4, and every region of the arena with
                     the request that it was allocated for, by ONNX Runtime's own log
``nodes.jsonl.gz``   one line a graph and search: the optimised graph, its nodes in the order of execution, and what
                     ``session.collect_node_memory_stats_to_file`` says of each (without a memory pattern, as documented)

A reading is the process's own (``nvmlDeviceGetComputeRunningProcesses``); the device's is beside it. The child imports no
torch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MARK = "#phase "
EXTENDING = re.compile(r"Extending BFCArena for (\w+).*?\(requested\) num_bytes: (\d+)")
EXTENDED = re.compile(r"Extended allocation by (\d+) bytes")
RESERVED = re.compile(r"Reserving memory in BFCArena for (\w+) size: (\d+)")
VARIED = ("zoo-yolov8s.open", "tv-resnet50.open", "tv-efficientnet_b0.open", "tv-swin_t.open", "tv-vgg16.open", "hf-bert.open",
          "tv-deeplabv3_resnet50.open", "timm-convnextv2_tiny.open", "tv-mobilenet_v2.open", "tv-densenet121.fixed",
          "timm-dla34.open", "zoo-yolov8n.dynamo")  # fmt: skip
OTHERS: tuple[dict[str, str], ...] = (
    {"prefer_nhwc": "1"},
    {"use_tf32": "0"},
    {"enable_mem_pattern": "0"},
    {"session.use_device_allocator_for_initializers": "1"},
    {"gpu_mem_limit": str(3 << 30)},
    {"cudnn_conv_algo_search": "DEFAULT"},
    {"cudnn_conv_use_max_workspace": "0"},
    {"graph_optimization_level": "basic"},
    {"graph_optimization_level": "disable_all"},
    {"prefer_nhwc": "1", "arena_extend_strategy": "kSameAsRequested"},
    {"enable_mem_pattern": "0", "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"},
)
Job = dict[str, Any]


def jobs(graphs: list[str]) -> Iterator[Job]:
    """What is run, in the order of its worth: the clock may end it."""
    cells = list(itertools.product(("kNextPowerOfTwo", "kSameAsRequested"), ("EXHAUSTIVE", "HEURISTIC")))
    cells.sort(key=lambda cell: (cell != ("kNextPowerOfTwo", "EXHAUSTIVE"), cell != ("kSameAsRequested", "HEURISTIC")))
    for search in ("EXHAUSTIVE", "HEURISTIC"):
        if search == "HEURISTIC":
            for (strategy, other), graph in itertools.product(cells[:2], graphs):
                yield _job(graph, 8, strategy, other)
        for graph in graphs:
            yield {"graph": graph, "batch": 8, "nodes": search}
    for (strategy, search), graph in itertools.product(cells[2:], graphs):
        yield _job(graph, 8, strategy, search)
    for batch, (strategy, search), graph in itertools.product((1, 16), cells[:2], graphs):
        if ".fixed." not in graph:
            yield _job(graph, batch, strategy, search)
    varied = [graph for graph in graphs if any(graph.startswith(f"{name}.") for name in VARIED)]
    for options, graph in itertools.product(OTHERS, varied):
        yield _job(graph, 8, "kNextPowerOfTwo", "EXHAUSTIVE", **options)
    for _, graph in itertools.product(range(3), varied):
        yield _job(graph, 8, "kNextPowerOfTwo", "EXHAUSTIVE")
    for batch, (strategy, search), graph in itertools.product((1, 16), cells[2:], graphs):
        if ".fixed." not in graph:
            yield _job(graph, batch, strategy, search)


def _job(graph: str, batch: int, strategy: str, search: str, **options: str) -> Job:
    return {
        "graph": graph,
        "batch": batch,
        "options": {"arena_extend_strategy": strategy, "cudnn_conv_algo_search": search} | options,
    }


def filled(source: Path, target: Path) -> None:
    """The file with random weights where it has none."""
    import numpy
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    generator = numpy.random.default_rng(0)
    noise = (generator.standard_normal(1 << 20) * 0.02).astype(numpy.float32)
    for index, tensor in enumerate(model.graph.initializer):
        has_values = tensor.raw_data or tensor.float_data or tensor.int64_data or tensor.int32_data or tensor.double_data
        count = int(numpy.prod(tensor.dims)) if tensor.dims else 1
        if has_values or not count:
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        values = numpy.resize(numpy.roll(noise, index), count).astype(dtype).reshape(tuple(tensor.dims))
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))
    part = target.with_suffix(".part")
    part.write_bytes(model.SerializeToString())
    part.rename(target)


class Recorder:
    """Runs jobs in child processes and writes what they say, as it comes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.lock = arguments, threading.Lock()
        self.end_s = time.monotonic() + arguments.seconds
        self.bad: set[str] = set()
        self.ready = {path.name: threading.Event() for path in arguments.graphs.glob("*.onnx")}
        arguments.out.mkdir(parents=True, exist_ok=True)
        arguments.work.mkdir(parents=True, exist_ok=True)
        self.files = {
            name: gzip.open(arguments.out / f"{name}.jsonl.gz", "wt")  # noqa: SIM115  closed at the end of `all`
            for name in ("runs", "nodes")
        }
        self.counts = {"runs": 0, "nodes": 0, "failed": 0}

    def fill(self, name: str) -> None:
        """In a process of its own, because it is work for the CPU; what is there already stays."""
        command = [sys.executable, __file__, str(self.arguments.out), "--fill", name, "--graphs", str(self.arguments.graphs)]
        command += ["--work", str(self.arguments.work)]
        if not (self.arguments.work / name).exists() and subprocess.run(command, check=False).returncode:
            self.bad.add(name)
        self.ready[name].set()

    def run(self, job: Job) -> None:
        """One job, unless its graph failed before or the time is up."""
        self.ready[job["graph"]].wait()
        if job["graph"] in self.bad or time.monotonic() > self.end_s - 8:
            return
        if job["batch"] != 8 and ".fixed." in job["graph"]:
            return
        log = self.arguments.work / f"log-{threading.get_ident()}"
        command = [
            sys.executable,
            __file__,
            str(self.arguments.out),
            "--child",
            json.dumps(job),
            "--work",
            str(self.arguments.work),
        ]
        command += ["--site", str(self.arguments.site), "--provider", self.arguments.provider]
        started = time.monotonic()
        with log.open("wb") as errors:
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=90, check=False)
                said = json.loads(done.stdout) if done.returncode == 0 else {}
            except (subprocess.TimeoutExpired, ValueError) as error:
                said = {"error": str(error)[:300]}
        text = log.read_text(errors="replace")
        row = job | said | {"seconds": round(time.monotonic() - started, 1)}
        if "nodes" not in job:
            row["regions"] = regions(text)
        if "readings" not in said and "stats" not in said:
            row["error"] = said.get("error") or text[-600:]
        self.write("nodes" if "nodes" in job else "runs", row)

    def write(self, kind: str, row: Job) -> None:
        """Put *row* into a file at once."""
        with self.lock:
            self.counts[kind] += 1
            if "error" in row:
                self.counts["failed"] += 1
                if self.counts["failed"] < 25:
                    print(row["graph"], row["batch"], row.get("options") or row.get("nodes"), row["error"][-300:], flush=True)
                if not row.get("options") or len(row["options"]) == 2:
                    self.bad.add(row["graph"])
            self.files[kind].write(json.dumps(row, separators=(",", ":")) + "\n")
            self.files[kind].flush()

    def all(self) -> None:
        """Every job."""
        names = sorted(self.ready)
        order = list(jobs(names))
        with ThreadPoolExecutor(8) as fillers, ThreadPoolExecutor(self.arguments.workers) as workers:
            list_of_fills = [fillers.submit(self.fill, name) for name in names]
            runs = [] if self.arguments.fill_only else [workers.submit(self.run, job) for job in order]
            for each in (*list_of_fills, *runs):
                each.result()
        for file in self.files.values():
            file.close()
        print(f"{len(order)} jobs, {self.counts}", flush=True)


def regions(text: str) -> list[list[Any]]:
    """``[phase, request, bytes]`` of every region of the CUDA arena, by the log; a request of -1 bypassed the arena."""
    found: list[list[Any]] = []
    phase, request, arena = "session", 0, ""
    for line in text.splitlines():
        if line.startswith(MARK):
            phase = line.removeprefix(MARK)
        elif match := EXTENDING.search(line):
            arena, request = match[1], int(match[2])
        elif (match := EXTENDED.search(line)) and arena == "Cuda":
            found.append([phase, request, int(match[1])])
        elif (match := RESERVED.search(line)) and match[1] == "Cuda":
            found.append([phase, -1, int(match[2])])
    return found


def child(arguments: argparse.Namespace) -> None:
    """One process: a session and its runs. Prints one JSON object."""
    sys.path.insert(0, str(arguments.site))
    import numpy
    import onnxruntime

    job = json.loads(arguments.child)
    read = _nvml() if arguments.provider == "CUDAExecutionProvider" else lambda: (0, 0)
    onnxruntime.set_default_logger_severity(1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 1
    options.intra_op_num_threads = 2
    asked = dict(job.get("options", {}))
    options.enable_mem_pattern = asked.pop("enable_mem_pattern", "1") == "1"
    if level := asked.pop("graph_optimization_level", None):
        name = level if level == "disable_all" else f"enable_{level}"
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name.upper()}")
    for key in [key for key in asked if key.startswith("session.")]:
        options.add_session_config_entry(key, asked.pop(key))
    base = arguments.work / f"child-{os.getpid()}"
    if "nodes" in job:
        asked = {"cudnn_conv_algo_search": job["nodes"]}
        options.enable_mem_pattern = False
        options.enable_profiling, options.profile_file_prefix = True, str(base)
        options.optimized_model_filepath = f"{base}.onnx"
        options.add_session_config_entry("session.collect_node_memory_stats_to_file", f"{base}.csv")
    providers = [(arguments.provider, asked)] if arguments.provider == "CUDAExecutionProvider" else [arguments.provider]
    session = onnxruntime.InferenceSession(str(arguments.work / job["graph"]), options, providers=providers)
    if arguments.provider not in session.get_providers():
        raise RuntimeError("no CUDA provider")
    feeds = {item.name: _value(numpy, item, job["batch"]) for item in session.get_inputs()}
    if "nodes" in job:
        session.run(None, feeds)
        profile = session.end_profiling()
        del session
        result = {"stats": _stats(f"{base}.csv"), "run": _profile(profile)}
        if job["nodes"] == "EXHAUSTIVE":
            result["optimised"] = _optimised(f"{base}.onnx")
        for path in (profile, f"{base}.csv", f"{base}.onnx"):
            Path(path).unlink(missing_ok=True)
    else:
        readings = [read()]
        for number in (1, 2, 3, 4):
            os.write(2, f"\n{MARK}run{number}\n".encode())
            session.run(None, feeds)
            readings.append(read())
        result = {"readings": [mine for mine, _ in readings], "device": [whole for _, whole in readings]}
    shapes = {name: list(value.shape) for name, value in feeds.items()}
    print(json.dumps(result | {"shapes": shapes, "version": onnxruntime.__version__}, separators=(",", ":")))


def _nvml() -> Any:
    import pynvml

    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> tuple[int, int]:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
        mine = next((each.usedGpuMemory for each in found if each.pid == os.getpid()), 0)
        return mine or 0, pynvml.nvmlDeviceGetMemoryInfo(device).used

    return read


def _value(numpy: Any, item: Any, batch: int) -> Any:
    sides = {"height": 640, "width": 640}
    shape = [dim if isinstance(dim, int) else sides.get(dim, batch) for dim in item.shape]
    dtype = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}[item.type]
    if dtype == "int64":
        return numpy.ones(shape, dtype=dtype)
    return numpy.random.default_rng(0).random(shape, dtype="float32").astype(dtype)


def _stats(path: str) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _profile(path: str) -> list[list[Any]]:
    """Nodes in the order they ran: name, op, provider, bytes of outputs, and shapes of outputs."""
    events = json.loads(Path(path).read_text(encoding="utf-8"))
    kernels = [each for each in events if each.get("name", "").endswith("_kernel_time")]
    kernels.sort(key=lambda each: each["ts"])
    return [
        [
            each["name"].removesuffix("_kernel_time"),
            each["args"]["op_name"],
            each["args"]["provider"].removesuffix("ExecutionProvider"),
            int(each["args"].get("output_size", 0)),
            each["args"].get("output_type_shape", []),
        ]
        for each in kernels
    ]


def _optimised(path: str) -> dict[str, Any]:
    import onnx

    model = onnx.load(path)
    return {
        "nodes": [[node.name, node.op_type, node.domain, list(node.input), list(node.output)] for node in model.graph.node],
        "initializers": [[item.name, item.data_type, list(item.dims)] for item in model.graph.initializer],
    }


def main() -> int:
    """Record, or be one of the children."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--graphs", type=Path)
    parser.add_argument("--site", type=Path, default=Path())
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/ort"))
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--provider", default="CUDAExecutionProvider")
    parser.add_argument("--child")
    parser.add_argument("--fill")
    parser.add_argument("--fill-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
    elif arguments.fill:
        filled(arguments.graphs / arguments.fill, arguments.work / arguments.fill)
    else:
        Recorder(arguments).all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
