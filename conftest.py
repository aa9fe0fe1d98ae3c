"""For all tests and documentation: what this machine's user has calibrated must not change what they expect, nor its speed."""

import os

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # no wall times: a loaded machine is no failure
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Point the folder of settings to one that does not exist."""
    os.environ["VRAMPLAN_CONFIG_DIR"] = str(config.rootpath / ".pytest_cache" / "no-settings-here")
