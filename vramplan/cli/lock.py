"""``vramplan lock``: write the budgets that a repository agrees on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vramplan.cli import arguments, flags
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from vramplan.lockfile import Lock, Wanted
    from vramplan.site import Site


def lock_command(
    model: flags.LockModels = None,
    *,
    batch: flags.Batches = None,
    precision: flags.LockPrecisions = None,
    runtime: flags.Runtimes = None,
    gpu: flags.CardName = None,
    budget: flags.Budget = None,
    tolerance: flags.LockTolerance = None,
    shape: flags.Shapes = None,
    dim: flags.Dims = None,
    memory_format: flags.MemoryFormat = None,
    allow_pickle: flags.AllowPickle = False,
    output: flags.LockTarget = "vramplan.lock.json",
    force: flags.ForceLock = False,
) -> int:
    """Estimate each MODEL and write its budget to a lock file, which `vramplan check` holds later estimates against.

    A lock file that exists is updated: the named models are replaced, the others stay. A model named without flags keeps
    the cells it is locked with. Exit code 1 when a budget does not fit its --budget or --gpu; it is locked all the same.
    """
    from vramplan.files import check_target, write_atomically  # noqa: PLC0415  keeps start-up fast
    from vramplan.lockfile import lock_text  # noqa: PLC0415
    from vramplan.locking import lock_model, merged, over_limit  # noqa: PLC0415
    from vramplan.report.lock_text import lock_summary  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.site import find_site  # noqa: PLC0415

    said = _said(
        batch=batch,
        precision=precision,
        runtime=tuple(arguments.read_runtimes(runtime, (model or [""])[0])) if runtime else None,
        gpu=gpu,
        budget=budget,
        tolerance=tolerance,
        shape=shape,
        dim=dim,
        memory_format=memory_format,
    )
    path = Path(output)
    check_target(path, force=True)
    old = _old(path, force=force)
    site = find_site(Path())
    wanted = _wanted(model or (), said, old, site)
    with progress_bar():
        fresh = [lock_model(each, allow_pickle=allow_pickle) for each in wanted]
    keeps_others = bool(model) or site is None
    write_atomically(path, lock_text(merged(old if keeps_others else None, fresh)), force=True)
    target = Output(format=Format.TABLE, path=None, force=False)
    over = list(over_limit(fresh))
    target.emit(lock_summary(fresh, old, over, width=target.width, colour=target.colour))
    typer.echo(f"wrote {path}", err=True)
    return 1 if over else 0


def _said(
    *,
    batch: Sequence[str] | None,
    precision: Sequence[str] | None,
    runtime: Sequence[str | None] | None,
    gpu: str | None,
    budget: str | None,
    tolerance: str | None,
    shape: Sequence[str] | None,
    dim: Sequence[str] | None,
    memory_format: str | None,
) -> dict[str, Any]:
    """What the flags say about a model, as fields of a `SiteModel`; only those that are given."""
    from vramplan.units import parse_share  # noqa: PLC0415  keeps start-up fast

    said = {
        "batches": tuple(arguments.read_batches(batch)) if batch else None,
        "precisions": tuple(arguments.read_precisions(precision)) if precision else None,
        "runtimes": runtime,
        "gpu": gpu,
        "budget_bytes": arguments.read_size("--budget", budget),
        "tolerance_ratio": None if tolerance is None else parse_share(tolerance, what="--tolerance"),
        "shapes": arguments.read_shapes("--shape", shape) if shape else None,
        "dims": arguments.read_dims(dim) if dim else None,
        "memory_format": memory_format,
    }
    return {name: value for name, value in said.items() if value is not None}


def _old(path: Path, *, force: bool) -> Lock | None:
    """The lock file that is updated; None where there is none. With --force one that cannot be read is none."""
    from vramplan.errors import ModelError  # noqa: PLC0415
    from vramplan.lock_reading import read_lock  # noqa: PLC0415  keeps start-up fast

    if not path.exists():
        return None
    try:
        return read_lock(path)
    except ModelError as error:
        if force:
            return None
        raise UsageError(error.message, hint="Name another file with -o, or add --force to replace it.") from None


def _wanted(models: Sequence[str], said: Mapping[str, Any], old: Lock | None, site: Site | None) -> list[Wanted]:
    """What is locked: the named models, else those of the site, else those of the lock file."""
    from vramplan.locking import refuse_unnamed_code, want_all  # noqa: PLC0415  keeps start-up fast

    if models:
        arguments.check_repeats("MODEL", list(models))
        return [each for name in models for each in _wanted_of(name, said, old, site)]
    if said:
        raise UsageError("flags need a MODEL", hint="Without one, vramplan.toml or the lock file says what is locked.")
    if site is not None:
        return list(want_all(site))
    if old is None or not old.models:
        raise UsageError("no model is named", hint="Try `vramplan lock yolov8s -b 8`, or write a vramplan.toml.")
    for entry in old.models:
        refuse_unnamed_code(entry.wanted)
    return [entry.wanted for entry in old.models]


def _wanted_of(name: str, said: Mapping[str, Any], old: Lock | None, site: Site | None) -> list[Wanted]:
    """One named model: as the flags say, else as the site or the lock file has it, else one cell."""
    from dataclasses import replace  # noqa: PLC0415

    from vramplan.locking import plain, want, want_all  # noqa: PLC0415  keeps start-up fast

    if said:
        return [want(replace(plain(name), **{"gpu": site.gpu if site else None, **said}))]
    known = [each for each in (want_all(site) if site and site.models else ()) if each.model == name]
    known = known or [entry.wanted for entry in (old.models if old else ()) if entry.wanted.model == name]
    return known or [want(replace(plain(name), gpu=site.gpu if site else None))]
