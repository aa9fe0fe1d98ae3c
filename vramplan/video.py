"""A video stream: resolution, frame rate, codec. What cameras send, before any GPU is involved.

Everything here is read from text that a person types::

    1080p30      1920 x 1080 at 30 frames a second          12x1080p30/h264     twelve such cameras
    4k25         3840 x 2160 at 25                          4x4k25/hevc10       four, 10 bits a sample
    1280x720@15  any size, any rate                         720p@12.5/av1       fractions of a frame are fine
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from vramplan.errors import UsageError, close_matches

MACROBLOCK_PX = 16
"""Side of a macroblock. Decoders work on whole ones: 1080 rows are coded as 1088."""

DEFAULT_FPS = 30.0
MAX_SIDE_PX = 16384
MAX_FPS = 1000.0


class Codec(StrEnum):
    """How the frames are compressed."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"
    VP9 = "vp9"
    MJPEG = "mjpeg"


_CODEC_NAMES = {
    "h264": Codec.H264, "h.264": Codec.H264, "avc": Codec.H264, "x264": Codec.H264,
    "hevc": Codec.HEVC, "h265": Codec.HEVC, "h.265": Codec.HEVC, "x265": Codec.HEVC,
    "av1": Codec.AV1, "vp9": Codec.VP9, "mjpeg": Codec.MJPEG, "mjpg": Codec.MJPEG, "jpeg": Codec.MJPEG,
}  # fmt: skip

_BIT_DEPTHS = {Codec.H264: (8,), Codec.MJPEG: (8,), Codec.HEVC: (8, 10, 12), Codec.VP9: (8, 10, 12), Codec.AV1: (8, 10)}
"""Sample depths that NVDEC decodes in 4:2:0 (Video Codec SDK 13.0, table of supported formats)."""

_NAMED_SIZES = {
    "sd": (720, 576), "hd": (1280, 720), "fhd": (1920, 1080), "qhd": (2560, 1440), "uhd": (3840, 2160), "2k": (2560, 1440),
    "4k": (3840, 2160), "5k": (5120, 2880), "6k": (6144, 3456), "8k": (7680, 4320), "cif": (352, 288), "d1": (720, 576),
    "vga": (640, 480), "xga": (1024, 768),
}  # fmt: skip

_LINES = {
    240: 426, 288: 352, 360: 640, 480: 854, 540: 960, 576: 720, 720: 1280, 960: 1280, 1080: 1920, 1440: 2560, 1520: 2688,
    1536: 2048, 1620: 2880, 1728: 3072, 1800: 3200, 1920: 2560, 2160: 3840, 2880: 5120, 3456: 6144, 4320: 7680,
}  # fmt: skip
"""Width that goes with a number of lines: the 16:9 sizes, and the 4:3 and 5:4 ones that cameras sell by their lines."""

_RATE = r"(?:@?\s*(?P<fps>\d+(?:\.\d+)?)\s*(?:fps)?)?"
_SIZE = re.compile(r"(?P<width>\d+)\s*[x×]\s*(?P<height>\d+)(?:@\s*(?P<fps>\d+(?:\.\d+)?)\s*(?:fps)?)?")
_LINED = re.compile(r"(?P<lines>\d+)p" + _RATE)
_NAMED = re.compile(r"(?P<name>" + "|".join(sorted(_NAMED_SIZES, key=len, reverse=True)) + ")" + _RATE)
_STREAM = re.compile(r"(?:(?P<count>\d+)\s*[x×*]\s*(?=[^/]*(?:p|k|hd|[x×]\d)))?(?P<video>[^/]+)(?:/(?P<codec>[^/]+))?")

