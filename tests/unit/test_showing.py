"""`to_frame` and the picture in a notebook of every result."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import vramplan as vp
from tests.cli.cells import cell
from tests.measured import measurement
from vramplan.comparing import Checked, Diff, Finding
from vramplan.device.measurement import ContextStep
from vramplan.max_batch import MaxBatch, Try
from vramplan.report.frames import to_frame
from vramplan.result import LiveBuffer
from vramplan.showing import Shown
from vramplan.verification import PartRow, Verification

RECORDING = "tests/traces/data/vit_b_16_fp16_contiguous_b8.json.gz"


def two() -> tuple[vp.Estimate, vp.Estimate]:
    gpu = vp.find_gpu("3090")
    return vp.estimate("resnet50", gpu=gpu), vp.estimate("resnet50", precision="fp16", batch=8, gpu=gpu)


def verification() -> Verification:
    estimate, found = two()[0], measurement()
    parts = [PartRow(part=name, predicted=size, measured_bytes=None) for name, size in estimate.budget.parts.items()]
    total = PartRow(part="total", predicted=estimate.budget.total, measured_bytes=found.total_bytes)
    return Verification(
        estimate=estimate,
        measurement=found,
        rows=(*parts, total),
        peaks=(),
        replay=None,
        alignments=(),
        tolerance_ratio=0.05,
    )


def checked() -> Checked:
    comparison = vp.diff(*two())
    return Checked(
        path="vramplan.lock.json", findings=(Finding.of(comparison, model="resnet50", cell="one", tolerance_ratio=0.05),)
    )


def max_batch() -> MaxBatch:
    attempt = Try(batch=4, estimated_bytes=100, measured_bytes=120, is_finished=True, retry_count=0)
    return MaxBatch(largest_batch=4, failed_batch=None, estimated_batch=4, limit_bytes=200, tries=(attempt,))


RESULTS: dict[str, Callable[[], Shown]] = {
    "estimate": lambda: two()[1],
    "sweep": lambda: vp.sweep("mobilenet_v2", batches=(1, 4), precisions=("fp32", "fp16")),
    "streams": lambda: vp.streams(gpu="3090"),
    "streams of two": lambda: vp.streams(gpu=["3090", "t4"]),
    "diff": lambda: vp.diff(*two()),
    "diffs": lambda: Diff(pairs=(vp.diff(*two()),)),
    "check": checked,
    "measure": lambda: measurement(steps=(ContextStep(name="init", context_bytes=5),)),
    "verify": verification,
    "largest batch": max_batch,
    "replay": lambda: vp.replay(RECORDING),
    "gpus": vp.gpus,
    "card": lambda: vp.find_gpu("3090"),
}
TABLES = {
    "estimate": ["cells", "parts", "peak", "layers"],
    "streams": ["limits", "cards", "assumptions"],
    "measure": ["phases", "context"],
    "verify": ["parts", "peaks", "ops"],
    "replay": ["counters", "cells", "parts", "peak", "layers"],
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_frame_is_tidy(name: str):
    frame = RESULTS[name]().to_frame()
    assert len(frame) >= 1
    assert not frame.columns.duplicated().any()
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in frame.columns)
    sizes = [column for column in frame.columns if column.endswith("_bytes") or column == "batch"]
    assert {str(frame[column].dtype) for column in sizes} <= {"Int64"}
    assert not any(isinstance(value, (list, tuple, dict)) for value in frame.to_numpy().ravel())


@pytest.mark.parametrize(("name", "table"), [(name, table) for name, tables in TABLES.items() for table in tables])
def test_every_table_is_a_frame(name: str, table: str):
    assert isinstance(RESULTS[name]().to_frame(table), pd.DataFrame)


def test_an_unknown_table_is_a_usage_error():
    with pytest.raises(vp.UsageError, match="no table is called 'layer'") as caught:
        two()[0].to_frame("layer")
    assert "layers" in caught.value.hint


def test_parts_are_long_and_add_up_to_the_cell():
    one = two()[1]
    parts = one.to_frame("parts")
    assert parts["nominal_bytes"].sum() == one.total_bytes == one.to_frame()["total_bytes"].item()
    assert parts["evidence"].to_list()[1] == "exact"


def test_what_only_one_runtime_has_is_na_in_the_rows_of_another():
    frame = vp.sweep("mobilenet_v2", runtimes=("tensorrt", "onnxruntime")).to_frame().set_index("runtime")
    assert frame["context_allocated_peak_bytes"].isna().to_list() == [False, True]
    assert frame.loc["onnxruntime", "steady_process_bytes"] == frame.loc["onnxruntime", "total_bytes"]
    assert str(frame["steady_process_bytes"].dtype) == "Int64"


def test_changes_sum_to_the_difference_of_the_totals():
    before, after = two()
    frame = vp.diff(before, after).to_frame()
    parts = frame[frame["kind"] == "part"]
    assert parts["change_bytes"].sum() == after.total_bytes - before.total_bytes
    assert parts["before"].unique().tolist() == ["resnet50: tensorrt as-is at batch 1 on rtx3090"]


def test_limits_have_their_unit_beside_them():
    frame = vp.streams(gpu="3090").to_frame().set_index("limit")
    assert frame.loc["decode", "unit"] == "fps"
    assert frame.loc["vram", "unit"] == "bytes"
    assert frame["limit_streams_nominal"].min() == vp.streams(gpu="3090").streams


def test_what_nobody_knows_is_na_and_no_float():
    frame = verification().to_frame()
    assert frame["measured_bytes"].isna().sum() == 7
    assert str(frame["measured_bytes"].dtype) == "Int64"
    assert str(to_frame([{"is_new": True}, {"is_new": None}])["is_new"].dtype) == "boolean"
    assert str(to_frame([{"fps": 1}, {"fps": 2.5}])["fps"].dtype) == "Float64"
    assert str(to_frame([{"error_ratio": None}])["error_ratio"].dtype) == "Float64"


def test_results_cost_no_pandas_until_somebody_asks():
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys, vramplan as vp; vp.estimate('resnet50')._repr_html_(); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Balance(HTMLParser):
    """Whether every tag is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", RESULTS)
def test_a_notebook_shows_a_table(name: str):
    html = RESULTS[name]()._repr_html_()
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert parser.tags == {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_notebook_shows_the_numbers_of_the_terminal():
    text = re.sub(r"<[^>]+>", " ", two()[1]._repr_html_())
    assert "resnet50" in text
    assert f"{two()[1].total_bytes / 2**20:.1f} MiB" in text


def test_names_of_a_hostile_model_are_text():
    bad = "<script>alert(1)</script>"
    html = cell(name=bad, live=(LiveBuffer(name=bad, role="input", size_bytes=1, until=""),), notes=(bad,))._repr_html_()
    assert "<script" not in html
    assert bad in unescape(html)


def test_the_page_of_results_names_the_tables():
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    assert all(f"`{table}`" in page for tables in TABLES.values() for table in tables)
