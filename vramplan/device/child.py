"""A child process that runs a model, seen from the parent: it reports in lines, waits at barriers, and may die in any way.

The child gets its request as one line of JSON on standard input and answers with one object a line on standard output. After a
line with ``"wait": true`` it stands still until the parent has written a line back: the parent reads the driver's counters
meanwhile. Whatever else the model prints goes to standard error, of which the end is kept.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vramplan.errors import MachineError, MeasurementError, ModelError, UsageError, VramplanError

Message = dict[str, Any]

_LINE_LIMIT = 1 << 20
"""Characters of one message: reports are short, and a child that writes without an end must not fill memory."""

_TAIL_LINES = 20
_LINE_TAIL = 400

_KINDS: dict[str, type[VramplanError]] = {
    "usage": UsageError, "model": ModelError, "machine": MachineError, "measurement": MeasurementError,
}  # fmt: skip

_PASSED = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "PYTHONPATH", "VIRTUAL_ENV")
_PASSED_STARTS = (
    *("LC_", "LD_", "XDG_", "CUDA_", "CUBLAS", "CUDNN_", "NVIDIA_", "PYTORCH_", "TORCH", "ORT_", "OMP_", "MKL_"),
    *("HF_", "VRAMPLAN_"),
)


class OutOfMemoryResult(Exception):  # noqa: N818  a result, not a fault: the model does not fit
    """The child ran out of GPU memory. ``message`` is what the runtime said."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def child_environment(environment: Mapping[str, str], **more: str) -> dict[str, str]:
    """The part of *environment* that a model may need to run: paths, locale, and settings of CUDA and the runtimes.

    An empty entry of PYTHONPATH, which Python takes for the current folder, is left out: see `module_command`.
    """
    kept = {name: value for name, value in environment.items() if name.upper() in _PASSED or name.startswith(_PASSED_STARTS)}
    if "PYTHONPATH" in kept:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, kept["PYTHONPATH"].split(os.pathsep)))
    return kept | more


class Child:
    """A running child; a context manager that leaves no process behind, however it is left.

    *command* starts it, *request* is its first line. It has *timeout_s* seconds in all, barriers included.
    """

    def __init__(
        self, command: Sequence[str], request: Message, *, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=None if environment is None else dict(environment),
                start_new_session=True,  # Ctrl-C is for the parent, which ends the child
            )
        except OSError as error:
            raise MachineError(f"cannot start {command[0][:200]!r}: {error.strerror}") from None
        self.pid = self._process.pid
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        self._stderr = threading.Thread(target=_keep_tail, args=(self._process.stderr, self._tail), daemon=True)
        self._stderr.start()
        # A request may be longer than the pipe holds, and a child that never reads must not stop us here.
        threading.Thread(target=self._write, args=(json.dumps(request),), daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def messages(self) -> Iterator[Message]:
        """What it reports, until it says that it is done; one that waits goes on when the next message is asked for.

        Raises `OutOfMemoryResult` when it ran out of GPU memory, the error that it reports (`UsageError`, `ModelError`,
        `MachineError`), and `MeasurementError` for a crash, a line that is no message, and silence beyond the timeout.
        """
        while True:
            message = self._next()
            if "error" in message:
                raise _reported(message["error"])
            if message.get("done") is True:
                return
            yield message
            if message.get("wait") is True:
                self._write("go")

    def end(self) -> None:
        """Kill it and whatever it started, and collect it."""
        kill_tree(self._process)
        self._process.wait()
        self._stderr.join(timeout=1)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()

    def _next(self) -> Message:
        try:
            line = self._lines.get(timeout=max(0.0, self._deadline_s - time.monotonic()))
        except queue.Empty:
            raise MeasurementError(
                f"the model did not finish within {self._timeout_s:g} s, and was ended{self._said()}",
                hint="Give it more time: --timeout 1200",
            ) from None
        if line is None:
            raise self._crash()
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise MeasurementError(
                f"the child process wrote {line[:80]!r}, which is no report{self._said()}",
                hint="Something in the model or its libraries writes to file descriptor 1: let it write to 2.",
            )
        return message

    def _crash(self) -> MeasurementError:
        """It closed its output without a word."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return MeasurementError(f"the child process closed its output and stayed{self._said()}")
        if code == -signal.SIGKILL:
            return MeasurementError(
                f"the child process was killed{self._said()}",
                hint="Usually by the system, when the computer's own memory ran out: `dmesg` tells.",
            )
        how = f"ended with exit code {code}" if code >= 0 else f"crashed: {_signal_name(-code)}"
        return MeasurementError(f"the child process {how}{self._said()}", hint="Run the model alone, outside vramplan, first.")

    def _said(self) -> str:
        """The end of its standard error, for a person."""
        self._stderr.join(timeout=1)
        lines = [line for line in self._tail if line.strip()]
        return "; its last words:\n  " + "\n  ".join(lines[-3:]) if lines else ""

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: the next read tells how
            print(line, file=self._process.stdin, flush=True)


def module_command(module: str) -> list[str]:
    """What runs *module* of this package with this Python.

    The current folder is not on its path (``-P``): a ``torch.py`` that lies there must not run because somebody asked
    `vramplan doctor` what is installed. A factory that the user names finds the files beside it all the same.
    """
    return [sys.executable or "python3", "-P", "-m", module]


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """End *process* and whatever it started: it leads a session of its own, and so may a child of it."""
    below = _descendants(process.pid)
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
    for pid in below:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.kill()


def _descendants(pid: int) -> list[int]:
    """The processes below *pid*, where the system lists them as Linux does."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # processes come and go
            parent = int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    found = list(parents.get(pid, ()))
    for each in found:
        found += parents.get(each, ())
    return found


def _pump(source: IO[str] | None, target: queue.SimpleQueue[str | None]) -> None:
    """Pass lines on until the end, then None. A line without an end is cut."""
    with contextlib.suppress(OSError, ValueError):
        while source is not None and (line := source.readline(_LINE_LIMIT)):
            target.put(line)
            if len(line) >= _LINE_LIMIT:
                break  # it is refused as it stands, and nothing after it is read
    target.put(None)


def _keep_tail(source: IO[str] | None, tail: collections.deque[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while source is not None and (line := source.readline(_LINE_LIMIT)):
            tail.append(line.rstrip("\n")[-_LINE_TAIL:])


def _reported(error: Any) -> Exception:
    """The error that the child names, as an exception."""
    if not isinstance(error, dict) or not all(isinstance(error.get(key), str) for key in ("kind", "message")):
        return MeasurementError("the child process failed and did not say how")
    if error["kind"] == "out_of_memory":
        return OutOfMemoryResult(error["message"][:2000])
    kind = _KINDS.get(error["kind"], MeasurementError)
    return kind(error["message"][:4000], hint=str(error.get("hint", ""))[:1000])


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
