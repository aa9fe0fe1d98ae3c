"""Real child processes that do what models do: report, print, crash, hang, run out of memory, and lose their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vramplan.device.child import Child, OutOfMemoryResult, child_environment, kill_tree, module_command
from vramplan.errors import MachineError, MeasurementError, ModelError, UsageError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

SERVE = """
import os, sys, time
from vramplan.device.inside import serve
from vramplan.errors import ModelError, UsageError, InternalError
def work(request, line):
{body}
serve(work, is_out_of_memory=lambda error: isinstance(error, MemoryError))
"""


def command(body: str) -> list[str]:
    """A child whose work is *body*, with ``request`` and ``line``."""
    return [sys.executable, "-c", SERVE.format(body=textwrap.indent(textwrap.dedent(body), "    "))]


def raw(code: str) -> list[str]:
    """A child that knows nothing of the protocol."""
    return [sys.executable, "-c", code]


def run(argv: list[str], request: dict | None = None, *, timeout_s: float = 20.0) -> list[dict]:
    with Child(argv, request or {}, timeout_s=timeout_s) as child:
        return list(child.messages())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


def test_reports_come_in_order_and_the_request_arrives():
    messages = run(command("line.tell(step='a', seen=request['x']); line.tell(step='b')"), {"x": [1, "ü"]})
    assert messages == [{"step": "a", "seen": [1, "ü"]}, {"step": "b"}]


def test_a_barrier_holds_the_child_until_the_parent_asks_for_more(tmp_path: Path):
    done = tmp_path / "done"
    with Child(command(f"line.pause(step='wait'); open({str(done)!r}, 'w').close()"), {}, timeout_s=20) as child:
        messages = child.messages()
        assert next(messages)["step"] == "wait"
        time.sleep(0.3)
        assert not done.exists()
        assert list(messages) == []
        assert done.exists()


def test_what_the_model_prints_is_no_report():
    assert run(command("print('{\"done\": true}'); os.write(1, b'raw\\n'); line.tell(step='real')")) == [{"step": "real"}]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        ("ModelError('no such layer', hint='look')", ModelError, "no such layer"),
        ("UsageError('bad shape')", UsageError, "bad shape"),
        ("ValueError('broken')", MeasurementError, "ValueError: broken"),
        ("InternalError('ours')", MeasurementError, "ours"),
    ],
)
def test_an_error_in_the_child_is_raised_here(raised, kind, message):
    with pytest.raises(kind) as caught:
        run(command(f"raise {raised}"))
    assert caught.value.message == message
    assert "Traceback" not in str(caught.value)


def test_out_of_memory_is_a_result_that_comes_after_what_was_reported():
    seen = []
    argv = command("line.tell(phase='load'); raise MemoryError('no more')")
    with Child(argv, {}, timeout_s=20) as child, pytest.raises(OutOfMemoryResult, match="no more"):
        seen.extend(child.messages())
    assert seen == [{"phase": "load"}]


def test_a_crash_is_named_by_its_signal_with_its_last_words():
    with pytest.raises(MeasurementError) as caught:
        run(command("print('about to die', file=sys.stderr, flush=True); os.abort()"))
    assert "SIGABRT" in caught.value.message
    assert "about to die" in caught.value.message


def test_a_kill_suggests_the_computers_own_memory():
    with pytest.raises(MeasurementError) as caught:
        run(command("os.kill(os.getpid(), 9)"))
    assert "was killed" in caught.value.message
    assert "ran out" in caught.value.hint


def test_an_exit_without_a_word_is_named_by_its_code():
    with pytest.raises(MeasurementError, match="exit code 3"):
        run(raw("import os; os._exit(3)"))


def test_a_child_that_never_reads_a_long_request_ends_with_the_timeout():
    with pytest.raises(MeasurementError, match=r"within 1 s"):
        run(raw("import time; time.sleep(600)"), {"calls": "x" * 1_000_000}, timeout_s=1)


def test_a_long_request_arrives():
    argv = command("line.tell(size=len(request['calls']))")
    assert run(argv, {"calls": "x" * 1_000_000}) == [{"size": 1_000_000}]


def test_a_hang_ends_with_the_timeout_and_leaves_no_process():
    with Child(command("line.tell(step='started'); time.sleep(600)"), {}, timeout_s=1.5) as child:
        pid = child.pid
        with pytest.raises(MeasurementError, match=r"within 1\.5 s"):
            list(child.messages())
    assert wait_until_gone(pid)


@pytest.mark.parametrize("line", ["hello", "[1, 2]", "{", "[" * 5000, "null"])
def test_garbage_on_stdout_is_one_clear_error(line: str):
    with pytest.raises(MeasurementError, match="which is no report"):
        run(raw(f"import sys; sys.stdin.readline(); print({line!r}, flush=True); import time; time.sleep(60)"))


def test_a_line_without_an_end_does_not_fill_memory():
    code = "import sys\nsys.stdin.readline()\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(MeasurementError, match="which is no report"):
        run(raw(code))


def test_a_flood_of_stderr_does_not_block_or_fill_memory():
    body = "for _ in range(20000): print('noise ' * 20, file=sys.stderr)\nline.tell(step='through')"
    assert run(command(body)) == [{"step": "through"}]


def test_an_error_that_is_no_error_is_refused():
    with pytest.raises(MeasurementError, match="did not say how"):
        run(raw("import sys; sys.stdin.readline(); print('{\"error\": 5}', flush=True)"))


def test_a_program_that_is_not_there():
    with pytest.raises(MachineError, match="cannot start"):
        Child(["/no/such/program"], {}, timeout_s=5)


def test_what_a_child_starts_ends_with_it(tmp_path: Path):
    note = tmp_path / "pid"
    body = f"""
        import subprocess
        other = subprocess.Popen(['sleep', '600'])
        open({str(note)!r}, 'w').write(str(other.pid))
        line.pause(step='x')
    """
    with Child(command(body), {}, timeout_s=20) as child:
        next(child.messages())
    assert wait_until_gone(int(note.read_text()))


PARENT = """
import signal, sys, time
from vramplan.device.child import Child
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
with Child({argv!r}, {{}}, timeout_s=600) as child:
    messages = child.messages()
    next(messages)
    print(child.pid, flush=True)
    next(messages)
