"""Measures how fast this machine's GPU decodes video: sessions are added until the total hardly grows.

Sessions live in child processes that run in step: all are warm before any of them counts, and they count at the same time. One
process is tried first. When that leaves the decoders idle, because one Python process cannot feed them, several processes share
the sessions, and the faster arrangement is what the card does.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vramplan.device.child import Child, Message, OutOfMemoryResult, child_environment, module_command
from vramplan.device.clips import make_clip
from vramplan.device.probe import Device, Probe
from vramplan.errors import MachineError, MeasurementError, VramplanError, printable
from vramplan.progress import tell_detail
from vramplan.units import GIB, format_bytes
from vramplan.video import Codec, Video, parse_codec

CHILD = "vramplan.device.decode_child"

SESSIONS = (1, 4, 8, 16, 32, 64)
PROCESSES = (1, 4)
"""What is tried: sessions in all, and processes that share them. A step that the processes cannot share evenly is left out."""

GROWTH_RATIO = 1.05
"""More sessions have to be this much faster, or the decoders are busy."""

BUSY_RATIO = 0.9
"""Decoders that report less than this share of their time as busy wait for the program."""

WINDOW_S = 3.0
TIMEOUT_S = 300.0

LEAST_FREE_BYTES = GIB
"""A context and the first session take 0.6 GiB of an H200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRate:
    """Frames a second of *session_count* sessions together, for 8-bit video of one codec and size.

    session_bytes   what each session after the first took of the card, without contexts; None where it cannot be told
    engine_count    decoder engines as the driver counts them; None where it does not say
    process_count   processes that shared the sessions
    decoder_ratio   how busy the driver said the decoders were; None where it does not say

    Invariant: counts and the rate are positive.
    """

    codec: Codec
    width_px: int
    height_px: int
    session_count: int
    fps: float
    session_bytes: int | None = None
    engine_count: int | None = None
    process_count: int = 1
    decoder_ratio: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.fps < math.inf and self.session_count > 0 and self.process_count > 0):
            raise ValueError(f"not a decode rate: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRun:
    """All steps of one codec in the faster arrangement, with fewest sessions first.

    ``is_saturated`` is whether more sessions stopped making a difference; ``notes`` say why there are no more steps.
    """

    rates: tuple[DecodeRate, ...]
    is_saturated: bool
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()
    failure: VramplanError | None = None

    @property
    def fastest(self) -> DecodeRate | None:
        """The step with most frames a second; None when nothing was measured."""
        return max(self.rates, key=lambda rate: rate.fps, default=None)


def measure_decode(
    probe: Probe,
    device: Device,
    codecs: Sequence[str] = ("h264", "hevc"),
    width: int = 1920,
    height: int = 1080,
    *,
    timeout_s: float = TIMEOUT_S,
    command: Sequence[str] | None = None,
) -> tuple[DecodeRate, ...]:
    """The steps of every codec that could be measured, within *timeout_s* seconds in all.

    Raises what stopped the first codec (`MachineError`, `MeasurementError`) when none could be measured.
    """
    deadline_s = time.monotonic() + timeout_s
    runs = [
        run_decode(
            probe,
            device,
            Video(width_px=width, height_px=height, codec=parse_codec(codec)),
            timeout_s=deadline_s - time.monotonic(),
            command=command,
        )
        for codec in codecs
    ]
    rates = tuple(rate for run in runs for rate in run.rates)
    failures = [run.failure for run in runs if run.failure is not None]
    if not rates and failures:
        raise failures[0]
    return rates


def run_decode(
    probe: Probe, device: Device, video: Video, *, timeout_s: float = TIMEOUT_S, command: Sequence[str] | None = None
) -> DecodeRun:
    """Measure one kind of video; its frame rate does not matter.

    What goes wrong is a note on the run, beside the steps that were measured before.
    """
    bench = _Bench(probe=probe, device=device, video=video, command=command or module_command(CHILD))
    deadline_s = time.monotonic() + timeout_s
    try:
        bench.check()
        with tempfile.TemporaryDirectory(prefix="vramplan-") as folder:
            clip = make_clip(Path(folder), video.codec, width_px=video.width_px, height_px=video.height_px)
            tried = list(bench.arrangements(clip, deadline_s))
    except VramplanError as error:
        tried = [bench.failed(error)]
    best = tried[0]
    for run in tried[1:]:
        if run.fastest and best.fastest and run.fastest.fps > GROWTH_RATIO * best.fastest.fps:
            best = run
    return replace(best, notes=(*best.notes, *_idle_notes(best.fastest)))


def _idle_notes(fastest: DecodeRate | None) -> Iterator[str]:
    """What several processes could not keep busy either; where one process was as fast as several, the reading is in doubt."""
    if fastest is not None and fastest.process_count > 1 and (fastest.decoder_ratio or 1.0) < BUSY_RATIO:
        yield f"{_kind(fastest)}: the decoders were {fastest.decoder_ratio:.0%} busy, so they may do more than was measured"


def _kind(of: DecodeRate | Video) -> str:
    return f"{of.codec} {of.width_px} x {of.height_px}"


@dataclass(slots=True, kw_only=True)
class _Bench:
    """One kind of video on one card: measures arrangements of sessions. ``environment`` grows by what the children report."""

    probe: Probe
    device: Device
    video: Video
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """MeasurementError for video that no clip is made of, and when there is no room for a context and a session."""
        if self.video.bit_depth != 8:
            raise MeasurementError("test clips have 8 bits a sample", hint="Give the rate you know: --decode-fps.")
        free_bytes = self.probe.memory(self.device).free_bytes
        if free_bytes < LEAST_FREE_BYTES:
            raise MeasurementError(
                f"not started: {format_bytes(free_bytes)} of {printable(self.device.name)[:80]} are free, less than 1 GiB",
                hint="End what holds the rest: `vramplan doctor` lists it.",
            )
        self.environment = {
            "gpu": printable(self.device.name)[:80],
            "driver": self.probe.driver().version,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }

    def arrangements(self, clip: Path, deadline_s: float) -> Iterator[DecodeRun]:
        """One process, and several when one left the decoders idle."""
        for process_count in PROCESSES:
            run = self.measure(clip, process_count, deadline_s)
            yield run
            fastest = run.fastest
            if fastest is None or fastest.decoder_ratio is None or fastest.decoder_ratio >= BUSY_RATIO:
                return

    def measure(self, clip: Path, process_count: int, deadline_s: float) -> DecodeRun:
        """Steps with more and more sessions, until the total hardly grows or something stops it."""
        rates: list[DecodeRate] = []
        try:
            with contextlib.closing(self._steps(clip, process_count, deadline_s)) as steps:
                for rate in steps:
                    rates.append(rate)
                    if len(rates) > 1 and rate.fps < GROWTH_RATIO * rates[-2].fps:
                        return DecodeRun(rates=tuple(rates), is_saturated=True, environment=self.environment)
        except VramplanError as error:
            return self.failed(error, rates)
        except OutOfMemoryResult as result:
            return self.failed(MeasurementError(f"the card had no memory for more: {result.message[:200]}"), rates)
        return DecodeRun(rates=tuple(rates), is_saturated=False, environment=self.environment)

    def failed(self, error: VramplanError, rates: Sequence[DecodeRate] = ()) -> DecodeRun:
        """The steps that were measured before *error*."""
        text = printable(" ".join(error.message.replace("the model", "decoding").split()))[:400]
        what = f"{_kind(self.video)}: " + (f"stopped at {rates[-1].session_count} sessions: " if rates else "not measured: ")
        hint = f" ({error.hint.rstrip('.')})" if isinstance(error, MachineError) and not rates else ""
        return DecodeRun(
            rates=tuple(rates), is_saturated=False, environment=self.environment, notes=(what + text + hint,), failure=error
        )

    def _steps(self, clip: Path, process_count: int, deadline_s: float) -> Generator[DecodeRate, None, None]:
        """Start the processes and lead them from step to step; nothing of them is left in the end."""
        totals = [total for total in SESSIONS if total % process_count == 0]
        request = {
            "clip": str(clip),
            "codec": self.video.codec.value,
            "width_px": self.video.width_px,
            "height_px": self.video.height_px,
            "steps": [total // process_count for total in totals],
            "window_s": WINDOW_S,
        }
        environment = child_environment(os.environ, CUDA_VISIBLE_DEVICES=self.device.uuid, CUDA_DEVICE_ORDER="PCI_BUS_ID")
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(process_count))
            children = []
            for _ in range(process_count):
                timeout_s = max(math.ceil(deadline_s - time.monotonic()), 0)
                child = Child(self.command, request, timeout_s=timeout_s, environment=environment)
                children.append(stack.enter_context(child).messages())
            crew = _Crew(pool, children)
            engine_count = self._read_hello(crew.next())
            first_bytes = 0
            for step, total in enumerate(totals):
                tell_detail(f"{total} sessions")
                crew.next()  # all are warm now, and decode on while the driver is asked
                used_bytes = self.probe.memory(self.device).used_bytes
                first_bytes = first_bytes if step else used_bytes
                rate = self._rate(crew.next(), total, process_count, engine_count)
                yield _with_bytes(rate, used_bytes - first_bytes, total - totals[0])
                self._check_room(used_bytes - first_bytes, totals, step)

    def _read_hello(self, messages: Sequence[Message]) -> int | None:
        self.environment["PyNvVideoCodec"] = printable(str(messages[0].get("version", "")))[:40]
        count = messages[0].get("engine_count")
        return count if type(count) is int and count > 0 else None

    def _rate(self, messages: Sequence[Message], total: int, process_count: int, engine_count: int | None) -> DecodeRate:
        """The sum of what the processes report. The card still decodes: they wait for the next step without stopping."""
        try:
            fps = sum(int(message["frames"]) / float(message["seconds"]) for message in messages)
            return DecodeRate(
                codec=self.video.codec,
                width_px=self.video.width_px,
                height_px=self.video.height_px,
                session_count=total,
                fps=fps,
                engine_count=engine_count,
                process_count=process_count,
                decoder_ratio=self.probe.activity(self.device).decoder_ratio or None,  # 0 under load says nothing
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise MeasurementError(f"the child process reported what cannot be: {type(error).__name__}: {error}") from None

    def _check_room(self, grown_bytes: int, totals: Sequence[int], step: int) -> None:
        """MeasurementError when the sessions of the next step would not fit beside what other programs hold."""
        if step == 0 or step + 1 == len(totals):
            return
        each_bytes = max(grown_bytes, 0) // (totals[step] - totals[0])
        need_bytes = each_bytes * (totals[step + 1] - totals[step])
        free_bytes = self.probe.memory(self.device).free_bytes
        if need_bytes > free_bytes - LEAST_FREE_BYTES // 2:
            raise MeasurementError(
                f"{totals[step + 1]} sessions would take {format_bytes(need_bytes)} more, of {format_bytes(free_bytes)} free"
            )


class _Crew:
    """Processes that move together: each `next` lets all of them go on at once and waits for the next report of each."""

    def __init__(self, pool: ThreadPoolExecutor, children: Sequence[Iterator[Message]]) -> None:
        self._pool, self._children = pool, children

    def next(self) -> list[Message]:
        """One message of each. Raises what the first of them raises."""
        messages = list(self._pool.map(_next_message, self._children))
        if any(message is None for message in messages):
            raise MeasurementError("a child process ended before it had measured")
        return [message for message in messages if message is not None]


def _with_bytes(rate: DecodeRate, grown_bytes: int, more_count: int) -> DecodeRate:
    """*rate* with the share of each of the sessions that came after the first step."""
    return rate if more_count == 0 or grown_bytes < more_count else replace(rate, session_bytes=grown_bytes // more_count)


def _next_message(messages: Iterator[Message]) -> Message | None:
    return next(messages, None)
