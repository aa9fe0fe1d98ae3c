"""The child process that holds cuDNN, seen from the parent: started once, asked in batches, allowed to die.

Every failure (no start, a crash, silence, an answer that is no answer) ends in `None` for the calls concerned, never in an
exception: the estimate then uses the closed form.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_CHILD = Path(__file__).with_name("cudnn_child.py")
_BATCH_COUNT = 32
"""Requests written before their answers are read: few enough to fit into a pipe."""

Reply = dict[str, Any]


class CudnnProcess:
    """A child that answers requests in their order.

    *command* starts it. ``start_s`` is what it may take to load the libraries, ``answer_s`` what one answer may take; after
    ``most_deaths`` deaths it is left alone. Threads take turns.
    """

    def __init__(self, command: Sequence[str], *, start_s: float = 60, answer_s: float = 20, most_deaths: int = 4) -> None:
        self._command, self._start_s, self._answer_s = list(command), start_s, answer_s
        self._lives = most_deaths
        self._turn = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.version: int | None = None
        """cuDNN's, once `start` succeeded."""

    def start(self) -> bool:
        """Whether it runs; starts it if it does not."""
        with self._turn:
            return self._start()

    def _start(self) -> bool:
        if self._process is not None:
            return True
        if self._lives <= 0:
            return False
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                env={
                    **os.environ,
                    "CUDA_VISIBLE_DEVICES": "",
                },  # the same answers with a GPU as without, and none of its memory
            )
        except OSError:
            self._lives = 0
            return False
        atexit.register(self.stop)
        self._replies = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._replies), daemon=True).start()
        version = (self._read(self._start_s) or {}).get("version")
        if not isinstance(version, int) or self.version not in (None, version):
            self.stop()
            self._lives = 0
            return False
        self.version = version
        return True

    def ask(self, requests: Sequence[Reply]) -> list[Reply | None]:
        """One reply to each request, in order; None for one that killed or silenced the child, and for all when it is gone."""
        with self._turn:
            replies: list[Reply | None] = []
            while len(replies) < len(requests):
                self._start()
                if self._process is None:
                    return replies + [None] * (len(requests) - len(replies))
                batch = requests[len(replies) : len(replies) + _BATCH_COUNT]
                replies += self._ask_batch(self._process, batch)
            return replies

    def _ask_batch(self, process: subprocess.Popen[str], batch: Sequence[Reply]) -> Iterator[Reply | None]:
        """Replies until the first that fails; that one is None, the child is gone, and the rest is asked again."""
        with contextlib.suppress(OSError):  # a dead child: found out below, when it does not answer
            print("\n".join(json.dumps(one | {"id": index}) for index, one in enumerate(batch)), file=process.stdin, flush=True)
        for index in range(len(batch)):
            reply = self._read(self._answer_s)
            if reply is not None and reply.pop("id", None) != index:  # out of step: nothing after this can be believed
                reply = None
            yield reply
            if reply is None:
                self.stop()
                self._lives -= 1
                return

    def _read(self, limit_s: float) -> Reply | None:
        """The next line as an object; None when there is none in time, or it is something else."""
        try:
            reply = json.loads(self._replies.get(timeout=limit_s))
        except (queue.Empty, ValueError):
            return None
        return reply if isinstance(reply, dict) else None

    def stop(self) -> None:
        """End it, without waiting for what it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _pump(source: IO[str] | None, target: queue.SimpleQueue[str]) -> None:
    """Pass lines on until the end, then an empty one: it is no JSON, so the reader knows at once."""
    with contextlib.suppress(ValueError, OSError):  # the pipe was closed under our hands
        for line in source or ():
            target.put(line)
    target.put("")


@functools.cache
def cudnn_process(libraries: tuple[str, ...]) -> CudnnProcess:
    """The one child for *libraries*, started when it is first asked."""
    return CudnnProcess([sys.executable or "python3", "-E", "-s", str(_CHILD), *libraries])
