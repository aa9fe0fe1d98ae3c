import re
from pathlib import Path

import pytest

from tests.docs.console import PAGES, ROOT, commands

SHOWN = [command for page in PAGES for command in commands(page)]
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
