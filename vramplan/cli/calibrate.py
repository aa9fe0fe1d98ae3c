"""``vramplan calibrate``: measure once what only this machine knows, and keep it for later estimates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vramplan.cli import flags, measured
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vramplan.gpus.calibration import Calibration
    from vramplan.measuring import Guard, Machine

_HOW = "`vramplan calibrate` measures this machine's GPU, --import FILE takes what another machine measured."


def calibrate_command(
    *,
    gpu_index: flags.GpuIndex = None,
    timeout: flags.Timeout = 600.0,
    wait: flags.Wait = 0.0,
    show: flags.ShowCalibrations = False,
    export: flags.ExportCalibration = None,
    import_: flags.ImportCalibration = None,
    gpu: flags.StoredCard = None,
    force: flags.ForceCalibration = False,
    json: flags.Json = False,
) -> int:
    """Measure what only this machine knows of its GPU: contexts, speeds, decode rates. Later estimates use it.

    It takes two or three minutes, and is kept by card, driver and PyTorch's version. Nothing is kept when it fails.
    """
    chosen = [flag for flag, is_on in (("--show", show), ("--export", export), ("--import", import_)) if is_on]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} exclude each other", hint="Run the command once for each.")
    if gpu is not None and not (show or export):
        raise UsageError("--gpu goes with --show and --export", hint="To choose the GPU that is measured: --gpu-index 0")
    target = Output.of(json=json, csv=False, markdown=False, path=None, force=force)
    guard = measured.read_guard(memory_limit=None, timeout=timeout, wait=wait, force=force)
    if import_ is not None:
        return _import(target, Path(import_), force=force)
    if show:
        return _emit(target, _stored(gpu))
    if export is not None:
        return _export(target, Path(export), gpu, force=force)
    return _measure(target, guard, gpu_index)


def _measure(target: Output, guard: Guard, gpu_index: int | None) -> int:
    from vramplan.device.calibrate import calibrate  # noqa: PLC0415  keeps start-up fast
    from vramplan.device.lock import gpu_lock  # noqa: PLC0415
    from vramplan.folders import cache_folder  # noqa: PLC0415
    from vramplan.gpus.calibration_store import store_calibration  # noqa: PLC0415
    from vramplan.measuring import open_machine  # noqa: PLC0415
    from vramplan.report.calibration_terminal import calibrations_text, measured_json  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415
    from vramplan.sources.torch_spec import require_torch  # noqa: PLC0415

    machine = open_machine(gpu_index=gpu_index)
    require_torch()
    if sys.stderr.isatty():
        typer.echo("measuring, which takes two or three minutes …", err=True)
    which = "" if gpu_index is None else f" --gpu-index {gpu_index}"
    with progress_bar(), gpu_lock(cache_folder() / "locks", machine.device.uuid, wait_s=guard.wait_s):
        found = calibrate(
            machine.probe,
            machine.device,
            timeout_s=guard.timeout_s,
            force=guard.force,
            command_line=f"vramplan calibrate{which}",
        )
        learned = _learn(machine, guard)
    path = store_calibration(found.calibration, force=True)
    if target.format is Format.JSON:
        target.emit(measured_json(path, found.calibration, found.others))
        return 0
    stored = [(path, found.calibration)]
    target.emit(calibrations_text(stored, others=found.others, width=target.width, colour=target.colour))
    typer.echo(learned, err=True)
    return 0


def _learn(machine: Machine, guard: Guard) -> str:
    """Keep the workspace of the zoo's convolutions, and say how many; without it the rest is still worth keeping."""
    from vramplan.errors import VramplanError  # noqa: PLC0415
    from vramplan.learning import learn_zoo  # noqa: PLC0415  keeps start-up fast

    try:
        count = learn_zoo(machine, timeout_s=guard.timeout_s)
    except VramplanError as error:
        return f"the workspace of convolutions was not measured: {error.message}"
    return f"learned the workspace of {count:,} convolutions for later estimates on this card"


def _import(target: Output, path: Path, *, force: bool) -> int:
    from vramplan.gpus.calibration_store import import_calibration  # noqa: PLC0415  keeps start-up fast

    return _emit(target, [import_calibration(path, force=force)])


def _export(target: Output, path: Path, gpu: str | None, *, force: bool) -> int:
    from vramplan.files import write_atomically  # noqa: PLC0415  keeps start-up fast
    from vramplan.gpus.calibration import calibration_text  # noqa: PLC0415

    source, newest = _stored(gpu)[0]
    write_atomically(path, calibration_text(newest), force=force, what="--export")
    typer.echo(f"wrote {path}", err=True)
    return _emit(target, [(source, newest)])


def _stored(gpu: str | None) -> Sequence[tuple[Path, Calibration]]:
    """What is stored, of one card when it is named. `UsageError` when there is nothing."""
    from vramplan.gpus.calibration_store import all_calibrations, user_folder  # noqa: PLC0415  keeps start-up fast

    stored = all_calibrations()
    if gpu is not None:
        keys = {each.gpu.key for _, each in stored}
        key = gpu if gpu in keys else _card_key(gpu)
        stored = tuple((path, each) for path, each in stored if each.gpu.key == key)
    if not stored:
        of_card = "" if gpu is None else f" of {gpu[:40]!r}"
        raise UsageError(f"no calibration{of_card} is stored in {str(user_folder())[:200]!r}", hint=_HOW)
    return stored


def _card_key(gpu: str) -> str:
    from vramplan.device.this_gpu import find_card  # noqa: PLC0415  keeps start-up fast

    return find_card(gpu).key


def _emit(target: Output, stored: Sequence[tuple[Path, Calibration]]) -> int:
    from vramplan.report.calibration_terminal import calibrations_json, calibrations_text  # noqa: PLC0415

    if target.format is Format.JSON:
        target.emit(calibrations_json(stored))
    else:
        target.emit(calibrations_text(stored, width=target.width, colour=target.colour))
    return 0
