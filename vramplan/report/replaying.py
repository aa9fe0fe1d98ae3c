"""A replayed recording: the device's counters beside the replay's, as a section of the report and in its JSON."""

from __future__ import annotations

from dataclasses import asdict

from vramplan.replaying import CounterRow, Replay
from vramplan.report.content import Report, Section
from vramplan.report.export import estimate_content, to_json
from vramplan.report.grid import Grid
from vramplan.report.words import printable, shorten

_SHOWN = ("allocated_peak_bytes", "reserved_peak_bytes")
"""What the table has of all counters, beside those that differ; all, where none of these was recorded."""

_NAME_WIDTH = 24


def counters_section(replay: Replay) -> Section:
    """Peaks of each phase in bytes, as measured and as replayed, and whether all counters are equal."""
    rows = [row for row in replay.counters if row.name in _SHOWN or row.difference_bytes] or replay.counters
    headers = ("phase", "counter", "measured", "replayed", "difference")
    grid = Grid(headers=headers, rows=tuple(map(_cells, rows)), words=frozenset(headers[:2]))
    return Section(
        title="PyTorch's counters on the device and in the replay, in bytes",
        grid=grid if rows else None,
        sentence=counters_sentence(replay),
    )


def counters_sentence(replay: Replay) -> str:
    """How many of the recorded counters the replay has to the byte."""
    count, different = len(replay.counters), [row for row in replay.counters if row.difference_bytes]
    if not count:
        return "The recording has no counters: nothing says whether the replay is right."
    if not different:
        which = f"All {count} recorded counters are" if count > 1 else "The only recorded counter is"
        return f"{which} equal to the byte in the replay."
    worst = max(different, key=lambda row: abs(row.difference_bytes))
    return (
        f"{len(different)} of {count} recorded counters differ in the replay, most {_label(worst)} of"
        f" {printable(worst.phase)}: {worst.difference_bytes:+,} bytes."
    )


def replay_json(replay: Replay, report: Report) -> str:
    """The object of an estimate, with ``environment``, ``counters[]`` and ``counters_are_equal``."""
    counters = [{**asdict(row), "difference_bytes": row.difference_bytes} for row in replay.counters]
    return to_json(
        {
            **estimate_content(report),
            "environment": dict(replay.recording.environment),
            "counters": counters,
            "counters_are_equal": replay.is_equal,
        }
    )


def _cells(row: CounterRow) -> tuple[str, ...]:
    sizes = (
        f"{row.measured_bytes:,}",
        f"{row.replayed_bytes:,}",
        f"{row.difference_bytes:+,}" if row.difference_bytes else "0",
    )
    return (shorten(row.phase, _NAME_WIDTH), _label(row), *sizes)


def _label(row: CounterRow) -> str:
    """``allocated peak`` of ``allocated_peak_bytes``."""
    return row.name.removesuffix("_bytes").replace("_", " ")
