"""The process that answers: reads questions from its standard input, writes answers to its standard output, until that ends.

A message is its length in four bytes, and so many bytes. An answer begins with its HTTP status in three digits.
"""

from __future__ import annotations

import gc
import json
import os
import select
import struct
import sys
import traceback
from typing import IO, Any

from vramplan.errors import InternalError, MachineError, ModelError, UsageError, VramplanError
from vramplan.serve.questions import read_key
from vramplan.serve.solver import Solver
from vramplan.units import GIB

LENGTH = struct.Struct(">I")
OK, TOO_LARGE, OUR_BUG = 200, 422, 500
MOST_MEMORY_BYTES = 8 * GIB
REST_S = 0.05
_STATUS: tuple[tuple[type[VramplanError], int], ...] = (
    (UsageError, 400), (ModelError, 422), (MachineError, 501), (InternalError, OUR_BUG),
)  # fmt: skip


def main() -> None:
    """Answer until nobody asks any more. What libraries print goes to standard error."""
    limit_memory()
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    solver = Solver()
    solver.warm_up()
    gc.disable()
    tidy_up()
    while (message := read_message(asked)) is not None:
        status, body = answer(solver, message.decode())
        write_message(answers, b"%03d" % status + body)
        if not is_asked_within(REST_S):
            tidy_up()


def tidy_up() -> None:
    """Collect garbage, and set what lives apart: a collection in the middle of an answer would double what that takes."""
    gc.collect(1)
    gc.freeze()


def is_asked_within(seconds: float) -> bool:
    """Whether the next question comes so soon. Only asked between an answer and the next question."""
    if os.name != "posix":  # elsewhere nothing can wait for a pipe
        return False
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable)


def limit_memory() -> None:
    """No model makes this process take all of the machine's memory: beyond the limit it is an error."""
    try:
        import resource  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MOST_MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MOST_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def answer(solver: Solver, key: str) -> tuple[int, bytes]:
    """The HTTP status and the JSON for the question behind *key*; errors are answers too."""
    try:
        return OK, to_bytes(solver.answer(read_key(key)))
    except VramplanError as error:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), OUR_BUG)
        return status, error_bytes(error.message, error.hint)
    except MemoryError:
        return TOO_LARGE, error_bytes("the model needs more memory than the board gives an estimate", "Use vramplan estimate.")
    except Exception as error:  # our bug: the browser hears of it, and the terminal says where
        _tell(error)
        return OUR_BUG, error_bytes(f"internal error: {type(error).__name__}", "Please report it, with the question.")


def _tell(error: Exception) -> None:
    if os.environ.get("VRAMPLAN_TRACEBACK"):
        traceback.print_exception(error)
    else:
        sys.stderr.write(f"vramplan serve: internal error: {type(error).__name__}: {str(error)[:500]!r}\n")


def to_bytes(content: Any) -> bytes:
    """JSON in ASCII, without spaces."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def error_bytes(message: str, hint: str = "") -> bytes:
    """How every error looks: ``{"error": {"message", "hint"}}``."""
    return to_bytes({"error": {"message": message[:2000], "hint": hint[:1000]}})


def read_message(source: IO[bytes]) -> bytes | None:
    """The next message; None at the end, or when it is cut off."""
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = source.read(size)
    return body if len(body) == size else None


def write_message(target: IO[bytes], body: bytes) -> None:
    """Write *body* behind its length."""
    target.write(LENGTH.pack(len(body)) + body)
    target.flush()


if __name__ == "__main__":
    main()
