import re
import shlex
from pathlib import Path

import pytest

from tests.docs.commands import program
from tests.docs.console import PAGES, ROOT, commands

SHOWN = [command for page in PAGES for command in commands(page)]
UNRUN = re.compile(r"^```(?:sh|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INVOCATION = re.compile(r"^(?:\$ |- run: |[A-Z_]+=\S+ )?(vramplan [^&|>\n]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: f"{command.page.name}: {command.line}"[:80])
def test_a_shown_command_prints_what_the_page_shows(command):
    if command.shown.strip():
        assert command.output() == command.shown
    else:
        assert "error:" not in command.output()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_there_is_something_to_check():
    assert len(SHOWN) >= 2


def test_commands_that_are_not_run_have_flags_that_exist():
    """Lines in ``sh`` and ``yaml`` blocks need files or a GPU; a flag that was renamed shows all the same."""
    known = {name: {flag for param in command.params for flag in param.opts} for name, command in program().commands.items()}
    lines = [
        (page, line)
        for page in (*PAGES, ROOT / "SKILL.md")
        for block in UNRUN.findall(page.read_text(encoding="utf-8"))
        for line in INVOCATION.findall(block)
    ]
    assert len(lines) > 30
    for page, line in lines:
        command, *words = shlex.split(line, comments=True)[1:]
        flags = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-zA-Z][\w=-]*", word)} - {"--help", "-h"}
        assert command in known or command.startswith("--"), (page.name, line)
        assert flags <= known.get(command, flags), (page.name, line)
