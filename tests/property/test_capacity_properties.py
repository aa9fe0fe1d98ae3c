"""What holds for every card and camera: more work is never more streams."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.capacity import Engine, EngineMemory, FrameWork, Load, Margin, Topology, solve
from vramplan.capacity.load import DEFAULT_EXTRA
from vramplan.errors import UsageError
from vramplan.gpus import all_gpus
from vramplan.ranges import Range
from vramplan.units import MIB
from vramplan.video import Codec, Stream, Video, parse_stream, parse_video

GPUS = st.sampled_from(all_gpus())
VIDEOS = st.builds(
    Video,
    width_px=st.integers(64, 8192),
    height_px=st.integers(64, 4320),
    fps=st.floats(1, 120),
    codec=st.sampled_from(Codec),
)
WORK = FrameWork(
    arithmetic="fp16",
    launch_count=90,
    matrix_flops=28_600_000_000,
    weight_bytes=22_400_000,
    activation_bytes=211_000_000,
    input_bytes=2_457_600,
    output_bytes=1_411_200,
)


def load(video, **topology):
    def memory(batch):
        return EngineMemory(weights=Range.exact(22 * MIB), context=Range.exact(20 * MIB * batch))

    return Load(
        streams=(Stream(video=video),),
        engines=(Engine(name="detector", precision="fp16", work=WORK, memory=memory),),
        topology=Topology(batch=1, **topology),
        margin=Margin(ratio=0.3),
        extra=DEFAULT_EXTRA,
    )


@settings(max_examples=60, deadline=None)
@given(GPUS, VIDEOS)
def test_the_answer_is_the_smallest_limit_and_ordered(gpu, video):
    plan = solve(gpu, load(video))
    assert 0 <= plan.streams_low <= plan.streams <= plan.streams_high
    assert plan.streams == plan.limits[plan.binding].nominal
    for limit in plan.limits.values():
        if limit.nominal is not None:
            assert limit.low <= limit.nominal <= limit.high


@settings(max_examples=60, deadline=None)
@given(GPUS, VIDEOS)
def test_twice_the_frames_are_never_more_streams(gpu, video):
    faster = replace(video, fps=2 * video.fps)
    assert solve(gpu, load(faster)).streams <= solve(gpu, load(video)).streams


@settings(max_examples=60, deadline=None)
@given(GPUS, VIDEOS)
def test_what_fits_leaves_no_limit_overrun(gpu, video):
    plan = solve(gpu, load(video))
    for limit in plan.limits.values():
        headroom = limit.headroom(plan.streams)
        assert headroom is None or plan.streams == 0 or headroom >= -1e-6 * limit.capacity.nominal


@settings(max_examples=60, deadline=None)
@given(GPUS, VIDEOS)
def test_a_second_process_takes_memory(gpu, video):
    one, two = solve(gpu, load(video)), solve(gpu, load(video, processes=2, contexts=2))
    assert two.limits["vram"].nominal <= one.limits["vram"].nominal


@given(st.text(max_size=40))
def test_any_text_is_a_video_or_a_usage_error(text):
    for read in (parse_video, parse_stream):
        with suppress(UsageError):
            read(text)
