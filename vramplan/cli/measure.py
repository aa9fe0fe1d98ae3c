"""``vramplan measure``: run the model on this machine's GPU and report what it took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.cli import flags, measured
from vramplan.cli.output import Format, Output
from vramplan.errors import UsageError

if TYPE_CHECKING:
    from vramplan.device.measurement import Measurement
    from vramplan.max_batch import MaxBatch


def measure_command(
    model: flags.Model = None,
    *,
    batch: flags.OneBatch = None,
    precision: flags.OnePrecision = "as-is",
    runtime: flags.OneRuntime = None,
    runtime_option: flags.RuntimeOptions = None,
    memory_format: flags.MemoryFormat = None,
    shape: flags.Shapes = None,
    dim: flags.Dims = None,
    allow_pickle: flags.AllowPickle = False,
    gpu_index: flags.GpuIndex = None,
    memory_limit: flags.MemoryLimit = None,
    timeout: flags.Timeout = 600.0,
    wait: flags.Wait = 0.0,
    record: flags.RecordFile = None,
    find_max_batch: flags.FindMaxBatch = False,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    force: flags.ForceRun = False,
) -> int:
    """Run MODEL on this machine's GPU, in a process of its own, and report what it took. This runs the model's code.

    Refused when the estimate does not fit into free memory, unless --force. Exit code 1 when it ran out of memory.
    """
    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    if find_max_batch and (record is not None or batch is not None):
        raise UsageError("--find-max-batch chooses the batches itself", hint="Leave -b and --record out.")
    path = _recording_path(record, force=force)
    cell = measured.read_cell(
        "measure",
        model,
        batch=batch,
        precision=precision,
        runtime=runtime,
        runtime_option=runtime_option,
        memory_format=memory_format,
        shape=shape,
        dim=dim,
        allow_pickle=allow_pickle,
    )
    guard = measured.read_guard(memory_limit=memory_limit, timeout=timeout, wait=wait, force=force)

    from vramplan.measuring import measure_cell, open_machine, record_cell  # noqa: PLC0415
    from vramplan.report.progress_bar import progress_bar  # noqa: PLC0415

    machine = open_machine(gpu_index=gpu_index)
    if path is not None and cell.runtime != "torch":
        raise UsageError("only PyTorch can be recorded", hint="Leave --record out.")
    if find_max_batch:
        from vramplan.max_batch import find_max_batch as search  # noqa: PLC0415

        with progress_bar():
            largest = search(cell, machine, guard)
        return _emit_max_batch(target, largest)
    with progress_bar():
        expected = cell.estimate(machine.gpu)
        if path is None:
            found = measure_cell(cell, machine, guard, expected=expected)
        else:
            found, _ = record_cell(cell, machine, guard, path, expected=expected, force=force)
    return _emit(target, found)


def _recording_path(record: str | None, *, force: bool) -> Path | None:
    if record is None:
        return None
    from vramplan.files import check_target  # noqa: PLC0415  keeps start-up fast

    path = Path(record)
    if not path.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--record {record[:80]!r} is neither .json nor .json.gz", hint="Write it like --record run.json.gz")
    check_target(path, force=force, what="--record")
    return path


def _emit(target: Output, found: Measurement) -> int:
    from vramplan.device.measurement import Outcome  # noqa: PLC0415  keeps start-up fast
    from vramplan.report import measured_export, measured_text  # noqa: PLC0415

    writers = {
        Format.JSON: measured_export.measurement_json,
        Format.CSV: measured_export.measurement_csv,
        Format.MARKDOWN: measured_text.measurement_markdown,
        Format.TABLE: lambda it: measured_text.measurement_text(it, width=target.width, colour=target.colour),
    }
    target.report(found, writers, measured_text.measurement_lines)
    return 1 if found.outcome is Outcome.OUT_OF_MEMORY else 0


def _emit_max_batch(target: Output, found: MaxBatch) -> int:
    from vramplan.report import measured_export, measured_text  # noqa: PLC0415  keeps start-up fast

    writers = {
        Format.JSON: measured_export.max_batch_json,
        Format.CSV: measured_export.max_batch_csv,
        Format.MARKDOWN: measured_text.max_batch_markdown,
        Format.TABLE: lambda it: measured_text.max_batch_text(it, width=target.width, colour=target.colour),
    }
    target.report(found, writers, measured_text.max_batch_lines)
    return 0 if found.largest_batch else 1
