"""The calibration file, where it is kept, and what estimates make of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.calibrations import calibration, content, put
from vramplan.capacity import measured
from vramplan.capacity.compute import speeds
from vramplan.capacity.decode import Decoder, decoder_of
from vramplan.capacity.sessions import session_bytes, session_bytes_on
from vramplan.errors import UsageError
from vramplan.fleet import streams
from vramplan.gpus import calibration as format_
from vramplan.gpus import calibration_store, calibrations_of, context_bytes, context_reason, find_gpu
from vramplan.gpus.calibration import calibration_content, calibration_of, calibration_text
from vramplan.gpus.calibration_store import all_calibrations, import_calibration, store_calibration
from vramplan.ranges import Evidence
from vramplan.units import MIB
from vramplan.video import Codec, parse_video

GPU = find_gpu("3090")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMPLAN_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(calibration_store, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path


# The file


def test_a_calibration_survives_being_written_and_read():
    assert calibration_of(json.loads(calibration_text(calibration()))) == calibration()


def test_what_was_not_measured_may_be_null_empty_or_absent():
    nothing = {key: value for key, value in content().items() if key in {"format", "schema_version", "gpu", "environment"}}
    empty = {**nothing, "context": [], "decode": [], "compute": [], "pcie": {}, "memory_bandwidth_gb_s": None}
    assert calibration_of(nothing) == calibration_of(empty)
    assert calibration_of(nothing).pcie.to_gpu_pinned_gb_s is None
    assert calibration_content(calibration_of(nothing))["compute"] == []


def test_the_codecs_are_those_of_videos():
    assert tuple(codec.value for codec in Codec) == format_.CODECS


def test_a_file_is_named_by_card_driver_and_torch_and_stays_in_its_folder():
    assert calibration().file_name == "rtx3090_570.1_2.11.0+cu130.json"
    bad = calibration(environment={"driver": "../../etc", "torch": "a/b\\c", "date": "2026-01-31"})
    assert bad.file_name == "rtx3090_..-..-etc_a-b-c.json"


# Where they are kept


def test_stored_and_found_again(settings: Path):
    path = store_calibration(calibration(), force=False)
    assert path == settings / "calibrations" / "rtx3090_570.1_2.11.0+cu130.json"
    assert calibrations_of("rtx3090") == (calibration(),)
    assert calibrations_of("rtx3080-10gb") == ()
    assert all_calibrations() == ((path, calibration()),)


def test_another_one_of_the_same_versions_needs_force(settings: Path):
    store_calibration(calibration(), force=False)
    with pytest.raises(UsageError, match="exists"):
        store_calibration(calibration(), force=False)
    store_calibration(calibration(memory_bandwidth_gb_s=1.0), force=True)
    assert calibrations_of("rtx3090")[0].memory_bandwidth_gb_s == 1.0


def test_the_newest_of_the_user_first_then_the_shipped(settings: Path):
    days = {"old": "2025-01-01", "new": "2026-01-01"}
    for name, day in days.items():
        put(settings, f"rtx3090_{name}.json", environment={"driver": name, "torch": "2", "date": day})
    shipped = content(environment={"driver": "shipped", "torch": "2", "date": "2027-01-01"})
    (settings / "shipped").mkdir()
    (settings / "shipped" / "rtx3090_shipped.json").write_text(json.dumps(shipped))
    assert [each.driver for each in calibrations_of("rtx3090")] == ["new", "old", "shipped"]


def test_a_broken_file_is_skipped_and_told_once(settings: Path, caplog: pytest.LogCaptureFixture):
    put(settings, "rtx3090_a.json")
    (settings / "calibrations" / "rtx3090_b.json").write_text("{\x1b")
    (settings / "calibrations" / "rtx3090_c.json").write_text(json.dumps(content(compute=[{"dtype": "fp61", "tflops": 1}])))
    with caplog.at_level(logging.WARNING, logger="vramplan"):
        assert len(calibrations_of("rtx3090")) == 1
        assert len(calibrations_of("rtx3090")) == 1
        context_bytes(GPU, "torch")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "not JSON" in told[0]
    assert "Did you mean: fp16" in told[1]
    assert all(text.isprintable() for text in told)


def test_a_file_under_the_name_of_another_card_is_not_that_cards(settings: Path):
    put(settings, "t4_1_2.json")
    assert calibrations_of("t4") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [("[]", "not a JSON object"), ('{"format": "other"}', "not 'vramplan-calibration'"), ("{", "not JSON")],
)
def test_a_bad_import_is_a_usage_error_with_the_path_and_the_value(settings: Path, text: str, said: str):
    path = settings / "stranger.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        import_calibration(path, force=False)
    assert "stranger.json" in caught.value.message
    assert not (settings / "calibrations").exists()


# What estimates make of it


def test_the_context_is_as_measured(settings: Path):
    before = context_bytes(GPU, "torch")
    put(settings)
    assert before.evidence is Evidence.BOUNDED
    unknown, without, with_gemm = (context_bytes(GPU, "torch", uses_gemm=uses) for uses in (None, False, True))
    assert (unknown.low_bytes, unknown.nominal_bytes, unknown.high_bytes) == (280_000_000, 340_000_000, 340_000_000)
    assert without.low_bytes == without.high_bytes == 280_000_000
    assert with_gemm.low_bytes == with_gemm.high_bytes == 340_000_000
    assert unknown.evidence is Evidence.MEASURED
    reason = context_reason(GPU, "torch")
    for part in ("NVIDIA GeForce RTX 3090", "570.1", "2.11.0+cu130", "2026-11-20", "57 MiB"):
        assert part in reason


def test_other_runtimes_lie_between_the_bare_context_and_pytorch(settings: Path):
    put(settings)
    context = context_bytes(GPU, "tensorrt")
    assert (context.low_bytes, context.high_bytes) == (268_435_456, 340_000_000)
    assert context.evidence is Evidence.BOUNDED


def test_a_calibration_without_contexts_changes_none(settings: Path):
    before = context_bytes(GPU, "torch")
    put(settings, context=[])
    assert context_bytes(GPU, "torch") == before


def test_the_decode_rate_is_as_measured_with_the_band_of_another_clip(settings: Path):
    put(settings)
    decoder = decoder_of(GPU, parse_video("1080p30"))
    assert isinstance(decoder, Decoder)
    assert decoder.fps.nominal == pytest.approx(700.0)
    assert decoder.fps.low == pytest.approx(700 / (1.22 / 0.94) ** 0.5)
    assert decoder.fps.high == pytest.approx(700 * (1.22 / 0.94) ** 0.5)
    assert decoder.fps.evidence is Evidence.MEASURED
    assert "calibration of NVIDIA GeForce RTX 3090" in decoder.fps.sources[0]


def test_another_size_is_scaled_by_macroblocks_with_a_wider_band(settings: Path):
    put(settings)
    rate = measured.decode_fps(GPU, parse_video("4k30"))
    assert rate is not None
    assert rate.nominal == pytest.approx(700 * 8160 / 32_400)
    assert rate.high / rate.nominal == pytest.approx(measured.CLIP_RATIO * measured.SIZE_RATIO)


def test_a_rate_that_still_grew_with_the_sessions_reaches_up_to_what_is_published(settings: Path):
    published = decoder_of(GPU, parse_video("1080p30"))
    row = {"codec": "h264", "width": 1920, "height": 1080}
    put(settings, decode=[{**row, "sessions": 1, "fps": 200}, {**row, "sessions": 4, "fps": 400}])
    decoder = decoder_of(GPU, parse_video("1080p30"))
    assert isinstance(decoder, Decoder)
    assert isinstance(published, Decoder)
    assert decoder.fps.nominal == pytest.approx(400)
    assert decoder.fps.high == pytest.approx(published.fps.high)
    assert decoder.fps.missing


def test_decoders_that_were_idle_half_of_the_time_can_do_more(settings: Path):
    row = {"codec": "h264", "width": 1920, "height": 1080, "decoder_ratio": 0.5}
    put(settings, decode=[{**row, "sessions": 4, "fps": 200}, {**row, "sessions": 8, "fps": 200}])
    rate = measured.decode_fps(GPU, parse_video("1080p30"))
    assert rate is not None
    assert rate.missing


def test_other_codecs_and_depths_stay_with_the_note(settings: Path):
    before = [decoder_of(GPU, parse_video("1080p30", codec="hevc", bit_depth=depth)) for depth in (8, 10)]
    put(settings)
    assert [decoder_of(GPU, parse_video("1080p30", codec="hevc", bit_depth=depth)) for depth in (8, 10)] == before


def test_what_the_user_gives_beats_the_calibration(settings: Path):
    put(settings)
    decoder = decoder_of(GPU, parse_video("1080p30"), fps=123.0)
    assert isinstance(decoder, Decoder)
    assert decoder.fps.nominal == 123.0


def test_disturbed_rates_are_not_used_and_the_context_is(settings: Path):
    put(settings, disturbed=True)
    assert measured.decode_fps(GPU, parse_video("1080p30")) is None
    assert measured.pcie_gb_s(GPU) is None
    assert context_bytes(GPU, "torch").evidence is Evidence.MEASURED


def test_session_bytes_are_the_clips_and_keep_the_ends_of_the_rule(settings: Path):
    put(settings)
    video = parse_video("1080p30")
    rule, (size, source) = session_bytes(video), session_bytes_on(GPU, video)
    assert source is not None
    assert (size.low_bytes, size.nominal_bytes, size.high_bytes) == (rule.low_bytes, 60_000_000, rule.high_bytes)
    assert size.evidence is Evidence.MEASURED
    larger, _ = session_bytes_on(GPU, parse_video("4k30"))
    assert larger.nominal_bytes == 60_000_000 * session_bytes(parse_video("4k30")).nominal_bytes // rule.nominal_bytes
    assert larger.evidence is Evidence.BOUNDED


def test_an_achieved_rate_lowers_the_peak_and_never_raises_it(settings: Path):
    before = speeds(GPU, "fp16")
    put(settings, compute=[{"dtype": "fp16", "tflops": 30.0}], memory_bandwidth_gb_s=500.0)
    slower = speeds(GPU, "fp16")
    reference = before.peak_tflops.low
    assert slower.peak_tflops.nominal == pytest.approx(before.peak_tflops.nominal * 30 / 0.85 / reference)
    assert slower.bandwidth_gb_s.nominal == pytest.approx(500 / 0.9)
    assert any("calibration of" in source for source in slower.peak_tflops.sources)
    put(settings, compute=[{"dtype": "fp16", "tflops": 1e5}], environment={"driver": "9", "torch": "9", "date": "2027-01-01"})
    assert speeds(GPU, "fp16").peak_tflops.nominal == pytest.approx(before.peak_tflops.nominal)


def test_pcie_is_the_slower_pinned_direction_and_pageable_at_the_low_end(settings: Path):
    put(settings)
    link = measured.pcie_gb_s(GPU)
    assert link is not None
    assert (link.low, link.nominal) == (9.0, 24.0)
    assert link.high >= 25.0
    assert link.evidence is Evidence.MEASURED


def test_a_plan_names_the_calibration_and_drops_what_it_replaces(settings: Path):
    put(settings)
    plan = streams("yolov8s", gpu="3090")
    assert plan.limits["decode"].nominal == (700 // 30)
    for limit in plan.limits.values():
        assert any("calibration of NVIDIA GeForce RTX 3090" in source for source in limit.sources), limit.name
    assert plan.card.per_stream.nominal_bytes > 60_000_000 + 20 * MIB


def test_an_average_of_a_mix_counts_the_same_engines(settings: Path):
    put(settings)
    plan = streams("yolov8s", gpu="3090", mix=["1080p30/h264", "1080p30/hevc"])
    limit = plan.limits["decode"]
    assert limit.capacity is not None
    assert limit.capacity.nominal == 1
    assert limit.demand is not None
    assert any("calibration of" in source for source in limit.sources)
