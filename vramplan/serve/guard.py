"""What stands between the board and the network: who may ask, how many at once, what every answer says to a browser.

A page elsewhere on the web must neither read answers (the host's name is checked, against DNS rebinding) nor make the board
work (its requests name their origin). Every response has the headers, errors too; no error tells more than its sentence.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vramplan.serve.worker import error_bytes

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
MOST_AT_ONCE = 32
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]/@\s]+))(:\d{1,5})?")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Hosts:
    """Under which names the board may be asked for: its own, and the loopback's; any address where it listens on all.

    A page that rebinds its name to 127.0.0.1 still asks for its own name. An address cannot be rebound.
    """

    host: str

    def allow(self, written: str) -> bool:
        """Whether a ``Host`` header names this board."""
        name = _name(written)
        if name in LOCAL_NAMES or name == self.host.lower():
            return True
        return self.host in {"0.0.0.0", "::"} and _is_address(name)  # noqa: S104  compared, not bound


def _name(written: str) -> str:
    """The host of ``host:port``, of ``[::1]:port``, or alone."""
    text = written.strip().lower()
    found = _HOST.fullmatch(text)
    return (found["address"] or found["name"]) if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error(status: int, message: str, hint: str = "", headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    return Response(error_bytes(message, hint), status, headers=headers, media_type="application/json")


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, hosts: Hosts, *, most_at_once: int = MOST_AT_ONCE) -> None:
        self.app, self.hosts, self.most_at_once = app, hosts, most_at_once
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            self._count += 1
            try:
                await self._http(scope, receive, send)
            finally:
                self._count -= 1

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _add_headers(message, hangs_up=scope["method"] == "POST" and message["status"] >= 400)
            await send(message)

        try:
            app = self._refusal(scope) or self.app
            await app(scope, receive, sent)
        except Exception as problem:
            _tell(problem)
            if not has_begun:
                await error(500, f"internal error: {type(problem).__name__}", "Please report it.")(scope, receive, sent)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why this request is not answered, if it is not."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._count > self.most_at_once:
            return error(503, f"{self.most_at_once} requests are being answered", "Ask again.", {"retry-after": "1"})
        if len(headers.getlist("host")) != 1 or not self.hosts.allow(host):
            return error(400, "the request is for another host", "Use the address that vramplan serve has printed.")
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and scope["path"] != "/":
            return error(403, "the request comes from another site")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host.strip().lower()}":
            return error(403, "the request comes from another site")
        return None


def _add_headers(message: MutableMapping[str, Any], *, hangs_up: bool) -> None:
    """The headers of every answer; after a refused upload the rest of it is not even listened to."""
    headers = MutableHeaders(raw=message["headers"])
    if hangs_up:
        headers["connection"] = "close"
    for name, value in HEADERS.items():
        headers[name] = value


def _tell(problem: Exception) -> None:
    """One line for who started the board; the traceback where it is asked for."""
    if os.environ.get("VRAMPLAN_TRACEBACK"):
        traceback.print_exception(problem)
    else:
        sys.stderr.write(f"vramplan serve: internal error: {type(problem).__name__}: {str(problem)[:500]!r}\n")
