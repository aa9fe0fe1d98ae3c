"""Commands shown in the documentation, and what they are shown to print.

python -m tests.docs.console     run every command again and write its output into the pages
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class Command:
    """One ``$ vramplan …`` line of a page, and the lines below it. Other commands (pip, python) are not run."""

    page: Path
    line: str
    shown: str

    def output(self) -> str:
        """What the command prints now, standard output and errors together, without trailing space."""
        arguments = shlex.split(self.line)[1:]
        environment = {**os.environ, **ENVIRONMENT}
        command = [sys.executable, "-m", "vramplan", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        return "".join(f"{text.rstrip()}\n" for text in (result.stdout + result.stderr).splitlines())


def commands(page: Path) -> Iterator[Command]:
    """The vramplan commands of *page*, in order."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            if line.startswith("vramplan "):
                yield Command(page, line, shown)


def bless() -> None:
    """Write the present output of every command that shows one into its page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in commands(page):
            if command.shown.strip():
                text = text.replace(f"$ {command.line}\n{command.shown}", f"$ {command.line}\n{command.output()}")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    bless()
