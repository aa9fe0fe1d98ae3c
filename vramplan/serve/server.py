"""Runs the board until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vramplan.errors import UsageError
from vramplan.serve.app import Board, Settings, make_app
from vramplan.serve.guard import HEADERS
from vramplan.serve.worker import error_bytes

MOST_CONNECTIONS = 200
HEAD_S = 15.0
"""Seconds until a connection must have asked something."""

_BACKLOG = 64
_HEAD_BYTES = 32 * 1024
_END_S = 3


class _Protocol(H11Protocol):
    """HTTP as uvicorn speaks it; what is no HTTP is refused like everything else here, and nobody just holds the line."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self.loop.call_later(HEAD_S, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        body = error_bytes(msg)
        head = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **HEADERS}
        headers = [(name.encode(), value.encode()) for name, value in head.items()]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """Says when it answers; Ctrl-C ends what is being computed too, so that nobody waits for it."""

    def __init__(self, config: uvicorn.Config, board: Board, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._board, self._ready = board, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._board.close()


def run(settings: Settings, port: int, ready: Callable[[str], None]) -> None:
    """Listen on *port* (0: any that is free) and answer until Ctrl-C; *ready* gets the address.

    Raises `UsageError` when nothing can listen there.
    """
    with listen(settings.host, port) as listening, contextlib.suppress(KeyboardInterrupt):
        url = address(settings.host, listening.getsockname()[1])
        make_server(Board(settings), lambda: ready(url)).run(sockets=[listening])


def make_server(board: Board, ready: Callable[[], None]) -> uvicorn.Server:
    """The server of *board*, which is told its socket when it runs; *ready* is called once it answers."""
    config = uvicorn.Config(
        make_app(board),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_graceful_shutdown=_END_S,
    )
    return _Server(config, board, ready)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. `UsageError` when the port is taken or the host is none of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        hint = "Choose another with --port, or 0 for any that is free."
        raise UsageError(f"cannot listen on {host[:80]} port {port}: {why}", hint=hint) from None
    # Head and body are two writes: without this the second waits some 40 ms for the browser's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(host: str, port: int) -> str:
    """What to type into a browser."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  a name
    return f"http://{shown}:{port}/"
