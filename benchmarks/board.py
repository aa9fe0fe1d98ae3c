"""How long the what-if board takes to follow: every kind of change over HTTP, from the question to the last byte of the answer.

    python benchmarks/board.py [--repeat 9] [--model yolov8s]…

A board is started as a process of its own (`vramplan serve --port 0`), and asked as its page asks: one question at a time on
one connection. Each change is to a value that was not asked for before, except where it says otherwise: "again", and "solved
ahead", which is what the page does for the neighbours of a slider while nothing moves. Printed are the quickest of --repeat
changes, the median and the slowest, and the CPU time that the board took for one on average, all in milliseconds: where others
use the machine too, the quickest and the CPU time are nearer to what a change takes alone. We aim at less than 100 for all but
the first question and advice, which comes afterwards. CPU times are read from /proc: Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

CARDS = ("rtx3060", "t4", "a10", "l4", "rtx4090", "a100-sxm-80gb", "h100-sxm", "rtx3080", "a2", "l40s", "rtx2080ti", "rtx4070")
Question = Mapping[str, object]


@dataclass(frozen=True)
class Board:
    """A running board: a connection to it, and its process."""

    connection: http.client.HTTPConnection
    pid: int

    def ask(self, kind: str, question: Question) -> float:
        """Milliseconds until the answer is there; RuntimeError when it is none."""
        begun = time.perf_counter()
        self.connection.request("GET", f"/api/{kind}?{urlencode(question)}")
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status not in {200, 204}:
            raise RuntimeError(f"{kind} {dict(question)}: {answer.status} {body[:300]!r}")
        return 1000 * (time.perf_counter() - begun)

    def show(self, what: str, kind: str, questions: Sequence[Question]) -> None:
        """One line: quickest, median, slowest, and CPU time a question."""
        before = self.cpu_ms()
        times = [self.ask(kind, question) for question in questions]
        spent = (self.cpu_ms() - before) / len(times)
        print(f"  {what:<32} {min(times):>9.1f} {median(times):>8.1f} {max(times):>8.1f} {spent:>8.0f}", flush=True)

    def cpu_ms(self) -> float:
        """CPU time of the board and of the processes that it has started."""
        stats = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # others come and go
                stats.append((int(path.parent.name), path.read_text().rpartition(")")[2].split()))
        ours = [fields for pid, fields in stats if pid == self.pid or int(fields[1]) == self.pid]
        return 1000 * sum(int(fields[11]) + int(fields[12]) for fields in ours) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running() -> Iterator[Board]:
    """A board that runs until the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vramplan", "serve", "--port", "0", "--folder", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[2].rstrip("/").rpartition(":")[2])
            try:
                yield Board(http.client.HTTPConnection("127.0.0.1", port, timeout=120), process.pid)
            finally:
                process.send_signal(signal.SIGINT)


def changes(model: str, runtime: str) -> Iterator[tuple[str, Iterable[Question]]]:
    """Each kind of change of the memory's controls, as questions whose answers nobody has asked for yet."""
    base = {"model": model, "runtime": runtime, "gpu": "rtx3090"}
    half = {**base, "precision": "fp16"}
    precisions = ("fp32", "bf16", "as-is", "int8", "fp8") if runtime == "tensorrt" else ("fp32", "bf16", "as-is")
    seen = range(2, 6)
    yield "a new batch", ({**half, "batch": batch} for batch in itertools.count(2))
    yield "a new batch, solved ahead", ({**half, "batch": batch} for batch in itertools.count(1000))
    yield "the same batch again", ({**half, "batch": 2} for _ in itertools.count())
    yield "another precision of a batch", ({**base, "precision": name, "batch": batch} for name in precisions for batch in seen)
    yield "another card", ({**half, "batch": batch, "gpu": card} for batch in seen for card in CARDS)
    if runtime != "torch" and model.startswith("yolo"):
        yield "another input size", ({**half, "batch": 2, "dim": f"height={32 * count}"} for count in itertools.count(21))


def stream_changes(model: str) -> Iterator[tuple[str, Iterable[Question]]]:
    """Likewise for the controls of the streams."""
    base = {"model": model, "gpu": "rtx3090"}
    videos = ("4k20", "720p20", "1440p20")
    yield "streams that must fit", ({**base, "require": count} for count in itertools.count(2))
    yield "frames a second", ({**base, "video": f"1080p{fps}"} for fps in itertools.count(5))
    yield (
        "codec and picture",
        ({**base, "video": video, "codec": codec} for video in videos for codec in ("h264", "hevc", "av1")),
    )
    yield "memory kept free", ({**base, "margin": f"{share}%"} for share in itertools.count(1))
    yield "another card", ({**base, "gpu": card} for card in CARDS)
    yield "another precision", ({**base, "precision": name} for name in ("fp32", "bf16", "int8", "as-is", "fp8", "int4"))
    yield "frames at once", ({**base, "batch": batch} for batch in itertools.count(33))


def measure(board: Board, model: str, repeat: int) -> None:
    """All kinds of change of one model."""
    runtimes = ["tensorrt", "onnxruntime"] + (["torch"] if importlib.util.find_spec("torch") else [])
    for runtime in runtimes:
        first = {"model": model, "runtime": runtime, "precision": "fp16", "gpu": "rtx3090"}
        print(f"{f'{model}, {runtime}':<34} {'quickest':>9} {'median':>8} {'slowest':>8} {'CPU':>8}  ms")
        board.show("the first question", "estimate", [{**first, "batch": 1}])
        for what, questions in changes(model, runtime):
            asked = list(itertools.islice(questions, repeat))
            for question in asked if "ahead" in what else ():
                board.ask("ahead/estimate", question)
            board.show(what, "estimate", asked)
        board.show("advice, afterwards", "estimate", [{**first, "batch": batch, "advice": "yes"} for batch in (2, 3, 4)])
    print(f"{model}, streams")
    board.show("the first question", "streams", [{"model": model, "gpu": "rtx3090"}])
    for what, questions in stream_changes(model):
        board.show(what, "streams", list(itertools.islice(questions, repeat)))
    board.show("advice, afterwards", "streams", [{"model": model, "gpu": card, "advice": "yes"} for card in CARDS[:3]])


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--model", action="append")
    given = parser.parse_args()
    with running() as board:
        for model in given.model or ["yolov8s", "yolov8x", "vit_b_16"]:
            measure(board, model, given.repeat)


if __name__ == "__main__":
    main()
