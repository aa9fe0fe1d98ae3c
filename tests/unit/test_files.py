from __future__ import annotations

import os
from pathlib import Path

import pytest

from vramplan.errors import MachineError, UsageError
from vramplan.files import write_atomically


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path):
    write_atomically(tmp_path / "r.txt", "low–high\n")
    assert (tmp_path / "r.txt").read_text(encoding="utf-8") == "low–high\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.txt"]


def test_an_existing_file_stays_without_force(tmp_path: Path):
    (tmp_path / "r.txt").write_text("old")
    with pytest.raises(UsageError, match="exists"):
        write_atomically(tmp_path / "r.txt", "new")
    assert (tmp_path / "r.txt").read_text() == "old"


def test_force_replaces_and_keeps_the_mode(tmp_path: Path):
    target = tmp_path / "r.txt"
    target.write_text("old")
    target.chmod(0o640)
    write_atomically(target, "new", force=True)
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o640)


def test_force_writes_through_a_link(tmp_path: Path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_atomically(tmp_path / "link.txt", "new", force=True)
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize(("name", "message"), [(".", "is a folder"), ("missing/r.txt", "does not exist")])
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, name: str, message: str):
    with pytest.raises(UsageError, match=message):
        write_atomically(tmp_path / name, "text")


def test_a_device_is_refused_even_with_force():
    with pytest.raises(UsageError, match="not a regular file"):
        write_atomically(Path(os.devnull), "text", force=True)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "r.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_atomically(tmp_path / "r.txt", "new", force=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("r.txt", "old")]


def test_bytes_are_written_as_they_are(tmp_path: Path):
    write_atomically(tmp_path / "r.bin", b"\x1f\x8b\r\n\xff")
    assert (tmp_path / "r.bin").read_bytes() == b"\x1f\x8b\r\n\xff"


def test_an_error_says_which_path_is_meant(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^recording '.*' is a folder"):
        write_atomically(tmp_path, "text", what="recording")
