"""The programs of the gallery: each page has one, and what it prints below it.

python -m tests.docs.gallery     run every program again and write what it prints into its page
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.console import ENVIRONMENT, ROOT

FOLDER = ROOT / "docs" / "gallery"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "index.md")

_PROGRAM = re.compile(r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<shown>.*?)^```$", re.DOTALL | re.MULTILINE)


def program(page: Path) -> tuple[str, str]:
    """The program of *page*, and what the page says it prints. ValueError for a page that does not have exactly one."""
    found = list(_PROGRAM.finditer(page.read_text(encoding="utf-8")))
    if len(found) != 1:
        raise ValueError(f"{page.name}: {len(found)} programs with their output")
    return found[0]["code"], found[0]["shown"]


def output(code: str) -> str:
    """What *code* prints, run as a file of its own by this Python; errors are raised with what it said."""
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-W", "error", "-"]
    found = subprocess.run(command, input=code, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if found.returncode or found.stderr:
        raise RuntimeError(found.stderr[-2000:])
    return "".join(f"{line.rstrip()}\n" for line in found.stdout.splitlines())


def bless() -> None:
    """Write what every program prints now into its page."""
    for page in PAGES:
        code, shown = program(page)
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(f"```text\n{shown}```", f"```text\n{output(code)}```"), encoding="utf-8")


if __name__ == "__main__":
    bless()
