"""Compute, memory, PCIe, and the limit that binds."""

from __future__ import annotations

import pytest

from vramplan.capacity import Engine, EngineMemory, FrameWork, Given, Limit, Load, Margin, Span, Topology, solve
from vramplan.capacity.compute import batch_ms, choose_batch, engine_fps, speeds
from vramplan.capacity.constants import constants
from vramplan.capacity.facts import known
from vramplan.capacity.tries import tries
from vramplan.errors import UsageError
from vramplan.gpus import all_gpus, context_bytes, custom_gpu, find_gpu, usable_bytes
from vramplan.ranges import Evidence, Range
from vramplan.units import GIB, MIB
from vramplan.video import Stream, parse_stream, parse_video

WORK = FrameWork(
    arithmetic="fp16",
    launch_count=100,
    matrix_flops=28_600_000_000,
    weight_bytes=22_400_000,
    activation_bytes=211_000_000,
    input_bytes=2_457_600,
    output_bytes=2_822_400,
)
EXTRA = Range(low_bytes=0, nominal_bytes=0, high_bytes=0, evidence=Evidence.ASSUMED)


def engine(work=WORK):
    def memory(batch):
        return EngineMemory(weights=Range.exact(22 * MIB), context=Range.exact(20 * MIB * batch))

    return Engine(name="detector", precision="fp16", work=work, memory=memory)


def load(*streams, **changes):
    cameras = streams or (Stream(video=parse_video("1080p30")),)
    premises = {"margin": Margin(ratio=0.3), "extra": EXTRA, "topology": Topology(), **changes}
    return Load(streams=cameras, engines=(engine(),), **premises)


def test_a_batch_takes_launches_traffic_and_operations():
    speed, fit = speeds(find_gpu("t4"), "fp16"), constants()
    expected = (
        1000 * 100 * fit.cycles_per_launch / 1590e6
        + 1000 * (22_400_000 + 4 * 211_000_000) / (320e9 * fit.bandwidth_efficiency)
        + 1000 * 4 * 28.6e9 / (65e12 * fit.efficiency_16)
    )
    assert batch_ms(WORK, speed, 4).nominal == pytest.approx(expected)


def test_geforce_peaks_reach_down_to_fp32_accumulation():
    peak = speeds(find_gpu("3090"), "fp16").peak_tflops
    assert (peak.low, peak.high) == (71.2, 142.3)
    assert peak.nominal == pytest.approx((71.2 * 142.3) ** 0.5)
    assert speeds(find_gpu("t4"), "fp16").peak_tflops.low == 65


def test_cards_without_fast_fp16_compute_in_fp32():
    assert speeds(find_gpu("p40"), "fp16").peak_tflops.nominal == find_gpu("p40").fp32_tflops


def test_int8_falls_back_to_fp16_where_there_are_no_units():
    assert speeds(find_gpu("gtx1650"), "int8").peak_tflops.nominal == speeds(find_gpu("gtx1650"), "fp16").peak_tflops.nominal


def test_the_batch_fits_the_frame_time_and_the_streams():
    gpu = find_gpu("t4")
    free = choose_batch([WORK], gpu, frame_ms=1000, most=64)
    assert free > 1
    assert choose_batch([WORK], gpu, frame_ms=1000, most=2) <= 2
    assert choose_batch([WORK], gpu, frame_ms=0.1, most=64) == 1
    assert engine_fps([WORK], gpu, free).nominal >= 0.95 * engine_fps([WORK], gpu, 64).nominal


def test_a_blank_fact_is_a_range_over_comparable_cards():
    l20 = find_gpu("l20")
    span = known(l20, lambda card: card.fp16_dense_tflops, "dense FP16 peak")
    assert span.low < span.high
    assert span.missing == ("dense FP16 peak of NVIDIA L20",)
    assert known(find_gpu("l4"), lambda card: card.fp16_dense_tflops, "").nominal == 121


def test_memory_adds_up():
    gpu, batch = find_gpu("t4"), 4
    plan = solve(gpu, load(topology=Topology(batch=batch, processes=2, contexts=3)))
    usable = usable_bytes(gpu).nominal_bytes
    once = 2 * (context_bytes(gpu, "tensorrt").nominal_bytes + 22 * MIB + 2 * MIB) + 3 * 20 * MIB * batch
    assert plan.limits["vram"].capacity.nominal == usable - round(0.3 * usable) - once
    assert plan.limits["vram"].demand.nominal == plan.marginal_bytes_per_stream


def test_a_process_per_stream_pays_everything_each_time():
    shared, own = (solve(find_gpu("3090"), load(topology=Topology(processes=count))) for count in (1, None))
    extra = own.marginal_bytes_per_stream - shared.marginal_bytes_per_stream
    assert extra == context_bytes(find_gpu("3090"), "tensorrt").nominal_bytes + (22 + 20 + 2) * MIB
    assert own.batch == 1
    assert own.limits["vram"].nominal < shared.limits["vram"].nominal


