"""Where questions wait for the process that answers them: one at a time, not too many, and none for ever.

A question that takes longer than its time ends with its process, so that it uses no CPU any more; the next one gets a fresh
process. The server itself never computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread

from vramplan.device.child import child_environment, kill_tree, module_command
from vramplan.serve.worker import OK, error_bytes, read_message, write_message
from vramplan.units import MIB

Reply = tuple[int, bytes]
"""HTTP status, and JSON."""

BUSY, LATE, GONE, BROKEN = 503, 504, 499, 500

MOST_WAITING = 8
KEPT_BYTES = 64 * MIB


class Process:
    """A process that answers, started when it is first asked, and again after it was ended.

    What it writes for the moment lies in *folder*, because it may be ended before it can remove that.
    """

    def __init__(self, timeout_s: float, folder: Path) -> None:
        self.timeout_s, self._folder = timeout_s, folder
        self._running: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def start(self) -> subprocess.Popen[bytes]:
        """The running process; started now if there is none. It leads a session of its own: Ctrl-C is for the server."""
        if self._running is None or self._running.poll() is not None:
            self._running = subprocess.Popen(
                module_command("vramplan.serve.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(os.environ, TMPDIR=str(self._folder)),
                start_new_session=True,
            )
        return self._running

    def ask(self, key: str) -> Reply:
        """The answer; a late one ends the process."""
        if self._is_closed:
            return BUSY, error_bytes("the board is being closed")
        process, late = self.start(), threading.Event()

        def stop() -> None:
            late.set()
            kill_tree(process)

        timer = threading.Timer(self.timeout_s, stop)
        timer.start()
        message = None
        with contextlib.suppress(OSError, ValueError):
            assert process.stdin is not None  # noqa: S101  both are pipes
            assert process.stdout is not None  # noqa: S101
            write_message(process.stdin, key.encode())
            message = read_message(process.stdout)
        timer.cancel()
        if message is not None:
            return int(message[:3]), message[3:]
        self.end()
        if late.is_set():
            return LATE, error_bytes(f"no answer within {self.timeout_s:g} s: it was stopped", "Choose a smaller model.")
        return BROKEN, error_bytes("the process that estimates has ended", "Ask again; please report it if it ends again.")

    def end(self) -> None:
        """End it, and whatever it started."""
        process, self._running = self._running, None
        if process is not None:
            kill_tree(process)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def close(self) -> None:
        """End it for good."""
        self._is_closed = True
        if self._running is not None:
            kill_tree(self._running)


@dataclass(slots=True)
class Answers:
    """Answers that were given, the newest within so many bytes."""

    most_bytes: int = KEPT_BYTES
    _kept: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _size_bytes: int = 0

    def find(self, key: str) -> bytes | None:
        """The answer to the question behind *key*."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, body: bytes) -> None:
        """Keep *body*; the oldest go."""
        self._size_bytes += len(body) - len(self._kept.pop(key, b""))
        self._kept[key] = body
        while self._size_bytes > self.most_bytes:
            self._size_bytes -= len(self._kept.popitem(last=False)[1])


class Desk:
    """One process, and the questions before it in the order in which they came."""

    def __init__(self, answers: Answers, folder: Path, *, timeout_s: float, most_waiting: int = MOST_WAITING) -> None:
        self.process = Process(timeout_s, folder)
        self._answers, self._most_waiting = answers, most_waiting
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def ask(self, key: str, is_gone: Callable[[], Awaitable[bool]]) -> Reply:
        """The answer, kept or made. Nothing is computed for somebody who has left meanwhile."""
        if (body := self._answers.find(key)) is not None:
            return OK, body
        if self._waiting >= self._most_waiting:
            return BUSY, error_bytes(f"{self._waiting} questions are waiting", "Ask again in a moment.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.process.timeout_s):
                await self._turn.acquire()
            try:
                return await self._answered(key, is_gone)
            finally:
                self._turn.release()
        except TimeoutError:
            return BUSY, error_bytes("others are still waiting for their answers", "Ask again in a moment.")
        finally:
            self._waiting -= 1

    async def _answered(self, key: str, is_gone: Callable[[], Awaitable[bool]]) -> Reply:
        if await is_gone():
            return GONE, error_bytes("nobody waits for the answer")
        if (body := self._answers.find(key)) is not None:
            return OK, body
        reply = await to_thread.run_sync(self.process.ask, key)
        if reply[0] == OK:
            self._answers.keep(key, reply[1])
        return reply
