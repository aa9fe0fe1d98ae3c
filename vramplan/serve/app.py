"""The board's addresses: the page, its files, what can be chosen, and the answers."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vramplan.device.this_gpu import this_gpu
from vramplan.errors import MachineError, ModelError, VramplanError
from vramplan.gpus import all_gpus, find_gpu
from vramplan.report.html.page import BARRED, CHARTED, STYLES
from vramplan.serve.desk import BUSY, GONE, Answers, Desk, Reply
from vramplan.serve.guard import Guard, Hosts, error
from vramplan.serve.questions import ModelQuestion, Named, Question, key_of, read_estimate, read_model, read_streams
from vramplan.serve.shelf import MAX_UPLOAD_BYTES, Shelf, TooLargeError
from vramplan.serve.worker import OK, to_bytes
from vramplan.sources.zoo import zoo
from vramplan.video import Codec

TIMEOUT_S = 20.0
UPLOAD_TIMEOUT_S = 300.0
_OWN = ("board.css", "board.js", "controls.js")
_SHARED = tuple(dict.fromkeys(name for name in (*CHARTED, *BARRED) if name != "start.js"))
"""The scripts of the pages that reports are written to, without the one that draws what lies in the page itself."""

_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}

_READERS: dict[str, Callable[..., Question]] = {"model": read_model, "estimate": read_estimate, "streams": read_streams}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one board is set up. ``host`` is where it listens; one question may take ``timeout_s``."""

    folder: Path
    host: str = "127.0.0.1"
    timeout_s: float = TIMEOUT_S
    max_upload_bytes: int = MAX_UPLOAD_BYTES


