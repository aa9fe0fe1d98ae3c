"""Output for terminals and files that take only ASCII: lines and signs become the nearest character, column for column."""

from __future__ import annotations

import codecs

HANDLER = "vramplan-plain"
"""The error handler's name, for ``reconfigure(errors=...)``."""

_NEAREST = {
    **dict(zip("─–—−·•×…≤≥→←µ", "----.*x.<>><u", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇", "_.-=+*%", strict=True)),
    **dict.fromkeys("█▉▊▋▌", "#"),
    **dict.fromkeys("▍▎▏", "|"),
    **dict(zip("✓✗“”‘’", "+x\"\"''", strict=True)),
}


def nearest(error: UnicodeError) -> tuple[str, int]:
    """The characters that could not be written, each as one that can: ``?`` where nothing is near."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAREST.get(char, "?") for char in error.object[error.start : error.end]), error.end


def register() -> None:
    """Make `HANDLER` known."""
    codecs.register_error(HANDLER, nearest)