"""


@contextlib.contextmanager
def started_parent(body: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has a child, and the child's number."""
    code = PARENT.format(argv=command(body))
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        try:
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


@pytest.mark.parametrize("body", ["line.pause(step='x'); time.sleep(600)", "line.tell(step='x'); time.sleep(600)"])
def test_a_killed_parent_takes_the_child_along(body: str):
    with started_parent(body) as (parent, pid):
        assert is_alive(pid)
        parent.kill()
    assert wait_until_gone(pid)


def test_ctrl_c_ends_the_child():
    with started_parent("line.tell(step='x'); time.sleep(600)") as (parent, pid):
        parent.send_signal(signal.SIGINT)
        parent.wait(timeout=20)
    assert wait_until_gone(pid)


def test_the_environment_is_what_a_model_needs_and_no_more():
    given = {
        "PATH": "/bin",
        "CUDA_HOME": "/c",
        "PYTORCH_CUDA_ALLOC_CONF": "x",
        "AWS_SECRET_ACCESS_KEY": "s",
        "GITHUB_TOKEN": "t",
    }
    assert child_environment(given, CUDA_VISIBLE_DEVICES="GPU-1") == {
        "PATH": "/bin",
        "CUDA_HOME": "/c",
        "PYTORCH_CUDA_ALLOC_CONF": "x",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
    }


@pytest.mark.parametrize(
    ("asked", "name", "python_path"),
    [
        ("torch", "torch", ""),
        ("onnxruntime", "onnxruntime", ""),
        ("onnxruntime", "numpy", ""),
        ("nothing", "json", ""),
        ("nothing", "json", os.pathsep),
        ("nothing", "vramplan", f"{os.pathsep}/nowhere"),
    ],
)
def test_files_of_the_current_folder_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, name: str, python_path: str
):
    (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    found = child_environment({"PATH": os.environ["PATH"], "PYTHONPATH": python_path})
    argv = module_command("vramplan.device.installed_child")
    child = Child(argv, {"runtime": asked}, timeout_s=60, environment=found)
    with contextlib.suppress(MeasurementError, UsageError), child:  # what was asked for need not be installed
        list(child.messages())
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not list its processes as Linux does")
def test_what_a_child_started_in_a_session_of_its_own_ends_with_it():
    inner = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); input()"
    command = [sys.executable, "-c", inner]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        kill_tree(process)
    assert wait_until_gone(grandchild)
