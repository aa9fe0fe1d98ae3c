"""Decodes a clip in many sessions of one process and tells how many frames that makes a second. Only ever a child process.

Every session is a thread with a decoder of its own that runs without an end, for making a decoder takes long. The main thread
opens more sessions step by step and looks at their counters; between steps the parent reads the driver. Frames stay on the GPU
and are dropped at once.

PyNvVideoCodec lets other threads run while it decodes; what little Python there is between two frames is in `Session._decode`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from vramplan.device.inside import Line, serve
from vramplan.errors import MachineError, MeasurementError

WARM_FRAMES = 60
"""Frames that a session decodes before it counts: its first ones allocate."""

_LOOK_S = 0.02


class Session(threading.Thread):
    """One decoder over one clip, round and round. ``frames`` grows; ``failure`` says why it does no more."""

    def __init__(self, library: Any, clip: str) -> None:
        super().__init__(daemon=True)
        self._library, self._clip = library, clip
        self.frames = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        """Decode until the process ends."""
        try:
            self._decode()
        except Exception as error:  # it crosses threads: the main thread tells the parent
            self.failure = error

    def _decode(self) -> None:
        decode = None
        while True:
            demuxer = self._library.CreateDemuxer(self._clip)
            if decode is None:
                decode = self._library.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True).Decode
            before = self.frames
            for packet in demuxer:
                if packet.bsl:  # an empty one marks the end and would drain the decoder: the next turn follows without a gap
                    self.frames += len(decode(packet))
            if self.frames == before:
                raise MeasurementError("a whole clip was decoded and no frame came out")


def work(request: dict[str, Any], line: Line) -> None:
    """Open sessions up to each of the ``steps``; at each, a pause under load, then the frames of a window, then a pause."""
    library = _import_library()
    line.tell(version=str(getattr(library, "__version__", "")), **_capabilities(library, request))
    sessions: list[Session] = []
    for count in request["steps"]:
        while len(sessions) < count:
            session = Session(library, request["clip"])
            session.start()
            sessions.append(session)
        _wait_until_warm(sessions)
        line.pause(ready=len(sessions))
        frames, seconds = _window(sessions, request["window_s"])
        line.pause(frames=frames, seconds=seconds)


def _import_library() -> Any:
    try:
        import PyNvVideoCodec  # noqa: PLC0415  what is measured
    except ImportError as error:
        if error.name == "PyNvVideoCodec":
            raise MachineError("PyNvVideoCodec is not installed", hint="Type: pip install 'vramplan[video]'") from None
        raise MachineError(f"PyNvVideoCodec cannot be loaded: {str(error)[:300]}", hint=_HINT) from None
    except (OSError, RuntimeError) as error:  # it looks for the driver's libraries while it is imported
        raise MachineError(f"PyNvVideoCodec cannot be loaded: {str(error).strip()[:300]}", hint=_HINT) from None
    return PyNvVideoCodec


_HINT = "It needs the driver's video libraries: in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video."


def _capabilities(library: Any, request: dict[str, Any]) -> dict[str, Any]:
    """How many engines the driver names for this kind of video, None when it does not. MachineError when it decodes none."""
    demuxer = library.CreateDemuxer(request["clip"])
    try:
        found = library.GetDecoderCaps(
            gpuid=0, codec=demuxer.GetNvCodecId(), chromaformat=demuxer.ChromaFormat(), bitdepth=demuxer.BitDepth()
        )
        engines, width_px, height_px = (int(found.get(key, -1)) for key in ("num_decoder_engines", "width_max", "height_max"))
    except Exception:  # an older version, other names, an error of its own kind: decoding itself will tell
        return {"engine_count": None}
    if engines == 0 or 0 <= width_px < request["width_px"] or 0 <= height_px < request["height_px"]:
        size = f"{request['width_px']} x {request['height_px']}"
        raise MachineError(
            f"this GPU does not decode {request['codec']} of {size} px", hint="`--codec` and `--video` name others."
        )
    return {"engine_count": engines if engines > 0 else None}


def _wait_until_warm(sessions: Sequence[Session]) -> None:
    """Until every session has decoded some frames since now; the parent's clock ends a session that never does."""
    goals = [(session, session.frames + WARM_FRAMES) for session in sessions]
    while any(session.frames < goal for session, goal in goals):
        _check(sessions)
        time.sleep(_LOOK_S)


def _window(sessions: Sequence[Session], window_s: float) -> tuple[int, float]:
    """Frames of all sessions together, and the seconds they took."""
    before, start_s = sum(session.frames for session in sessions), time.perf_counter()
    time.sleep(window_s)
    frames, seconds = sum(session.frames for session in sessions) - before, time.perf_counter() - start_s
    _check(sessions)
    return frames, seconds


def _check(sessions: Sequence[Session]) -> None:
    for session in sessions:
        if session.failure is not None:
            raise session.failure


def is_out_of_memory(error: Exception) -> bool:
    """Whether the card had no memory left, by the names that CUDA gives it."""
    text = str(error)
    return "OUT_OF_MEMORY" in text or "out of memory" in text


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(work, is_out_of_memory=is_out_of_memory)