_HOW = "Write it like 1080p30, 4k25, 720p or 1280x720@15 (width x height @ frames a second)."
_HOW_STREAM = "Write it like 12x1080p30/h264 or 4k25/hevc10: [COUNTx]VIDEO[/CODEC[BITS]]."


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One kind of video. ``bit_depth`` is the bits of a luma sample; chroma is 4:2:0.

    Invariant: both sides are 16 to 16384 px, 0 < fps <= 1000, and the codec has that bit depth.
    """

    width_px: int
    height_px: int
    fps: float = DEFAULT_FPS
    codec: Codec = Codec.H264
    bit_depth: int = 8

    def __post_init__(self) -> None:
        for what, side in (("width", self.width_px), ("height", self.height_px)):
            if not MACROBLOCK_PX <= side <= MAX_SIDE_PX:
                raise UsageError(f"video {what} {side} is not between {MACROBLOCK_PX} and {MAX_SIDE_PX} px", hint=_HOW)
        if not (math.isfinite(self.fps) and 0 < self.fps <= MAX_FPS):
            raise UsageError(f"video frame rate {self.fps:g} is not above 0 and at most {MAX_FPS:g} fps", hint=_HOW)
        if self.bit_depth not in _BIT_DEPTHS[self.codec]:
            allowed = ", ".join(map(str, _BIT_DEPTHS[self.codec]))
            raise UsageError(f"{self.codec} has no {self.bit_depth}-bit video", hint=f"Bit depths of {self.codec}: {allowed}.")

    @property
    def coded_width_px(self) -> int:
        """The width rounded up to whole macroblocks."""
        return -(-self.width_px // MACROBLOCK_PX) * MACROBLOCK_PX

    @property
    def coded_height_px(self) -> int:
        """The height rounded up to whole macroblocks."""
        return -(-self.height_px // MACROBLOCK_PX) * MACROBLOCK_PX

    @property
    def macroblock_count(self) -> int:
        """Macroblocks of a frame: 120 x 68 = 8160 at 1080p."""
        return self.coded_width_px * self.coded_height_px // MACROBLOCK_PX**2

    @property
    def frame_bytes(self) -> int:
        """A decoded frame as it is shown, NV12 (8 bits) or P016 (more): 1920 x 1080 x 3/2 = 3,110,400 B."""
        return self.width_px * self.height_px * 3 // 2 * (1 if self.bit_depth == 8 else 2)

    @property
    def coded_frame_bytes(self) -> int:
        """A decoded frame with its padding to whole macroblocks: 1920 x 1088 x 3/2 = 3,133,440 B."""
        return self.coded_width_px * self.coded_height_px * 3 // 2 * (1 if self.bit_depth == 8 else 2)

    def __str__(self) -> str:
        depth = "" if self.bit_depth == 8 else f"{self.bit_depth}"
        lined = _LINES.get(self.height_px) == self.width_px
        size = f"{self.height_px}p{self.fps:g}" if lined else f"{self.width_px}x{self.height_px}@{self.fps:g}"
        return f"{size} {self.codec}{depth}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """``count`` cameras of one kind; the model sees every ``infer_every``-th frame of each.

    Invariant: count and infer_every are at least 1.
    """

    video: Video
    count: int = 1
    infer_every: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"{self.count} streams make no sense", hint="Give at least one.")
        if self.infer_every < 1:
            raise UsageError(f"infer-every {self.infer_every} makes no sense", hint="1 looks at every frame, 2 at every other.")

    @property
    def infer_fps(self) -> float:
        """Frames a second of one camera that reach the model."""
        return self.video.fps / self.infer_every

    def __str__(self) -> str:
        return f"{self.count} × {self.video}"


def parse_codec(text: str) -> Codec:
    """The codec that *text* names (``h265`` = ``hevc``). `UsageError` with the known names for anything else."""
    word = text.strip().lower()
    if word not in _CODEC_NAMES:
        known = ", ".join(Codec)
        raise UsageError(f"unknown codec {text[:40]!r}", hint=f"Known: {known}. {close_matches(word, _CODEC_NAMES)}".strip())
    return _CODEC_NAMES[word]


def parse_video(text: str, *, codec: str | Codec = Codec.H264, bit_depth: int = 8) -> Video:
    """Read ``1080p30``, ``4k25``, ``720p`` or ``1280x720@15``; the rate is 30 when it is left out.

    Raises `UsageError` for anything else, and for sizes and rates that make no sense.
    """
    word = text.strip().lower()
    width, height, fps = _size(word, text)
    chosen = codec if isinstance(codec, Codec) else parse_codec(codec)
    rate = float(fps) if fps is not None else DEFAULT_FPS
    return Video(width_px=width, height_px=height, fps=rate, codec=chosen, bit_depth=bit_depth)


def parse_stream(text: str, *, codec: str | Codec = Codec.H264, bit_depth: int = 8, infer_every: int = 1) -> Stream:
    """Read ``12x1080p30/h264`` or ``4k25/hevc10``: how many, which video, which codec and bit depth.

    *codec* and *bit_depth* hold where the text names none. Raises `UsageError`.
    """
    match = _STREAM.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"cannot read {text[:80]!r} as a stream", hint=_HOW_STREAM)
    if match["codec"]:
        codec, bit_depth = _codec_and_depth(match["codec"])
    video = parse_video(match["video"], codec=codec, bit_depth=bit_depth)
    return Stream(video=video, count=int(match["count"] or 1), infer_every=infer_every)


def _size(word: str, text: str) -> tuple[int, int, str | None]:
    if match := _SIZE.fullmatch(word):
        return int(match["width"]), int(match["height"]), match["fps"]
    if match := _NAMED.fullmatch(word):
        width, height = _NAMED_SIZES[match["name"]]
        return width, height, match["fps"]
    match = _LINED.fullmatch(word)
    if match and int(match["lines"]) in _LINES:
        return _LINES[int(match["lines"])], int(match["lines"]), match["fps"]
    if match:
        raise UsageError(f"no usual width goes with {match['lines'][:12]} lines", hint="Write the size out: 2304x1296@25.")
    raise UsageError(f"cannot read {text[:80]!r} as a video", hint=_HOW)


def _codec_and_depth(text: str) -> tuple[Codec, int]:
    """``hevc10`` is HEVC at 10 bits; ``h264`` and ``av1`` are names, not depths."""
    word = text.strip()
    for depth in (8, 10, 12):
        name = word.removesuffix(str(depth)).rstrip("-_ ")
        if name != word and name in _CODEC_NAMES:
            return _CODEC_NAMES[name], depth
    return parse_codec(word), 8
