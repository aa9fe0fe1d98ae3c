"""Decode rates: engines, clocks, codecs, and what happens where a fact is missing."""

from __future__ import annotations

import pytest

from vramplan.capacity.decode import Decoder, NoDecoder, decoder_of, note_rates
from vramplan.gpus import all_gpus, custom_gpu, find_gpu
from vramplan.video import Codec, parse_video


def decoder(card, video="1080p30", codec="h264", **given):
    return decoder_of(find_gpu(card), parse_video(video, codec=codec), **given)


def test_the_note_scaled_by_clock():
    """748 fps at 1665 MHz, an RTX 3090 clocks its decoder at 1950."""
    assert decoder("3090").fps.nominal == pytest.approx(748 * 1950 / 1665)
    assert decoder("3090").fps.missing == ()


def test_a_3090_decodes_22_to_29_streams():
    span = decoder("3090").fps
    assert 22 <= span.nominal / 30 <= 29.5
    assert span.low / 30 < 22


def test_engines_multiply():
    assert decoder("t4").fps.nominal == pytest.approx(2 * 771 * 1470 / 1860)
    assert decoder("t4", engine_count=4).fps.nominal == pytest.approx(4 * 771 * 1470 / 1860)


def test_pixels_divide():
    assert decoder("3090", "4k30").fps.nominal == pytest.approx(decoder("3090").fps.nominal * 8160 / 32400)


def test_codecs_a_card_cannot_decode_are_said():
    for card in ("t4", "a100-pcie-40gb", "a30", "h100-sxm", "h200"):
        found = decoder(card, codec="av1")
        assert isinstance(found, NoDecoder)
        assert found.supported is False
        assert "av1" in found.reason
    assert isinstance(decoder("l4", codec="av1"), Decoder)


def test_mjpeg_rates_are_not_known_and_that_is_said():
    found = decoder("3090", codec="mjpeg")
    assert isinstance(found, NoDecoder)
    assert found.supported is None
    assert "NVJPG" in found.reason
    assert decoder("3090", codec="mjpeg", fps=500).fps.nominal == 500


def test_jetsons_use_what_their_data_sheet_says():
    assert decoder("agx orin 64", codec="hevc").fps.nominal == 22 * 30
    assert decoder("agx orin 64", codec="av1").fps.nominal == 18 * 30
    related = decoder("jetson-orin-nano-8gb")
    assert related.fps.nominal == pytest.approx(11 * 30 * 13 / 22)
    assert related.fps.missing


def test_blank_engines_and_clocks_are_a_range_with_the_fact_named():
    span = decoder("l20").fps
    assert span.low < span.nominal < span.high
    assert any("NVDEC engines" in fact for fact in span.missing)
    assert any("video clock" in fact for fact in span.missing)


def test_a_measured_rate_replaces_the_catalogue():
    span = decoder("3090", fps=900.0).fps
    assert (span.low, span.nominal, span.high) == (900, 900, 900)


def test_every_card_and_codec_has_an_answer():
    for gpu in (*all_gpus(), custom_gpu(24 << 30)):
        for codec in Codec:
            found = decoder_of(gpu, parse_video("1080p30", codec=codec))
            assert isinstance(found, NoDecoder) or found.fps.low > 0


def test_the_note_has_every_row_of_the_catalogue():
    assert {gpu.nvdec_table_row for gpu in all_gpus()} - {None} == {row for row, _, _ in note_rates()}
