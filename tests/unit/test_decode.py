"""Measuring decode rates: the parent against children that only pretend, and the child against a library that only pretends."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.device_fakes import H200, H200_IDLE, IDLE, FakeProbe, with_used
from vramplan.device import decode
from vramplan.device.child import module_command
from vramplan.device.decode import DecodeRate, measure_decode, run_decode
from vramplan.errors import MachineError, MeasurementError
from vramplan.units import GIB, MIB
from vramplan.video import Codec, Video

FHD = Video(width_px=1920, height_px=1080)
CONTEXT = 560 * MIB
BUSY = replace(IDLE, decoder_ratio=1.0)

CHILD = """
import json, os, sys, time
mode, folder = sys.argv[1:3]
request = json.loads(sys.stdin.readline())
def tell(**message):
    print(json.dumps(message), flush=True)
    if message.get("wait") and not sys.stdin.readline():
        sys.exit(1)
def fail(kind, message):
    tell(error={"kind": kind, "message": message, "hint": "Type: pip install 'vramplan[video]'"})
    sys.exit(0)
if mode == "missing":
    fail("machine", "PyNvVideoCodec is not installed")
if mode == "unsupported" and request["codec"] == "hevc":
    fail("machine", "this GPU does not decode hevc of 1920 x 1080 px")
if mode == "hang":
    time.sleep(60)
try:
    os.close(os.open(os.path.join(folder, "first"), os.O_CREAT | os.O_EXCL))
    is_first = True
except OSError:
    is_first = False
tell(version="2.2.4", engine_count=7)
for count in request["steps"]:
    if mode == "memory" and count > 4:
        fail("out_of_memory", "CUDA_ERROR_OUT_OF_MEMORY")
    if mode == "crash" and not is_first:
        print("the driver went away", file=sys.stderr)
        os.abort()
    tell(ready=count, wait=True)
    alone = {"saturating": 700, "growing": 700, "starved": 100}.get(mode, 700)
    most = {"saturating": 4950, "starved": 800}.get(mode, 10**6)
    frames = -5 if mode == "nonsense" else round(min(alone * count, most) * 2)
    tell(frames=frames, seconds=2.0, wait=True)
