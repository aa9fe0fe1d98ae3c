"""The GPU memory of one decoder session.

A session holds decoded frames: those the codec may still refer to, and those in flight between the decoder and the
program. The driver gives each frame a block of whole 2 MiB pages. So::

    session = FIXED + (reference frames + frames in flight) x round up to 2 MiB (coded frame)

The constants are fitted to memory read on one H200 (driver 580.159.04) while 1 to 32 sessions decoded in one process; the
growth for each session after the first, against this rule:

    h264 720p    36.8 MiB, rule 37.5      h264 1080p   66.2 MiB, rule 63.5
    h264 2160p  184.9 MiB, rule 187.5     hevc 1080p   88.1 MiB, rule 87.5

The first session of a process takes a little more than the later ones: that is `PROCESS_BYTES`, paid once.

A calibration has what a session of its clip took on the card itself; `session_bytes_on` takes that for the nominal value.

Known limits: interlaced and 4:2:2 or 4:4:4 video, and AV1 film grain (which keeps every frame twice), are not modelled;
VP9, AV1 and MJPEG follow the same rule without a measurement.
"""

from __future__ import annotations

from vramplan.capacity import measured
from vramplan.gpus import Calibration, Gpu
from vramplan.ranges import Evidence, Range
from vramplan.units import MIB
from vramplan.video import Codec, Video

FIXED_BYTES = round(7.5 * MIB)
"""Bit-stream buffers and the session's own state: the part that does not grow with the picture (fit, see above)."""

PROCESS_BYTES = 2 * MIB
"""What the first session of a process adds beyond its own memory: 0.7 to 3.4 MB on the H200."""

PAGE_BYTES = 2 * MIB
"""The driver maps GPU memory in pages of 2 MiB."""

IN_FLIGHT = {
    Codec.H264: (4, 10, 12), Codec.HEVC: (4, 4, 12), Codec.VP9: (4, 4, 12), Codec.AV1: (4, 4, 12), Codec.MJPEG: (1, 8, 12),
}  # fmt: skip
"""Frames beyond the references, low – nominal – high. Four is what NVIDIA's sample decoder adds to the references of HEVC,
VP9 and AV1; H.264 held ten more than its level allows on the H200; a program with a deep queue holds a dozen."""

_H264_LEVELS = ((18_000, 3_600), (20_480, 5_120), (32_768, 8_192), (34_816, 8_704), (110_400, 22_080), (184_320, 36_864),
                (696_320, 139_264))  # fmt: skip
"""MaxDpbMbs and MaxFS, in macroblocks, of levels 3.1 to 6 (ITU-T H.264, table A-1); smaller pictures use level 3.1."""

_HEVC_LARGEST_PX = 35_651_584
"""MaxLumaPs of level 6.2 (ITU-T H.265, table A.8): decoders reserve for the highest level, not for the stream's own."""


def reference_frames(video: Video) -> tuple[int, int, int]:
    """Frames a decoder keeps for reference: fewest (one, as cameras without B frames need), usual, and most.

    H.264: what the lowest level for the picture allows, at most 16. HEVC: six, doubled and doubled again for pictures of a
    half and a quarter of the largest, at most 16. VP9 and AV1: their eight slots. MJPEG: none.
    """
    if video.codec is Codec.H264:
        return 1, _h264_references(video.macroblock_count), 16
    if video.codec is Codec.HEVC:
        return 1, _hevc_references(video.coded_width_px * video.coded_height_px), 16
    return (0, 0, 0) if video.codec is Codec.MJPEG else (8, 8, 8)


def _h264_references(macroblocks: int) -> int:
    for buffer_macroblocks, largest in _H264_LEVELS:
        if macroblocks <= largest:
            return min(16, buffer_macroblocks // macroblocks)
    return 4


def _hevc_references(picture_px: int) -> int:
    for divisor, frames in ((4, 24), (2, 12), (1, 6)):
        if picture_px <= _HEVC_LARGEST_PX // divisor:
            return min(16, frames)
    return 6


def session_bytes(video: Video, *, reference_count: int | None = None, in_flight_count: int | None = None) -> Range:
    """What one more session takes on the GPU. Give the counts of frames where they are known; each narrows the range.

    Raises ValueError for a negative count.
    """
    references = reference_frames(video) if reference_count is None else (reference_count,) * 3
    in_flight = IN_FLIGHT[video.codec] if in_flight_count is None else (in_flight_count,) * 3
    if min(*references, *in_flight) < 0:
        raise ValueError(f"a session cannot hold {reference_count} references and {in_flight_count} frames in flight")
    page_bytes = -(-video.coded_frame_bytes // PAGE_BYTES) * PAGE_BYTES
    low, nominal, high = (FIXED_BYTES + frames * page_bytes for frames in map(sum, zip(references, in_flight, strict=True)))
    return Range(low_bytes=low, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED)


def session_bytes_on(gpu: Gpu, video: Video) -> tuple[Range, Calibration | None]:
    """What one more session takes on *gpu*, and the calibration behind it (None: the rule alone).

    Nominal is the measured clip's; for another size the rule's, by the ratio of the two for the clip. The ends stay the rule's
    where they are wider: they come from streams with other references and programs with other queues, not from the card.
    """
    rule = session_bytes(video)
    found = measured.session_bytes(gpu, video)
    if found is None:
        return rule, None
    clip, calibration = found
    of_clip = Video(width_px=clip.width, height_px=clip.height, codec=video.codec)
    is_same = of_clip.macroblock_count == video.macroblock_count
    nominal = (clip.session_bytes or 0) * rule.nominal_bytes // session_bytes(of_clip).nominal_bytes
    return Range(
        low_bytes=min(rule.low_bytes, nominal),
        nominal_bytes=nominal,
        high_bytes=max(rule.high_bytes, nominal),
        evidence=Evidence.MEASURED if is_same else Evidence.BOUNDED,
    ), calibration
