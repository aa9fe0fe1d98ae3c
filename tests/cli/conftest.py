from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from vramplan.__main__ import main


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    out: str
    err: str


@pytest.fixture
def vramplan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line in this process."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Outcome:
        exit_code = main(words)
        return Outcome(exit_code, *capsys.readouterr())

    return run
