"""What a hostile page, name, file or client can do to the board: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from onnx import TensorProto, load_from_string

from tests.serve.conftest import MAX_UPLOAD_BYTES, Answered, Asking
from tests.serve.models import chain_onnx, tiny_onnx
from vramplan.serve.app import Board, Settings
from vramplan.serve.desk import Answers, Desk, Process
from vramplan.serve.guard import HEADERS, Hosts
from vramplan.serve.questions import Named, key_of, read_estimate
from vramplan.serve.solver import Solver
from vramplan.serve.worker import answer
from vramplan.units import GIB

Serve = Callable[[Board], AbstractContextManager[Asking]]


def is_guarded(answer: Answered) -> bool:
    return HEADERS.items() <= answer.headers.items()


# ---- who may ask ----
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "[::1"])
def test_a_rebound_name_gets_nothing(ask: Asking, host: str):
    answer = ask("/api/choices", headers={"Host": host})
    assert answer.status == 400
    assert is_guarded(answer)
    assert b"yolov8" not in answer.body


def test_two_hosts_are_none(ask: Asking):
    said = ask.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000"])
def test_the_board_s_own_names_are_answered(ask: Asking, host: str):
    assert ask("/api/choices", headers={"Host": host}).status == 200


def test_a_board_on_all_addresses_answers_to_addresses_only():
    hosts = Hosts("0.0.0.0")
    assert hosts.allow("192.168.1.5:8000")
    assert not hosts.allow("evil.example:8000")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_another_origin_may_not_send(ask: Asking, origin: str):
    answer = ask.upload(tiny_onnx(), origin=origin)
    assert answer.status == 403
    assert is_guarded(answer)


def test_the_board_s_own_origin_may_send(ask: Asking):
    assert ask.upload(tiny_onnx(), origin=f"http://127.0.0.1:{ask.port}").status == 201


def test_another_site_may_not_make_the_board_work(ask: Asking):
    assert ask("/api/estimate?model=yolov8n", headers={"Sec-Fetch-Site": "cross-site"}).status == 403


def test_a_form_cannot_upload(ask: Asking):
    for kind in ("multipart/form-data; boundary=x", "text/plain", "application/x-www-form-urlencoded"):
        assert ask.upload(tiny_onnx(), content_type=kind).status == 415


# ---- headers ----
@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 200),
        ("/static/board.js", "GET", 200),
        ("/api/choices", "GET", 200),
        ("/nothing", "GET", 404),
        ("/static/../solver.py", "GET", 404),
        ("/static/..%2fsolver.py", "GET", 404),
        ("/api/estimate", "DELETE", 405),
        ("/api/upload", "GET", 405),
        ("/api/estimate?batch=x", "GET", 400),
        ("/api/estimate?model=x.onnx", "GET", 422),
    ],
)
def test_every_answer_has_the_headers(ask: Asking, path: str, method: str, status: int):
    answer = ask(path, method)
    assert answer.status == status
    assert is_guarded(answer)
    assert "server" not in answer.headers


def test_what_is_no_http_is_refused_with_the_headers(ask: Asking):
    said = ask.raw(b"\x16\x03\x01 hello\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")
    assert b"content-security-policy: default-src 'none'" in said


def test_a_head_without_an_end_is_refused(ask: Asking):
    said = ask.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000)
    assert said.startswith(b"HTTP/1.1 400")


# ---- which files ----
@pytest.mark.parametrize(
    "name",
    [
        "../secret.onnx", "sub/../../secret.onnx", "out.onnx", "away/secret.onnx", "{place}/secret.onnx", "./../secret.onnx",
        "//etc/passwd", "/etc/passwd", "notes.txt", "tiny.onnx\0", "..\\secret.onnx", "sub", "upload:none",
        "~/x.onnx", "." * 290,
    ],
)  # fmt: skip
def test_nothing_outside_the_folder_is_read(ask: Asking, folder: Path, name: str):
    answer = ask.get("/api/estimate", model=name.replace("{place}", str(folder.parent)))
    assert answer.status == 422
    assert "no built-in model and no .onnx file here" in answer.error


@pytest.mark.parametrize("name", ["os:system", "models.py:make", "weights.pt", "model.pt2", "net.safetensors", "a.engine"])
def test_nothing_that_could_run_is_opened(ask: Asking, folder: Path, name: str):
    marker = folder / "ran"
    (folder / "models.py").write_text(f"open({str(marker)!r}, 'w')\ndef make(): pass\n")
    (folder / "weights.pt").write_bytes(pickle.dumps(_Running(str(marker))))
    assert ask.get("/api/estimate", model=name).status == 422
    assert not marker.exists()


class _Running:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def test_an_uploaded_pickle_is_no_model(ask: Asking, tmp_path: Path):
    marker = tmp_path / "ran"
    answer = ask.upload(pickle.dumps(_Running(str(marker))), name="weights.pt")
    assert answer.status == 422
    assert not marker.exists()
    assert not list(ask.board.shelf.uploads.rglob("weights*"))


def test_external_data_of_an_upload_is_not_followed(ask: Asking):
    model = load_from_string(tiny_onnx())
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")
    answer = ask.upload(model.SerializeToString())
    assert answer.status == 422
    assert "leads out of the model's folder" in answer.error


# ---- how much ----
def test_an_upload_that_says_it_is_too_large_is_not_read(ask: Asking):
    head = ["POST /api/upload?name=m.onnx HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/octet-stream"]
    text = "\r\n".join([*head, f"Content-Length: {10**12}", "", ""])
    assert ask.raw(text.encode()).startswith(b"HTTP/1.1 413")


def test_an_upload_in_chunks_is_counted(ask: Asking):
    sent = 0

    def chunks():
        nonlocal sent
        while sent < 100 * MAX_UPLOAD_BYTES:
            sent += 50_000
            yield b"\0" * 50_000

    try:
        answer = ask("/api/upload?name=m.onnx", "POST", {"content-type": "application/octet-stream"}, chunks())
        assert answer.status == 413
        assert is_guarded(answer)
    except (BrokenPipeError, ConnectionResetError):  # the board has hung up already
        pass
    assert sent < 100 * MAX_UPLOAD_BYTES
    assert not list(ask.board.shelf.uploads.rglob("m.onnx"))


def test_one_file_is_received_at_a_time(ask: Asking):
    head = "POST /api/upload?name=slow.onnx HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(("127.0.0.1", ask.port)) as slow:
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\nxxx".encode())
        while not ask.board.receiving.locked():
            time.sleep(0.01)
        assert ask.upload(tiny_onnx()).status == 503
    while ask.board.receiving.locked():
        time.sleep(0.01)
    assert ask.upload(tiny_onnx()).status == 201
    assert not list(ask.board.shelf.uploads.rglob("slow.onnx"))


def test_whoever_says_nothing_is_hung_up_on(folder: Path, serve_board: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vramplan.serve.server.HEAD_S", 0.3)
    with serve_board(Board(Settings(folder=folder))) as ask:
        assert ask.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n") == b""
        assert ask("/").status == 200


def test_lines_are_not_held_without_an_end(folder: Path, serve_board: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vramplan.serve.server.MOST_CONNECTIONS", 3)
    with serve_board(Board(Settings(folder=folder))) as ask, contextlib.ExitStack() as held:
        lines = [held.enter_context(socket.create_connection(("127.0.0.1", ask.port), timeout=10)) for _ in range(4)]
        with contextlib.suppress(ConnectionResetError):
            assert lines[3].recv(100) == b""
        lines[0].close()
        time.sleep(0.2)
        assert ask("/").status == 200


def test_only_the_newest_uploads_are_kept(ask: Asking):
    names = [ask.upload(tiny_onnx(), name=f"m{index}.onnx").json["model"] for index in range(10)]
    assert ask.get("/api/model", model=names[0]).status == 422
    assert ask.get("/api/model", model=names[-1]).status == 200
    assert len(list(ask.board.shelf.uploads.rglob("*.onnx"))) == 8


def test_an_empty_upload_is_an_error(ask: Asking):
    assert ask.upload(b"").status == 400


# ---- how long, how many ----
def test_a_question_that_takes_too_long_ends_with_its_process(tmp_path: Path):
    (tmp_path / "long.onnx").write_bytes(chain_onnx(15_000))
    named = Named(name="long.onnx", path=str(tmp_path / "long.onnx"))
    question = read_estimate([("dim", "height=64"), ("dim", "width=64")], lambda _: named)
    process = Process(1.5, tmp_path)
    running = process.start()
    begun = time.monotonic()
    status, body = process.ask(key_of(question))
    assert status == 504
    assert b"no answer within 1.5 s" in body
    assert time.monotonic() - begun < 4
    assert running.poll() is not None
    assert not Path(f"/proc/{running.pid}").exists() or os.name != "posix"
    process.timeout_s = 60
    status, _ = process.ask(key_of(read_estimate([], lambda _: Named(name="yolov8n"))))
    assert status == 200
    process.end()


def test_a_model_that_needs_all_memory_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def greedy(*_: object) -> None:
        raise MemoryError

    solver = Solver()
    monkeypatch.setattr(solver.__class__, "answer", greedy)
    status, body = answer(solver, key_of(read_estimate([], lambda _: Named(name="yolov8n"))))
    assert status == 422
    assert b"more memory than the board gives" in body


def test_the_process_that_answers_has_a_limit_of_memory(tmp_path: Path):
    process = Process(60, tmp_path)
    process.ask(key_of(read_estimate([], lambda _: Named(name="yolov8n"))))
    limits = Path(f"/proc/{process.start().pid}/limits").read_text()
    process.end()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max data size")]
    assert int(line.split()[3]) == 8 * GIB


def test_who_waits_too_long_for_the_turn_is_told_so(tmp_path: Path):
    async def ask_twice() -> list[tuple[int, bytes]]:
        desk = Desk(Answers(), tmp_path, timeout_s=0.2)
        desk.process.ask = lambda key: (time.sleep(0.6), (200, b"{}"))[1]  # type: ignore[method-assign]

        async def stays() -> bool:
            return False

        return await asyncio.gather(desk.ask("a", stays), desk.ask("b", stays))

    first, second = asyncio.run(ask_twice())
    assert (first[0], second[0]) == (200, 503)


def test_too_many_questions_are_refused_and_the_others_answered(ask: Asking):
    answers: list[Answered] = []
    asking = [
        threading.Thread(
            target=lambda batch=batch: answers.append(ask.get("/api/estimate", model="yolov8x", batch=100 + batch))
        )
        for batch in range(24)
    ]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert {answer.status for answer in answers} == {200, 503}
    assert all(map(is_guarded, answers))


def test_an_exception_is_an_answer_without_a_word_of_where(folder: Path, serve_board: Serve, capfd: pytest.CaptureFixture[str]):
    board = Board(Settings(folder=folder))

    async def broken(*_: object) -> tuple[int, bytes]:
        raise RuntimeError(f"secret of {__file__}")

    board.ask = broken  # type: ignore[method-assign]
    with serve_board(board) as ask:
        answer = ask.get("/api/estimate", model="yolov8n")
    assert answer.status == 500
    assert is_guarded(answer)
    assert answer.error == "internal error: RuntimeError"
    assert b"secret" not in answer.body
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_dies_is_an_error_and_the_next_question_is_answered(folder: Path, serve_board: Serve):
    with serve_board(Board(Settings(folder=folder))) as ask:
        running = ask.board.now.process.start()
        killer = threading.Timer(0.3, running.kill)
        killer.start()
        assert ask.get("/api/estimate", model="yolov8x", batch=77).status in {200, 500}
        running.wait(5)
        assert ask.get("/api/estimate", model="yolov8n", batch=2).status in {200, 500}
        assert ask.get("/api/estimate", model="yolov8n", batch=3).status == 200


def test_uploads_and_what_processes_left_behind_are_gone_when_the_board_is(folder: Path, serve_board: Serve):
    with serve_board(Board(Settings(folder=folder))) as ask:
        assert ask.upload(tiny_onnx()).status == 201
        uploads = ask.board.shelf.uploads
        environment = Path(f"/proc/{ask.board.now.process.start().pid}/environ").read_text().split("\0")
        assert f"TMPDIR={uploads.parent}/scratch" in environment
        pids = [desk.process.start().pid for desk in (ask.board.now, ask.board.later)]
        assert uploads.exists()
    assert not uploads.parent.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]
