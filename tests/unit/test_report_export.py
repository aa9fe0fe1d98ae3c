from __future__ import annotations

import csv
import io
import json

from tests.cli.cells import cell, layer
from vramplan.dtypes import DType
from vramplan.gpus import find_gpu
from vramplan.precision import Kept
from vramplan.report.content import Report
from vramplan.report.export import estimate_csv, estimate_json, estimate_markdown
from vramplan.report.frames import to_frame
from vramplan.report.rows import estimate_rows
from vramplan.result import Estimate, LiveBuffer, Profile
from vramplan.units import MIB
from vramplan.verdict import Change, judge

LIVE = (LiveBuffer(name="t", role="activation", size_bytes=5, until=""),)
KEPT = (Kept(op="Softmax", dtype=DType.FLOAT16, reason="no 8-bit kernel", tensor_count=3, size_bytes=5),)


def unchangeable(cell: Estimate, change: Change) -> Estimate:
    return cell


def report(*cells: Estimate, **sections: bool) -> Report:
    verdict = judge(cells, budget_bytes=4 * MIB, resolve=unchangeable)
    return Report(cells=cells, verdict=verdict, **sections)  # type: ignore[arg-type]


def test_json_has_the_keys_of_schema_1():
    content = json.loads(estimate_json(report(cell(weights=MIB, gpu=find_gpu("3090"), live=LIVE, kept=KEPT, doubt_bytes=1))))
    assert list(content) == ["schema_version", "model", "gpu", "rows", "notes", "verdict"]
    assert content["schema_version"] == 1
    assert {"name", "format", "sha256", "parameters", "inputs", "outputs"} == set(content["model"])
    assert {"runtime", "precision", "batch", "memory_format", "budget", "total_bytes", "total_low_bytes", "total_high_bytes",
            "phases", "lower_bound_bytes", "sum_of_outputs_bytes", "peak", "coverage", "evidence", "notes", "kept",
            "profile"} <= set(content["rows"][0])  # fmt: skip
    assert list(content["rows"][0]["budget"]) == [
        "weights_bytes", "inputs_bytes", "activations_bytes", "outputs_bytes", "workspace_bytes", "allocator_slack_bytes",
        "context_bytes",
    ]  # fmt: skip
    assert {"fits", "limit_bytes", "limit_name", "headroom_bytes", "sentence", "try"} == set(content["verdict"])


def test_json_budgets_sum_to_their_total():
    row = json.loads(estimate_json(report(cell(weights=3, activations=5, context=7))))["rows"][0]
    assert sum(row["budget"].values()) == row["total_bytes"] == 3 + 5 + 7


def test_json_has_layers_only_when_they_are_asked_for():
    layered = cell(layers=(layer("a", MIB),))
    assert "layers" not in json.loads(estimate_json(report(layered)))["rows"][0]
    assert json.loads(estimate_json(report(layered, shows_layers=True)))["rows"][0]["layers"][0]["output_bytes"] == MIB


def test_json_has_kept_and_profile():
    profile = Profile(max_shapes={"images": (8, 3)}, context_bytes=4, needed_bytes=1)
    row = json.loads(estimate_json(report(cell(kept=KEPT, profile=profile))))["rows"][0]
    assert row["kept"] == [
        {"op": "Softmax", "dtype": "float16", "reason": "no 8-bit kernel", "tensor_count": 3, "size_bytes": 5}
    ]
    assert row["profile"] == {"max_shapes": {"images": [8, 3]}, "context_bytes": 4, "needed_bytes": 1, "idle_ratio": 0.75}


def test_json_is_ascii_whatever_the_names():
    text = estimate_json(report(cell(name="modèle\udc80")))
    assert text.isascii()
    assert json.loads(text)["model"]["name"] == "modèle\udc80"


def test_csv_has_one_line_a_cell_in_bytes():
    lines = list(csv.DictReader(io.StringIO(estimate_csv(report(cell(weights=3), cell("fp16", None, weights=2))))))
    assert [(line["precision"], line["batch"], line["weights_bytes"], line["total_bytes"]) for line in lines] == [
        ("fp32", "1", "3", "3"),
        ("fp16", "", "2", "2"),
    ]


def test_csv_of_layers_and_of_the_peak():
    one = cell(layers=(layer("a", MIB), layer("b", MIB)), live=LIVE)
    layers = list(csv.DictReader(io.StringIO(estimate_csv(report(one, shows_layers=True)))))
    live = list(csv.DictReader(io.StringIO(estimate_csv(report(one, shows_peak=True)))))
    assert [(line["layer_index"], line["name"]) for line in layers] == [("1", "a"), ("2", "b")]
    assert [(line["name"], line["size_bytes"]) for line in live] == [("t", "5")]


def test_markdown_has_a_table_and_escapes_names():
    text = estimate_markdown(report(cell(name="a_b|c", weights=MIB)))
    assert text.startswith("**a\\_b\\|c** · 11.16 M parameters")
    assert "| fp32      |     1 |     1.0 |" in text
    assert "**Fits: takes 1.0 MiB and leaves 3.0 MiB of the budget of 4.0 MiB." in text


def test_a_frame_keeps_unknown_numbers_unknown():
    frame = to_frame(estimate_rows([cell(batch=None, weights=2**40)]))
    assert str(frame["batch"].dtype) == str(frame["weights_bytes"].dtype) == "Int64"
    assert frame["batch"].isna().all()
    assert frame["weights_bytes"].to_list() == [2**40]
