from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.docs.contract import check_command
from vramplan.__main__ import main


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    out: str
    err: str


@pytest.fixture
def vramplan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line in this process; what it prints as JSON is held to its schema."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Outcome:
        outcome = Outcome(main(words), *capsys.readouterr())
        check_command(words, outcome.out)
        return outcome

    return run
