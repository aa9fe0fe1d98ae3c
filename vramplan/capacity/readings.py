"""Rates that were measured for one plan, on the card that it is made for: `vramplan streams --measure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vramplan.capacity.span import Span
from vramplan.video import Codec, Video

Kind = tuple[Codec, int, int, int]
"""What decides how fast video decodes: its codec, its width and height in px, its bit depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRate:
    """Frames a second of the whole pipeline by a measured forward, of the models at *precision* and *batch*; ``how`` says
    what ran them.
    """

    fps: Span
    precision: str
    batch: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was measured: frames a second of the whole card. ``notes`` say what was not, and why."""

    decode: Mapping[Kind, Span] = field(default_factory=dict)
    infer: InferRate | None = None
    notes: tuple[str, ...] = ()

    def decode_fps(self, video: Video) -> Span | None:
        """The rate for *video*; None when that kind was not measured."""
        return self.decode.get(kind_of(video))

    def infer_rate(self, precision: str) -> InferRate | None:
        """The rate of the models at *precision*; None when another one was measured."""
        return self.infer if self.infer is not None and self.infer.precision == precision else None


def kind_of(video: Video) -> Kind:
    """The kind of *video*, whatever its frame rate."""
    return video.codec, video.width_px, video.height_px, video.bit_depth
