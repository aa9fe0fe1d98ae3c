"""A board that really listens, and somebody who asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.serve.models import tiny_onnx

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from vramplan.serve.app import Board, Settings
from vramplan.serve.server import listen, make_server

MAX_UPLOAD_BYTES = 200_000


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]["message"]


@dataclass(frozen=True)
class Asking:
    """Plain HTTP to a board, with nothing added that a test does not name."""

    port: int
    board: Board

    def __call__(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: Any = None) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **asked: object) -> Answered:
        return self(f"{path}?{urlencode(asked, quote_via=quote)}")

    def upload(self, content: bytes, name: str = "model.onnx", **headers: str) -> Answered:
        head = {"content-type": "application/octet-stream", **{key.replace("_", "-"): text for key, text in headers.items()}}
        return self(f"/api/upload?{urlencode({'name': name})}", "POST", head, content)

    def raw(self, request: bytes) -> bytes:
        """Bytes that no client would send, and all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextlib.contextmanager
def serving(board: Board) -> Iterator[Asking]:
    with listen("127.0.0.1", 0) as listening:
        server = make_server(board, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield Asking(listening.getsockname()[1], board)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one model, and a secret beside the folder."""
    place = tmp_path_factory.mktemp("site")
    (place / "secret.onnx").write_bytes(tiny_onnx())
    work = place / "work"
    (work / "sub").mkdir(parents=True)
    (work / "tiny.onnx").write_bytes(tiny_onnx())
    (work / "sub" / "deep.onnx").write_bytes(tiny_onnx())
    (work / "notes.txt").write_text("not a model")
    (work / "out.onnx").symlink_to(place / "secret.onnx")
    (work / "away").symlink_to(place)
    return work


@pytest.fixture(scope="session")
def ask(folder: Path) -> Iterator[Asking]:
    with serving(Board(Settings(folder=folder, max_upload_bytes=MAX_UPLOAD_BYTES))) as asking:
        yield asking


@pytest.fixture
def serve_board() -> Callable[[Board], contextlib.AbstractContextManager[Asking]]:
    return serving
