"""Tests on a real GPU: skipped, with the driver's own words, where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vramplan.device.nvml import NvmlProbe, open_probe
from vramplan.device.probe import Device
from vramplan.device.this_gpu import visible_device
from vramplan.errors import MachineError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Mark every test below this folder, and skip it where no GPU answers."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    try:
        if ours:
            open_probe()
    except MachineError as error:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"no GPU here: {error.message}"))


@pytest.fixture(scope="session")
def probe() -> NvmlProbe:
    return open_probe()


@pytest.fixture(scope="session")
def device(probe: NvmlProbe) -> Device:
    """The GPU that CUDA would use."""
    return visible_device(probe, os.environ)
