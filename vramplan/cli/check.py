"""``vramplan check``: whether the locked budgets still hold."""

from __future__ import annotations

from pathlib import Path

from vramplan.cli import flags
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError


def check_command(
    model: flags.LockModels = None,
    *,
    lock: flags.LockedFile = "vramplan.lock.json",
    allow_pickle: flags.AllowPickle = False,
    github: flags.GitHub = False,
    json: flags.Json = False,
) -> int:
    """Estimate every budget of the lock file again. Exit code 1 when one grew beyond its tolerance, does not fit its budget
    or card, or is in vramplan.toml and not locked; 3 when a model cannot be read any more.

    A model that PyTorch opens has to be named here or in vramplan.toml: a lock file alone makes no code run.
    """
    if github and json:
        raise UsageError("--github and --json exclude each other", hint="Run the command once for each.")
    target = Output.of(json=json, csv=False, markdown=False, path=None, force=False)

    from vramplan.lock_reading import read_lock  # noqa: PLC0415  keeps start-up fast
    from vramplan.locking import check, want_all  # noqa: PLC0415
    from vramplan.report import lock_text  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.site import find_site  # noqa: PLC0415

    locked = read_lock(Path(lock))
    site = find_site(Path())
    wanted = want_all(site) if site and site.models else None
    with progress_bar():
        checked = check(locked, path=lock, wanted=wanted, named=model or (), allow_pickle=allow_pickle)
    if github:
        target.emit(lock_text.check_github(checked))
    elif target.format is Format.JSON:
        target.emit(lock_text.check_json(checked))
    else:
        target.emit(lock_text.check_text(checked, width=target.width, colour=target.colour))
    return checked.exit_code
