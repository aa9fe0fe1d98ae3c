"""A file of cameras: the mix that a site has.

::

    [[camera]]
    count = 12
    video = "1080p30"
    codec = "h264"

    [[camera]]
    name = "gate"          # for the reader; not used
    count = 4
    video = "4k25"
    codec = "hevc"
    bit_depth = 10
    infer_every = 2
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from vramplan.errors import UsageError, close_matches
from vramplan.video import Codec, Stream, parse_video

KEYS = ("name", "count", "video", "codec", "bit_depth", "infer_every")
MAX_FILE_BYTES = 1 << 20
MAX_COUNT = 1_000_000


def read_cameras(path: str | os.PathLike[str], *, codec: str = Codec.H264, infer_every: int = 1) -> tuple[Stream, ...]:
    """The cameras of the TOML file at *path*; *codec* and *infer_every* hold where a camera names none.

    Raises `UsageError` for a file that cannot be read, unknown keys, and values that make no sense.
    """
    where = f"mix {str(path)[:200]!r}"
    table = _load(Path(path), where)
    unknown = [key for key in table if key != "camera"]
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0][:40]!r}", hint="Known: a list of [[camera]].")
    cameras = table.get("camera")
    if not isinstance(cameras, list) or not cameras or not all(isinstance(camera, dict) for camera in cameras):
        raise UsageError(f"{where} names no [[camera]]", hint='Write at least [[camera]] and video = "1080p30".')
    return tuple(
        _camera(camera, f"{where}, camera {index}", codec, infer_every) for index, camera in enumerate(cameras, start=1)
    )


def _load(path: Path, where: str) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{where} is larger than {MAX_FILE_BYTES} bytes", hint="It should name a few kinds of cameras.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}", hint="Check the path.") from error
    except ValueError as error:
        raise UsageError(f"{where} is not TOML: {error}", hint="See `vramplan streams --help` for an example.") from error


def _camera(camera: Mapping[str, object], where: str, codec: str, infer_every: int) -> Stream:
    for key in camera:
        if key not in KEYS:
            raise UsageError(f"{where}: unknown key {key[:40]!r}", hint=close_matches(key, KEYS))
    video = parse_video(
        _text(camera, "video", where, None),
        codec=_text(camera, "codec", where, codec),
        bit_depth=_whole(camera, "bit_depth", where, 8),
    )
    return Stream(
        video=video,
        count=_whole(camera, "count", where, 1),
        infer_every=_whole(camera, "infer_every", where, infer_every),
    )


def _text(camera: Mapping[str, object], key: str, where: str, default: str | None) -> str:
    value = camera.get(key, default)
    if not isinstance(value, str):
        example = "1080p30" if key == "video" else "h264"
        raise UsageError(f"{where}: {key} must be text", hint=f'Write it like {key} = "{example}".')
    return value


def _whole(camera: Mapping[str, object], key: str, where: str, default: int) -> int:
    value = camera.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
        raise UsageError(f"{where}: {key} must be a whole number from 1", hint=f"Write it like {key} = {max(default, 1)}.")
    return value
