"""What `measure` and `verify` share: from flags to a cell and a guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vramplan.cli import arguments
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from vramplan.measuring import Cell, Guard

MAX_SECONDS = 86_400.0


def read_cell(
    command: str,
    model: str | None,
    *,
    batch: str | None,
    precision: str,
    runtime: str | None,
    runtime_option: Sequence[str] | None,
    memory_format: str | None,
    shape: Sequence[str] | None,
    dim: Sequence[str] | None,
    allow_pickle: bool,
) -> Cell:
    """The one cell that is run. `UsageError` for lists: each run is a process of its own."""
    if not model:
        raise UsageError("no model is named", hint=f"Try `vramplan {command} yolov8s`, or name file.py:factory.")
    batches = arguments.read_batches((batch,) if batch is not None else ())
    precisions = arguments.read_precisions((precision,))
    if len(batches) > 1 or len(precisions) > 1:
        raise UsageError(
            f"{command} runs one batch at one precision",
            hint=f"Run the command once for each: -b {batches[0]} --precision {precisions[0]}",
        )
    from vramplan.measuring import Cell  # noqa: PLC0415
    from vramplan.options import MEMORY_FORMATS  # noqa: PLC0415  keeps start-up fast

    if memory_format is not None and memory_format not in MEMORY_FORMATS:
        raise UsageError(f"unknown memory format {memory_format[:40]!r}", hint=f"Known: {', '.join(MEMORY_FORMATS)}.")
    return Cell.of(
        model,
        runtime=runtime,
        options=arguments.read_options(runtime_option or ()),
        batch=batches[0],
        precision=precisions[0],
        memory_format=memory_format or "contiguous",
        shapes=arguments.read_shapes("--shape", shape or ()),
        dims=arguments.read_dims(dim or ()),
        allow_pickle=allow_pickle,
    )


def read_guard(*, memory_limit: str | None, timeout: float, wait: float, force: bool) -> Guard:
    """How careful to be. `UsageError` for a time that is none."""
    for flag, seconds in (("--timeout", timeout), ("--wait", wait)):
        if not 0 <= seconds <= MAX_SECONDS or (flag == "--timeout" and seconds == 0):
            raise UsageError(
                f"{flag}: {seconds:g} is no number of seconds up to {MAX_SECONDS:g}", hint=f"Write it like {flag} 300"
            )
    from vramplan.measuring import Guard  # noqa: PLC0415  keeps start-up fast

    return Guard(force=force, limit_bytes=arguments.read_size("--memory-limit", memory_limit), timeout_s=timeout, wait_s=wait)
