"""``vramplan diff``: two budgets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from vramplan.comparing import Diff
    from vramplan.site import SiteModel

_HINT = "Try `vramplan diff yolov8s yolov8m`, or `vramplan diff yolov8s --precision fp32,fp16`."


def diff_command(
    sides: flags.DiffSides = None,
    *,
    batch: flags.Batches = None,
    precision: flags.LockPrecisions = None,
    runtime: flags.Runtimes = None,
    gpu: flags.CardName = None,
    shape: flags.Shapes = None,
    dim: flags.Dims = None,
    memory_format: flags.MemoryFormat = None,
    allow_pickle: flags.AllowPickle = False,
    top: flags.DiffTop = None,
    json: flags.Json = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    force: flags.Force = False,
) -> int:
    """What makes one budget larger than another, the largest change first.

    Two models, two lock files, or one model at two batches, precisions or runtimes. Flags hold for both models.
    """
    target = Output.of(json=json, csv=False, markdown=markdown, path=output, force=force)
    if target.format is Format.CSV:
        raise UsageError("a difference has several tables: no CSV", hint="Name a .json, .md or .txt file.")
    if top is not None and top < 1:
        raise UsageError(f"--top: {top} is not a whole number from 1", hint="Write it like --top 10")
    names = sides or []
    if not 1 <= len(names) <= 2:
        raise UsageError("name one model or two, or two lock files", hint=_HINT)
    locks = [name for name in names if name.lower().endswith(".json")]
    if locks:
        given = (batch, precision, runtime, gpu, shape, dim, memory_format)
        _emit(target, _diff_locks(names, locks, has_flags=any(given)), top)
        return 0
    base = _base(names[0], gpu, shape, dim, memory_format)
    cells = [
        replace(base, batches=(size,), precisions=(policy,), runtimes=(chosen,))
        for chosen, policy, size in product(
            arguments.read_runtimes(runtime or (), names[0]) or (None,),
            arguments.read_precisions(precision or ()) or ["as-is"],
            arguments.read_batches(batch or ()),
        )
    ]
    _emit(target, _diff_cells(names, cells, allow_pickle=allow_pickle), top)
    return 0


def _diff_locks(names: Sequence[str], locks: Sequence[str], *, has_flags: bool) -> Diff:
    from vramplan.lock_reading import read_lock  # noqa: PLC0415  keeps start-up fast
    from vramplan.locking import diff_locks  # noqa: PLC0415

    if len(names) < 2 or len(locks) < 2:
        raise UsageError("a lock file is compared with another one", hint="vramplan diff old.lock.json new.lock.json")
    if has_flags:
        raise UsageError("flags do not hold for lock files, which say what they have", hint="Leave them out.")
    return diff_locks(read_lock(Path(names[0])), read_lock(Path(names[1])))


def _base(name: str, gpu: str | None, shape: list[str] | None, dim: list[str] | None, memory_format: str | None) -> SiteModel:
    from vramplan.locking import plain  # noqa: PLC0415  keeps start-up fast

    return replace(
        plain(name),
        gpu=gpu,
        shapes=arguments.read_shapes("--shape", shape or ()),
        dims=arguments.read_dims(dim or ()),
        memory_format=memory_format,
    )


def _diff_cells(names: Sequence[str], cells: Sequence[SiteModel], *, allow_pickle: bool) -> Diff:
    """Two models at the one cell of the flags, or one model at the two."""
    from vramplan.comparing import Diff  # noqa: PLC0415  keeps start-up fast
    from vramplan.locking import diff_wanted, want  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415

    if len(names) * len(cells) != 2:
        what = f"{len(names)} model{'s' if len(names) > 1 else ''} at {len(cells)} settings"
        raise UsageError(f"two budgets are compared, and this is {what}", hint=_HINT)
    before, after = (replace(cell, model=name) for name in names for cell in cells)
    with progress_bar():
        return Diff(pairs=(diff_wanted(want(before), want(after), allow_pickle=allow_pickle),))


def _emit(target: Output, diff: Diff, top: int | None) -> None:
    from vramplan.report import diff_text  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: diff_text.diff_json,
        Format.MARKDOWN: lambda it: diff_text.diff_markdown(it, top=top),
        Format.TABLE: lambda it: diff_text.diff_text(it, top=top, width=target.width, colour=target.colour),
    }
    target.report(diff, writers, diff_text.diff_lines)
