"""The web page of a verification: the estimate and the recorded run as two cells of one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.measured import measurement
from vramplan.device.measurement import Outcome
from vramplan.estimate import estimate
from vramplan.replaying import replay
from vramplan.report.html import verification_page
from vramplan.report.html.content import verification_page_content
from vramplan.report.measured_export import verification_json
from vramplan.verification import Verification, compare

RECORDED = Path(__file__).parents[1] / "traces" / "data" / "yolov8s_fp16_contiguous_b8.json.gz"


@pytest.fixture(scope="module")
def found() -> Verification:
    expected = estimate("yolov8s", batch=8, precision="fp16", runtime="torch", gpu="h200")
    return compare(expected, measurement(model="yolov8s", batch=8), replay(RECORDED), tolerance=0.05)


def test_it_has_the_json_of_the_command_and_both_runs(found: Verification):
    content = verification_page_content(found)
    assert content["verification"] == json.loads(verification_json(found))
    assert [cell["label"] for cell in content["cells"]] == ["predicted", "measured"]
    assert found.replay is not None
    totals = [row["total_bytes"] for row in content["report"]["rows"]]
    assert totals == [found.estimate.total_bytes, found.replay.estimate.total_bytes]
    assert None not in content["pictures"]
    assert content["state"] == ("yes" if found.within_tolerance else "no")
    assert content["residual"].startswith("+" if (found.total.error_bytes or 0) > 0 else "-")


def test_parts_and_peaks_are_tables_of_it(found: Verification):
    titles = [section["title"] for section in verification_page_content(found)["sections"]]
    assert titles[:2] == ["The parts, predicted and measured", "The peaks"]
    assert "yolov8s: GPU memory, vramplan" in verification_page(found)


def test_out_of_memory_has_a_page_too(found: Verification):
    failed = replace(found.measurement, outcome=Outcome.OUT_OF_MEMORY, phases={}, failure="out of memory")
    without = compare(found.estimate, failed, None, tolerance=0.05)
    content = verification_page_content(without)
    assert content["state"] == "no"
    assert content["report"]["verdict"]["sentence"].startswith("Out of memory")
    assert len(content["cells"]) == 1
    verification_page(without)
