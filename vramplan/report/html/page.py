"""One HTML file: the template, its style and scripts, and the content as a block of JSON. Nothing is loaded from anywhere.

Text from models is untrusted. It is in the page twice: inside the JSON block, where ``<``, ``>`` and ``&`` are escaped so that
nothing can end the block, and escaped in the plain report for readers without scripts. Scripts put it into the page as text
nodes only, and the content security policy lets no other script or style run: they are named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from vramplan.fleet import StreamsPlan
from vramplan.replaying import Replay
from vramplan.report.content import Report
from vramplan.report.html.content import estimate_page_content, replay_page_content, verification_page_content
from vramplan.report.html.streams import streams_page_content
from vramplan.report.streams_terminal import streams_text
from vramplan.report.terminal import estimate_text
from vramplan.report.verified_text import verification_text
from vramplan.report.words import shorten
from vramplan.verification import Verification

STYLES = ("uplot.min.css", "page.css")
CHARTED = ("uplot.min.js", "base.js", "charts.js", "estimate.js", "start.js")
"""The scripts of a page with a timeline."""

OVERLAID = ("uplot.min.js", "base.js", "charts.js", "overlay.js", "estimate.js", "start.js")
"""The scripts of a page with a prediction over a measurement."""

BARRED = ("base.js", "streams.js", "start.js")
"""The scripts of a page that needs no chart."""

TITLE_WIDTH = 80

_IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def estimate_page(report: Report) -> str:
    """The page of an estimate."""
    return _page(estimate_page_content(report), estimate_text(report))


def replay_page(found: Replay, report: Report) -> str:
    """The page of a recorded run."""
    return _page(replay_page_content(found, report), estimate_text(report))


def verification_page(found: Verification) -> str:
    """The page of an estimate beside a measurement."""
    return _page(verification_page_content(found), verification_text(found), scripts=OVERLAID)


def streams_page(plan: StreamsPlan) -> str:
    """The page of a plan."""
    return _page(streams_page_content(plan), streams_text(plan), scripts=BARRED, what="video streams")


def _page(content: Mapping[str, Any], plain: str, *, scripts: Sequence[str] = CHARTED, what: str = "GPU memory") -> str:
    """*content* in the template; *plain* is what readers without scripts see."""
    style = "\n".join(_read(name) for name in STYLES)
    texts = [_read(name) for name in scripts]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, texts))}; style-src {_hash(style)};"
        " base-uri 'none'; form-action 'none'"
    )
    name = shorten(content["report"]["model"]["name"], TITLE_WIDTH)
    return Template(_read("template.html")).substitute(
        policy=escape(policy),
        title=escape(f"{name}: {what}, vramplan"),
        style=style,
        plain=escape(plain),
        content=embedded(content),
        scripts="\n".join(f"<script>{script}</script>" for script in texts),
    )


def embedded(content: Mapping[str, Any]) -> str:
    """*content* as JSON that is safe inside a script element: only ASCII, and no character that HTML knows."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for char, code in _IN_SCRIPT.items():
        text = text.replace(char, code)
    return text


def _hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
