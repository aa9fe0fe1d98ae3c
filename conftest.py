"""For all tests and documentation: what this machine's user has calibrated must not change what they expect."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Point the folder of settings to one that does not exist."""
    os.environ["VRAMPLAN_CONFIG_DIR"] = str(config.rootpath / ".pytest_cache" / "no-settings-here")