def test_margins():
    assert Margin(ratio=0.3).of(1000) == 300
    assert Margin(size_bytes=2 * GIB).of(1000) == 2 * GIB
    with pytest.raises(UsageError):
        Margin(ratio=1.0)
    plan = solve(find_gpu("gtx1650"), load(margin=Margin(size_bytes=100 * GIB)))
    assert plan.streams == 0
    assert plan.binding == "vram"


def test_the_smallest_limit_binds_and_the_next_is_named():
    plan = solve(find_gpu("3090"), load())
    counts = {name: limit.nominal for name, limit in plan.limits.items()}
    assert plan.streams == min(counts.values()) == counts[plan.binding]
    assert plan.next_binding.nominal == sorted(counts.values())[1]
    assert plan.streams_low <= plan.streams <= plan.streams_high


def test_cpu_decode_moves_frames_over_pcie():
    """Generation 4 x16 at 0.79 of 31.5 GB/s, 93.3 MB/s of NV12 a stream."""
    plan = solve(find_gpu("3090"), load(decode="cpu"))
    assert plan.limits["pcie"].nominal == pytest.approx(268, abs=3)
    assert not plan.limits["decode"].is_known
    assert plan.unknown == (plan.limits["decode"],)


def test_unified_memory_has_no_bus():
    pcie = solve(find_gpu("agx orin 64"), load()).limits["pcie"]
    assert (pcie.applies, pcie.nominal) == (False, None)
    assert "shared" in solve(find_gpu("agx orin 64"), load()).limits["vram"].sources[0] or pcie.reason


def test_no_stream_exceeds_one_engine():
    plan = solve(find_gpu("t4"), load(Stream(video=parse_video("8k120", codec="hevc"))))
    assert plan.limits["decode"].nominal == 0
    assert "one engine" in plan.limits["decode"].reason


def test_a_mix_keeps_engines_busy_in_proportion():
    one, other = parse_stream("12x1080p30/h264"), parse_stream("4x4k25/hevc")
    mixed = solve(find_gpu("t4"), load(one, other)).limits["decode"]
    rates = [solve(find_gpu("t4"), load(stream)).limits["decode"].capacity.nominal / 2 for stream in (one, other)]
    assert mixed.demand.nominal == pytest.approx((12 * 30 / rates[0] + 4 * 25 / rates[1]) / 16)
    assert mixed.unit == "engines"
    assert solve(find_gpu("t4"), load(one, one)).streams == solve(find_gpu("t4"), load(one)).streams


def test_skipped_frames_relieve_compute_only():
    every, third = (solve(find_gpu("t4"), load(Stream(video=parse_video("1080p30"), infer_every=n))) for n in (1, 3))
    assert third.limits["compute"].nominal >= 3 * every.limits["compute"].nominal
    assert third.limits["decode"].nominal == every.limits["decode"].nominal


def test_measured_rates_replace_the_model():
    plan = solve(find_gpu("3090"), load(given=Given(decode_fps=900, infer_fps=450, vram_bytes=8 * GIB)))
    assert (plan.limits["decode"].nominal, plan.limits["compute"].nominal) == (30, 15)
    assert (plan.limits["compute"].low, plan.limits["compute"].high) == (15, 15)
    assert plan.usable.nominal_bytes == 8 * GIB


def test_tries_were_solved_again():
    fast = Given(infer_fps=9000)
    plan = solve(find_gpu("3090"), load(given=fast))
    found = tries(plan, lambda: None)
    assert 0 < len(found) <= 3
    for attempt in found:
        assert attempt.streams_nominal > plan.streams
        assert str(attempt.streams_nominal) in attempt.text
    hevc = next(attempt for attempt in found if attempt.flags == "--codec hevc")
    hevc_cameras = load(Stream(video=parse_video("1080p30", codec="hevc")), given=fast)
    assert hevc.streams_nominal == solve(find_gpu("3090"), hevc_cameras).streams


@pytest.mark.parametrize(
    "wrong",
    [
        {"processes": 0},
        {"contexts": 0},
        {"batch": 0},
        {"processes": 3, "contexts": 2},
        {"processes": None, "batch": 4},
    ],
)
def test_topologies_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        Topology(**wrong)


def test_spans():
    span = Span(low=5, nominal=10, high=20, evidence=Evidence.BOUNDED)
    assert span.times(Span.of(2, Evidence.EXACT)) == span.scaled(2)
    wider = span.times(span)
    assert wider.nominal == 100
    assert wider.low == pytest.approx(100 * 0.5 ** (2**0.5))
    with pytest.raises(ValueError, match="not a span"):
        Span(low=2, nominal=1, high=3, evidence=Evidence.EXACT)


def test_a_limit_is_floored_without_rounding_noise():
    limit = Limit(name="x", unit="", capacity=Span.of(0.3, Evidence.EXACT), demand=Span.of(0.1, Evidence.EXACT))
    assert limit.nominal == 3
    assert limit.headroom(2) == pytest.approx(0.1)


def test_every_card_has_a_plan():
    for gpu in (*all_gpus(), custom_gpu(24 * GIB)):
        plan = solve(gpu, load())
        assert 0 <= plan.streams_low <= plan.streams <= plan.streams_high