tell(done=True)
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command for children of a mode; no clip is made."""
    monkeypatch.setattr(decode, "make_clip", lambda folder, *_, **__: folder / "clip.mp4")
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return lambda mode: [sys.executable, str(script), mode, str(tmp_path)]


def probe_of(*used_mib: int, ratio: float | None = 1.0) -> FakeProbe:
    """A card that reads *used_mib* beside a context, one question after the other; an idle one first."""
    readings = [H200_IDLE, *(with_used(H200_IDLE, CONTEXT + mib * MIB) for mib in used_mib)]
    return FakeProbe(memory=readings, activity=replace(IDLE, decoder_ratio=ratio))


def test_sessions_are_added_until_the_total_hardly_grows(children):
    run = run_decode(probe_of(66), H200, FHD, command=children("saturating"))
    assert [(rate.session_count, rate.fps) for rate in run.rates] == [(1, 700), (4, 2800), (8, 4950), (16, 4950)]
    assert run.is_saturated
    assert run.fastest == run.rates[2]
    assert {rate.engine_count for rate in run.rates} == {7}
    assert run.notes == ()
    assert run.environment["driver"] == "580.159.04"
    assert run.environment["PyNvVideoCodec"] == "2.2.4"


def test_a_session_takes_what_the_card_lost_since_the_first_one(children):
    # read after each step, and once more before the next: 1 session 66 MiB, 4 sessions 264 MiB, 8 and 16 the same each
    run = run_decode(probe_of(66, 264, 264, 528, 528, 1056), H200, FHD, command=children("saturating"))
    assert [rate.session_bytes for rate in run.rates] == [None, 66 * MIB, 66 * MIB, 66 * MIB]


def test_memory_that_did_not_grow_says_nothing_of_a_session(children):
    run = run_decode(probe_of(66, 20, 20), H200, FHD, command=children("saturating"))
    assert {rate.session_bytes for rate in run.rates} == {None}


def test_a_rate_that_still_grows_with_the_last_step_is_not_saturated(children):
    run = run_decode(probe_of(66), H200, FHD, command=children("growing"))
    assert run.rates[-1].session_count == 64
    assert not run.is_saturated


def test_idle_decoders_are_tried_again_from_several_processes(children):
    run = run_decode(probe_of(66, ratio=0.12), H200, FHD, command=children("starved"))
    # one process stops at 800 fps; four feed four times as much, with 4 x 8 sessions
    assert (run.fastest.process_count, run.fastest.session_count, run.fastest.fps) == (4, 32, 3200)
    assert run.notes == ("h264 1920 x 1080: the decoders were 12% busy, so they may do more than was measured",)


@pytest.mark.parametrize("ratio", [0.0, None])
def test_a_driver_that_does_not_count_says_nothing(children, ratio: float | None):
    run = run_decode(probe_of(66, ratio=ratio), H200, FHD, command=children("starved"))
    assert (run.fastest.process_count, run.fastest.decoder_ratio, run.notes) == (1, None, ())


def test_busy_decoders_are_not_tried_again(children):
    run = run_decode(probe_of(66, ratio=0.97), H200, FHD, command=children("starved"))
    assert run.fastest.process_count == 1


def test_all_processes_of_a_step_count_at_the_same_time(children, monkeypatch: pytest.MonkeyPatch):
    waiting = threading.Barrier(4, timeout=10)
    following = decode._next_message

    def next_message(messages):
        waiting.wait()  # breaks when they are asked one after the other
        return following(messages)

    monkeypatch.setattr(decode, "_next_message", next_message)
    monkeypatch.setattr(decode, "PROCESSES", (4,))
    run = run_decode(probe_of(66), H200, FHD, command=children("saturating"))
    assert run.fastest.fps == 4 * 4950


def test_a_missing_library_is_a_note(children):
    run = run_decode(FakeProbe(), H200, FHD, command=children("missing"))
    assert run.rates == ()
    assert run.fastest is None
    (note,) = run.notes
    assert note.startswith("h264 1920 x 1080: not measured: PyNvVideoCodec is not installed")
    assert "pip install 'vramplan[video]'" in note


def test_when_nothing_could_be_measured_the_reason_is_raised(children):
    with pytest.raises(MachineError, match="PyNvVideoCodec is not installed"):
        measure_decode(FakeProbe(), H200, command=children("missing"))


def test_a_codec_that_the_card_lacks_does_not_hide_the_other(children):
    rates = measure_decode(FakeProbe(activity=BUSY), H200, command=children("unsupported"))
    assert {rate.codec for rate in rates} == {Codec.H264}
    assert str(rates[0].codec) == "h264"


def test_running_out_of_memory_keeps_the_steps_before(children):
    run = run_decode(probe_of(66), H200, FHD, command=children("memory"))
    assert [rate.session_count for rate in run.rates] == [1, 4]
    assert run.notes[0].startswith("h264 1920 x 1080: stopped at 4 sessions: the card had no memory for more")


def test_a_step_that_would_not_fit_is_not_started(children):
    small = replace(H200_IDLE, total_bytes=8 * GIB, free_bytes=8 * GIB)
    readings = [small, *(with_used(small, mib * MIB) for mib in (600, 3900))]
    run = run_decode(FakeProbe(memory=readings, activity=BUSY), H200, FHD, command=children("growing"))
    # 3 sessions took 3,300 MiB, so that 4 more would take 4,400, and 4,292 are left
    assert [rate.session_count for rate in run.rates] == [1, 4]
    assert "8 sessions would take" in run.notes[0]


def test_a_full_card_is_left_alone(children):
    full = replace(H200_IDLE, free_bytes=512 * MIB)
    run = run_decode(FakeProbe(memory=full), H200, FHD, command=children("saturating"))
    assert "not started: 512.0 MiB of NVIDIA H200 are free" in run.notes[0]


def test_one_of_several_processes_that_crashes_ends_all(children, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode, "PROCESSES", (4,))
    started = time.monotonic()
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=children("crash"))
    assert time.monotonic() - started < 30
    assert run.rates == ()
    assert isinstance(run.failure, MeasurementError)
    assert "SIGABRT" in run.notes[0]
    assert "the driver went away" in run.notes[0]


def test_a_child_that_hangs_is_ended(children):
    started = time.monotonic()
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=1, command=children("hang"))
    assert time.monotonic() - started < 20
    assert "decoding did not finish within 1 s" in run.notes[0]


def test_a_report_that_makes_no_sense_is_refused(children):
    run = run_decode(FakeProbe(), H200, FHD, command=children("nonsense"))
    assert "reported what cannot be" in run.notes[0]


def test_ten_bits_are_not_measured(children):
    video = replace(FHD, codec=Codec.HEVC, bit_depth=10)
    assert "8 bits a sample" in run_decode(FakeProbe(), H200, video, command=children("saturating")).notes[0]


def test_a_rate_is_positive():
    with pytest.raises(ValueError, match="not a decode rate"):
        DecodeRate(codec=Codec.H264, width_px=1920, height_px=1080, session_count=1, fps=0.0)


LIBRARY = '''
"""PyNvVideoCodec as far as the child uses it: every session decodes a frame in a millisecond, and waits without the GIL."""
import os, time
__version__ = "2.2.4"
class Packet:
    def __init__(self, size): self.bsl = size
class Demuxer:
    def __init__(self, clip): assert os.path.exists(clip)
    def GetNvCodecId(self): return 4
    def ChromaFormat(self): return 1
    def BitDepth(self): return 8
    def __iter__(self): return iter([Packet(100) for _ in range(50)] + [Packet(0)])
CreateDemuxer = Demuxer
class Decoder:
    made = 0
    def __init__(self, gpuid, codec, usedevicememory):
        Decoder.made += 1
        if Decoder.made > LIMIT: raise RuntimeError("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY")
    def Decode(self, packet):
        assert packet.bsl
        time.sleep(0.001)
        return ["frame"] * FRAMES
CreateDecoder = Decoder
def GetDecoderCaps(gpuid, codec, chromaformat, bitdepth):
    return {"num_decoder_engines": ENGINES, "width_max": 8192, "height_max": 8192}
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The real child with a library of the given constants."""

    def install(**constants: int) -> None:
        values = {"LIMIT": 1000, "FRAMES": 1, "ENGINES": 7} | constants
        text = "".join(f"{name} = {value}\n" for name, value in values.items()) + textwrap.dedent(LIBRARY)
        (tmp_path / "PyNvVideoCodec.py").write_text(text)
        (tmp_path / "clip.mp4").touch()
        paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        monkeypatch.setattr(decode, "make_clip", lambda *_, **__: tmp_path / "clip.mp4")
        monkeypatch.setattr(decode, "WINDOW_S", 0.2)
        monkeypatch.setattr(decode, "SESSIONS", (1, 4))
        monkeypatch.setattr(decode, "PROCESSES", (1,))

    return install