class Board:
    """One running board: its models, and two desks. Advice, which takes longer, never keeps a slider waiting."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="vramplan-serve-")
        except OSError as problem:
            raise MachineError(f"cannot make a temporary folder: {problem.strerror}", hint="TMPDIR names another.") from None
        uploads, scratch = Path(self._folder.name, "uploads"), Path(self._folder.name, "scratch")
        uploads.mkdir()
        scratch.mkdir()
        answers = Answers()
        self.now = Desk(answers, scratch, timeout_s=settings.timeout_s)
        self.later = Desk(answers, scratch, timeout_s=settings.timeout_s)
        self.receiving = asyncio.Lock()
        self.shelf = Shelf(folder=settings.folder, uploads=uploads, max_upload_bytes=settings.max_upload_bytes)

    @contextlib.asynccontextmanager
    async def opened(self, _: Starlette) -> AsyncIterator[None]:
        """Processes are there while the server runs; they and all temporary files are gone afterwards."""
        self.now.process.start()
        self.later.process.start()
        try:
            yield
        finally:
            self.close()
            self.now.process.end()
            self.later.process.end()
            self._folder.cleanup()

    def close(self) -> None:
        """Stop computing at once; safe in a signal handler."""
        self.now.process.close()
        self.later.process.close()

    async def ask(self, question: Question, request: Request) -> Reply:
        """The answer, from the desk that is for such questions."""
        desk = self.later if getattr(question, "advice", False) else self.now
        return await desk.ask(key_of(question), request.is_disconnected)


def make_app(board: Board) -> Guard:
    """The application; `Guard` is its outermost layer."""

    def answering(read: Callable[..., Question]) -> Callable[[Request], object]:
        async def answer(request: Request) -> Response:
            question = read(request.query_params.multi_items(), board.shelf.find)
            return _response(await board.ask(question, request))

        return answer

    def ahead(read: Callable[..., Question]) -> Callable[[Request], object]:
        async def solve(request: Request) -> Response:
            question = read(request.query_params.multi_items(), board.shelf.find)
            reply = await board.later.ask(key_of(question), request.is_disconnected)
            return Response(status_code=204) if reply[0] == OK else _response(reply)

        return solve

    async def choices(_: Request) -> Response:
        return Response(to_bytes(await to_thread.run_sync(_choices, board.shelf)), media_type="application/json")

    async def upload(request: Request) -> Response:
        return await _upload(board, request)

    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/static/{name}", _static),
            Route("/api/choices", choices),
            *(Route(f"/api/{kind}", answering(read)) for kind, read in _READERS.items()),
            *(Route(f"/api/ahead/{kind}", ahead(read)) for kind, read in _READERS.items()),
            Route("/api/upload", upload, methods=["POST"]),
        ],
        lifespan=board.opened,
        exception_handlers={HTTPException: _refused, VramplanError: _failed, Exception: _broken},
    )
    return Guard(app, Hosts(board.settings.host))


def _response(reply: Reply) -> Response:
    status, body = reply
    return Response(body, status, media_type="application/json")


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)  # noqa: S101  the handler of that class
    return error(problem.status_code, problem.detail, headers=dict(problem.headers or {}))


async def _failed(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, VramplanError)  # noqa: S101  the handler of that class
    return error(422 if isinstance(problem, ModelError) else 400, problem.message, problem.hint)


async def _broken(_: Request, problem: Exception) -> Response:
    return error(500, f"internal error: {type(problem).__name__}", "Please report it.")


async def _page(_: Request) -> Response:
    styles = "\n".join(f'<link rel="stylesheet" href="/static/{name}">' for name in (*STYLES, "board.css"))
    scripts = "\n".join(f'<script src="/static/{name}" defer></script>' for name in (*_SHARED, "controls.js", "board.js"))
    text = files(__package__).joinpath("static", "board.html").read_text(encoding="utf-8")
    return Response(Template(text).substitute(styles=styles, scripts=scripts), media_type="text/html")


async def _static(request: Request) -> Response:
    """A file of the page, by its name: no path is made of what is asked for."""
    name = request.path_params["name"]
    if name in _OWN:
        text = files(__package__).joinpath("static", name).read_bytes()
    elif name in (*STYLES, *_SHARED):
        text = files("vramplan.report.html").joinpath(name).read_bytes()
    else:
        raise HTTPException(404, f"there is no file {escape(name[:80])!r}")
    return Response(text, media_type=_KINDS[Path(name).suffix])


def _choices(shelf: Shelf) -> dict[str, object]:
    return {
        "models": [{"name": model.name, "title": model.title} for model in zoo().values()],
        "files": shelf.listed(),
        "uploads": shelf.uploaded,
        "gpus": [{"key": gpu.key, "name": gpu.name, "family": gpu.family} for gpu in all_gpus()],
        "own_gpu": _own_gpu(),
        "codecs": [codec.value for codec in Codec],
        "max_upload_bytes": shelf.max_upload_bytes,
    }


def _own_gpu() -> str | None:
    """The key of this machine's own card, where it has one of the catalogue."""
    try:
        return find_gpu(this_gpu().key).key
    except VramplanError:
        return None


async def _upload(board: Board, request: Request) -> Response:
    """``POST /api/upload?name=model.onnx`` with the file as the body: it is kept only if it can be read as ONNX."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/octet-stream":
        return error(415, "an upload is application/octet-stream", "Send the bytes of the .onnx file as the body.")
    if board.receiving.locked():
        return error(BUSY, "another file is being received", "Send one after the other.")
    async with board.receiving:
        named = await _taken(board, request)
    if isinstance(named, Response):
        return named
    status, body = await board.now.ask(key_of(ModelQuestion(model=named)), request.is_disconnected)
    if status != OK:
        board.shelf.drop(named.name)
        return _response((status, body))
    kept = {"model": named.name, "name": board.shelf.uploaded[named.name]}
    return Response(to_bytes(kept), 201, media_type="application/json")


async def _taken(board: Board, request: Request) -> Named | Response:
    """The file as it arrives, or why it is not taken. One that says beforehand that it is too large is not even read."""
    length = request.headers.get("content-length", "")
    try:
        board.shelf.check_size(int(length) if length.isdigit() else 0)
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            return await board.shelf.take(request.query_params.get("name", ""), request.stream())
    except TooLargeError as problem:
        return error(413, str(problem), "Put it into the folder that the board is started in.")
    except TimeoutError:
        return error(408, f"the file did not arrive within {UPLOAD_TIMEOUT_S:g} s")
    except ClientDisconnect:
        return error(GONE, "the upload was broken off")
