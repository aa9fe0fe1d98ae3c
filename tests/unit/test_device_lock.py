"""One measurement at a time on one GPU."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vramplan.device.lock import gpu_lock
from vramplan.errors import MachineError, MeasurementError

HOLD = """
import sys, time
from pathlib import Path
from vramplan.device.lock import gpu_lock
with gpu_lock(Path({folder!r}), "GPU-1"):
    print("held", flush=True)
    time.sleep({seconds})
"""


@contextlib.contextmanager
def held(folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    code = HOLD.format(folder=str(folder), seconds=seconds)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_measurement_is_refused_and_told_who_holds_it(tmp_path: Path):
    with held(tmp_path, 60) as holder:
        with pytest.raises(MeasurementError, match=f"process {holder.pid}") as caught, gpu_lock(tmp_path, "GPU-1"):
            pass
        assert "--wait" in caught.value.hint
        with gpu_lock(tmp_path, "GPU-2"):
            pass


def test_a_second_measurement_can_queue(tmp_path: Path):
    with held(tmp_path, 0.5) as holder, gpu_lock(tmp_path, "GPU-1", wait_s=30):
        assert holder.wait(timeout=5) == 0


def test_a_dead_holder_holds_nothing(tmp_path: Path):
    with held(tmp_path, 60) as holder:
        holder.kill()
        holder.wait()
        with gpu_lock(tmp_path, "GPU-1"):
            pass


def test_the_lock_is_free_again_after_an_error(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), gpu_lock(tmp_path, "GPU-1"):
        raise ZeroDivisionError
    with gpu_lock(tmp_path, "GPU-1"):
        pass


def test_a_uuid_is_no_path(tmp_path: Path):
    with gpu_lock(tmp_path / "locks", "../../etc/passwd"):
        assert [item.parent for item in tmp_path.rglob("*.lock")] == [tmp_path / "locks"]


def test_garbage_in_the_file_is_nobody(tmp_path: Path):
    with held(tmp_path, 60):
        (tmp_path / "gpu-GPU-1.lock").write_text('{"pid": "x"}')
        with pytest.raises(MeasurementError) as caught, gpu_lock(tmp_path, "GPU-1"):
            pass
        assert caught.value.message == "another measurement runs on this GPU"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="cannot write the lock"), gpu_lock(tmp_path / "locks", "GPU-1"):
        pass


def test_a_file_in_the_way_of_the_folder(tmp_path: Path):
    (tmp_path / "locks").write_text("")
    with pytest.raises(MachineError, match="cannot write the lock"), gpu_lock(tmp_path / "locks", "GPU-1"):
        pass