def test_the_child_decodes_round_and_round(library):
    library()
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert [rate.session_count for rate in run.rates] == [1, 4]
    alone, four = (rate.fps for rate in run.rates)
    assert 100 < alone <= 1000  # a frame takes a millisecond at least
    assert 1.5 * alone < four <= 4000
    assert run.rates[0].engine_count == 7


def test_the_child_shares_sessions_among_processes(library, monkeypatch: pytest.MonkeyPatch):
    library()
    monkeypatch.setattr(decode, "PROCESSES", (2,))
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert [(rate.session_count, rate.process_count) for rate in run.rates] == [(4, 2)]


def test_the_child_tells_that_a_session_found_no_memory(library):
    library(LIMIT=2)
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert [rate.session_count for rate in run.rates] == [1]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in run.notes[0]


def test_the_child_tells_that_no_frame_comes_out(library):
    library(FRAMES=0)
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert "no frame came out" in run.notes[0]


def test_the_child_asks_first_whether_the_card_decodes_it(library):
    library(ENGINES=0)
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert "this GPU does not decode h264 of 1920 x 1080 px" in run.notes[0]


def test_the_child_tells_that_the_library_is_broken(library, tmp_path: Path):
    library()
    (tmp_path / "PyNvVideoCodec.py").write_text("raise RuntimeError('libnvcuvid.so.1: cannot open shared object file')")
    run = run_decode(FakeProbe(), H200, FHD, timeout_s=60, command=module_command(decode.CHILD))
    assert "PyNvVideoCodec cannot be loaded: libnvcuvid.so.1" in run.notes[0]
    assert "NVIDIA_DRIVER_CAPABILITIES" in run.notes[0]
