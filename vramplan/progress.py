"""Who works tells how far it is; who listens, if anybody does, shows it. Telling costs next to nothing and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done now; of a task with several parts, how many are done of how many.

    ``detail`` is what the part itself tells. A part that tells nothing leaves it empty.

    Invariant: done and total are both known or both None.
    """

    what: str
    done: int | None = None
    total: int | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if (self.done is None) != (self.total is None):
            raise ValueError(f"{self.what}: done {self.done} of {self.total}")


Listener = Callable[[Step], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_now: ContextVar[Step | None] = ContextVar("now", default=None)


def tell(what: str, done: int | None = None, total: int | None = None) -> None:
    """A part begins; *done* of *total* are finished where they are counted."""
    if (listener := _listener.get()) is not None:
        step = Step(what=what, done=done, total=total)
        _now.set(step)
        listener(step)


def tell_detail(detail: str) -> None:
    """How far the part is that was told last."""
    listener, now = _listener.get(), _now.get()
    if listener is not None:
        listener(Step(what=now.what, done=now.done, total=now.total, detail=detail) if now else Step(what=detail))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """*listener* hears of all that is told inside, in this thread."""
    token, before = _listener.set(listener), _now.set(None)
    try:
        yield
    finally:
        _listener.reset(token)
        _now.reset(before)
