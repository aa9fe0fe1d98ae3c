"""The page for coding agents: its commands run, in its order, and end as it says."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.docs.console import ROOT
from tests.docs.contract import check_command

PAGE = (ROOT / "SKILL.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("repository")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_a_command_ends_as_the_page_says(line: str, folder):
    command, _, comment = line.partition("#")
    words = tuple(shlex.split(command)[1:])
    if "all" in words:
        pytest.importorskip("torch")
    found = subprocess.run([sys.executable, "-m", "vramplan", *words], cwd=folder, capture_output=True, text=True, check=False)
    allowed = [int(code) for code in re.findall(r"\d+", comment)] or [0]
    assert found.returncode in allowed, found.stderr
    check_command(words, found.stdout)


def test_it_is_one_page_with_a_head():
    lines = PAGE.splitlines()
    assert len(lines) <= 80
    assert lines[0] == "---"
    assert {line.partition(":")[0] for line in lines[1 : lines.index("---", 1)]} == {"name", "description"}
    assert len(LINES) >= 10


def test_the_keys_it_names_are_there():
    command = [sys.executable, "-m", "vramplan", "estimate", "yolov8s", "-b", "8", "--budget", "250MiB", "--layers", "--json"]
    content = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    row = content["rows"][0]
    assert {"total_bytes", "total_low_bytes", "total_high_bytes", "budget", "peak", "layers"} <= {*row}
    assert {"fits", "try"} <= {*content["verdict"]}
    assert "remedy" in row["layers"][0]
    assert content["verdict"]["try"][0]["flags"].startswith("-")
