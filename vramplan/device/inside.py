"""The child's side of `vramplan.device.child`: read the request, report, stand still at barriers, die with the parent.

It keeps the pipe for itself: what the model prints, in Python or in C, goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

from vramplan.errors import VramplanError

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal to get when the parent dies."""

_KINDS = {2: "usage", 3: "model", 4: "machine", 5: "measurement"}


class Line:
    """The line to the parent."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    def tell(self, **message: Any) -> None:
        """Report, and go on."""
        print(json.dumps(message), file=self._answers, flush=True)

    def pause(self, **message: Any) -> None:
        """Report, and stand still until the parent has looked. Ends the process when there is no parent any more."""
        self.tell(**message, wait=True)
        if not sys.stdin.readline():
            os._exit(1)


def serve(work: Callable[[dict[str, Any], Line], None], *, is_out_of_memory: Callable[[Exception], bool]) -> None:
    """Run *work* on the request and tell how it ended. Never raises: the exit code is 0 when the parent was told."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = Line(answers)
    with contextlib.suppress(BrokenPipeError):
        try:
            work(json.loads(sys.stdin.readline()), line)
            line.tell(done=True)
        except VramplanError as error:
            line.tell(error={"kind": _KINDS.get(error.exit_code, "bug"), "message": error.message, "hint": error.hint})
        except Exception as error:
            kind = "out_of_memory" if is_out_of_memory(error) else "measurement"
            line.tell(error={"kind": kind, "message": f"{type(error).__name__}: {error}"[:2000], "hint": ""})
    answers.close()
    sys.stderr.flush()
    os._exit(0)  # a broken CUDA context can hang in destructors


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent; elsewhere the next barrier finds out."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
