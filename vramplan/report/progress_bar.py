"""What is being worked on, on a terminal: one line that comes after a second and goes when the work is done."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vramplan.progress import Step, listening
from vramplan.report.words import shorten

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_S = 1.0
"""What is done sooner needs no bar."""

WHAT_WIDTH, DETAIL_WIDTH = 44, 28


@contextmanager
def progress_bar() -> Iterator[None]:
    """A bar on standard error for the work inside, where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    bar = _Bar()
    try:
        with listening(bar.take):
            yield
    finally:
        bar.close()


class _Bar:
    """Waits for its time, shows the newest step, and leaves no trace. Steps and the timer come from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._shown: tuple[Progress, TaskID] | None = None
        self._is_closed = False
        self._timer = threading.Timer(PATIENCE_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def take(self, step: Step) -> None:
        """The newest step."""
        with self._lock:
            self._step = step
            self._update()

    def close(self) -> None:
        """Wipe the line."""
        self._timer.cancel()
        with self._lock:
            self._is_closed = True
            if self._shown is not None:
                self._shown[0].stop()

    def _show(self) -> None:
        from rich.console import Console  # noqa: PLC0415  only long work needs it
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        with self._lock:
            if self._is_closed:
                return
            progress = Progress(
                SpinnerColumn("line"),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[count]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", markup=False, style="dim"),
                console=Console(stderr=True),
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._shown = progress, progress.add_task("working", total=None, count="", detail="")
            self._update()
            progress.start()

    def _update(self) -> None:
        if self._shown is None or self._step is None:
            return
        (progress, task), step = self._shown, self._step
        count = "" if step.total is None else f"{step.done} of {step.total}"
        progress.update(
            task,
            description=shorten(step.what, WHAT_WIDTH),
            total=step.total,
            completed=step.done or 0,
            count=count,
            detail=shorten(step.detail, DETAIL_WIDTH),
        )
