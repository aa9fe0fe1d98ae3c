"""How long the what-if board takes to follow: every kind of change over HTTP, from the question to the last byte of the answer.

    python benchmarks/board.py [--repeat 9] [--model yolov8s]…

A board is started as a process of its own (`vramplan serve --port 0`), and asked as its page asks: one question at a time on
one connection. Each change is to a value that was not asked for before, except where it says otherwise: "again", and "solved
ahead", which is what the page does for the neighbours of a slider while nothing moves. Printed are the median and the slowest
of --repeat changes, in milliseconds; we aim at less than 100 for all but the first question and advice, which comes later.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from urllib.parse import urlencode

CARDS = ("rtx3060", "t4", "a10", "l4", "rtx4090", "a100-sxm-80gb", "h100-sxm", "rtx3080", "a2", "l40s", "rtx2080ti", "rtx4070")
Question = Mapping[str, object]


@contextlib.contextmanager
def board() -> Iterator[http.client.HTTPConnection]:
    """A connection to a board that runs until the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vramplan", "serve", "--port", "0", "--folder", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[2].rstrip("/").rpartition(":")[2])
            try:
                yield http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            finally:
                process.send_signal(signal.SIGINT)


def ask(connection: http.client.HTTPConnection, kind: str, question: Question) -> float:
    """Milliseconds until the answer is there; RuntimeError when it is none."""
    begun = time.perf_counter()
    connection.request("GET", f"/api/{kind}?{urlencode(question)}")
    answer = connection.getresponse()
    body = answer.read()
    if answer.status not in {200, 204}:
        raise RuntimeError(f"{kind} {dict(question)}: {answer.status} {body[:300]!r}")
    return 1000 * (time.perf_counter() - begun)


def changes(model: str, runtime: str) -> Iterator[tuple[str, Iterable[Question]]]:
    """Each kind of change of the memory's controls, as questions whose answers nobody has asked for yet."""
    base = {"model": model, "runtime": runtime, "gpu": "rtx3090"}
    precisions = ("fp32", "bf16", "as-is") if runtime != "tensorrt" else ("fp32", "bf16", "as-is", "int8", "fp8")
    yield "a new batch", ({**base, "precision": "fp16", "batch": batch} for batch in itertools.count(2))
    yield "a new batch, solved ahead", ({**base, "precision": "fp16", "batch": 1000 + number} for number in itertools.count())
    yield "the same batch again", ({**base, "precision": "fp16", "batch": 2} for _ in itertools.count())
    yield (
        "another precision of a batch",
        ({**base, "precision": name, "batch": batch} for batch in itertools.count(2) for name in precisions),
    )
    yield (
        "another card",
        ({**base, "precision": "fp16", "batch": batch, "gpu": card} for batch in itertools.count(2) for card in CARDS),
    )
    if runtime != "torch" and model.startswith("yolo"):
        sizes = (32 * number for number in itertools.chain(range(6, 20), range(21, 40)))
        yield (
            "another input size",
            ({**base, "precision": "fp16", "batch": 2, "dim": f"height={size}"} for size in sizes),
        )


def stream_changes(model: str) -> Iterator[tuple[str, Iterable[Question]]]:
    """Likewise for the controls of the streams."""
    base = {"model": model, "gpu": "rtx3090"}
    yield "streams that must fit", ({**base, "require": count} for count in itertools.count(2))
    yield "frames a second", ({**base, "video": f"1080p{fps}"} for fps in itertools.count(5))
    yield (
        "codec and picture",
        ({**base, "video": v, "codec": c} for v in ("4k20", "720p20", "1440p20") for c in ("h264", "hevc", "av1")),
    )
    yield "memory kept free", ({**base, "margin": f"{share}%"} for share in itertools.count(1))
    yield "another card", ({**base, "gpu": card} for card in CARDS)
    yield "another precision", ({**base, "precision": name} for name in ("fp32", "bf16", "int8", "as-is", "fp8", "int4"))
    yield "frames at once", ({**base, "batch": batch} for batch in itertools.count(33))


def show(what: str, times: list[float]) -> None:
    """One line: median and slowest."""
    print(f"  {what:<40} {median(times):>8.1f} {max(times):>8.1f}", flush=True)


def measure(connection: http.client.HTTPConnection, model: str, repeat: int) -> None:
    """All kinds of change of one model."""
    runtimes = ["tensorrt", "onnxruntime"] + (["torch"] if importlib.util.find_spec("torch") else [])
    first = {"model": model, "precision": "fp16", "batch": 1, "gpu": "rtx3090"}
    for runtime in runtimes:
        print(f"{model}, {runtime}{'median  slowest':>{53 - len(model) - len(runtime)}}  ms")
        show("the first question", [ask(connection, "estimate", {**first, "runtime": runtime})])
        for what, questions in changes(model, runtime):
            asked = list(itertools.islice(questions, repeat))
            for question in asked if "ahead" in what else ():
                ask(connection, "ahead/estimate", question)
            show(what, [ask(connection, "estimate", question) for question in asked])
        advised = ({**first, "runtime": runtime, "batch": batch, "advice": "yes"} for batch in range(2, 5))
        show("advice (afterwards)", [ask(connection, "estimate", question) for question in advised])
    print(f"{model}, streams")
    show("the first question", [ask(connection, "streams", {"model": model, "gpu": "rtx3090"})])
    for what, questions in stream_changes(model):
        show(what, [ask(connection, "streams", question) for question in itertools.islice(questions, repeat)])
    show(
        "advice (afterwards)",
        [ask(connection, "streams", {"model": model, "gpu": card, "advice": "yes"}) for card in CARDS[:3]],
    )


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--model", action="append")
    given = parser.parse_args()
    with board() as connection:
        for model in given.model or ["yolov8s", "yolov8x", "vit_b_16"]:
            measure(connection, model, given.repeat)


if __name__ == "__main__":
    main()
