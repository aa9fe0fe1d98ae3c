"""The published schemas say what the program prints. Every JSON that a test of tests/cli prints is held to its schema too."""

import contextlib
import io
import json
from collections.abc import Iterator
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.docs import schema
from tests.docs.console import ROOT
from tests.docs.contract import OUTPUTS, check, check_command, schema_of
from vramplan.__main__ import main
from vramplan.gpus.calibration import calibration_text, read_calibration

SAMPLES = (
    ("estimate", "yolov8s", "-b", "1,8", "--precision", "int8", "--gpu", "3090", "--budget", "300MiB", "--layers"),
    ("estimate", "mobilenet_v2", "--runtime", "onnxruntime", "--layers"),
    ("estimate", "resnet50", "--max-shape", "input:8x3x224x224"),
    ("estimate", "mobilenet_v2", "--runtime", "onnxruntime", "--shape", "input:1x3x224x224", "--shape", "input:1x3x96x96"),
    ("streams", "yolov8s", "--gpu", "3090,t4", "--require", "10"),
    ("streams", "yolov8s", "mobilenet_v2", "--gpu", "all", "--stream", "12x1080p30/h264", "--stream", "4k25/hevc"),
    ("gpus",),
    ("diff", "yolov8s", "yolov8n", "--gpu", "3090"),
    ("diff", "resnet50", "--runtime", "tensorrt,onnxruntime"),
    ("replay", "tests/traces/data/yolov8s_fp16_channels_last_b8.json.gz"),
)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within *value*."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


@pytest.fixture(scope="module")
def printed() -> dict[tuple[str, ...], str]:
    """What each of the samples prints as JSON."""
    out = {}
    for words in SAMPLES:
        with contextlib.redirect_stdout(io.StringIO()) as written:
            main((*words, "--json"))
        out[words] = written.getvalue()
    return out


def test_the_published_files_are_current():
    assert {path.name: path.read_text(encoding="utf-8") for path in schema.FOLDER.glob("*.json")} == schema.files()
    assert schema.PAGE.read_text(encoding="utf-8") == schema.page()


def test_an_installed_vramplan_has_them():
    folder = package_files("vramplan.schema")
    assert json.loads((folder / "estimate.json").read_text(encoding="utf-8")) == schema_of("estimate")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_schema_is_valid_and_lets_no_unknown_key_pass(name: str):
    content = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(content)
    shapes = [each for each in objects(content) if isinstance(each.get("properties"), dict) and each.get("type") == "object"]
    assert shapes
    assert all(shape["additionalProperties"] is False for shape in shapes)
    undescribed = [key for shape in shapes for key, value in shape["properties"].items() if not value.get("description")]
    assert undescribed == []


def test_what_the_samples_print_is_what_the_schemas_say(printed: dict[tuple[str, ...], str]):
    for words, text in printed.items():
        check_command((*words, "--json"), text)


def test_every_key_that_may_be_absent_is_sometimes_there(printed: dict[tuple[str, ...], str]):
    """A key that no sample has may be one that no program prints: add the sample that has it."""
    for name in ("estimate", "streams", "diff", "lock"):
        shapes = [each for each in objects(schema_of(name)) if isinstance(each.get("properties"), dict)]
        optional = {key for shape in shapes for key in {*shape["properties"]} - {*shape.get("required", ())}}
        seen = {key for words, text in printed.items() for each in objects(json.loads(text)) for key in each}
        assert optional <= seen


def test_a_new_key_is_refused(printed: dict[tuple[str, ...], str]):
    content = json.loads(printed[SAMPLES[0]])
    content["rows"][0]["mood"] = "good"
    with pytest.raises(AssertionError, match=r"estimate\.rows\[0\]: Additional properties .*'mood' was unexpected"):
        check("estimate", json.dumps(content))


def test_a_lock_file_is_what_its_schema_says(tmp_path: Path):
    target = tmp_path / "vramplan.lock.json"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(("lock", "yolov8s", "-b", "1,8", "--gpu", "3090", "-o", str(target))) == 0
        assert main(("lock", "mobilenet_v2", "--runtime", "onnxruntime", "--budget", "2GiB", "-o", str(target))) == 0
    check("lock", target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((ROOT / "vramplan/gpus/calibrations").glob("*.json")), ids=lambda path: path.name)
def test_a_calibration_is_what_its_schema_says(path: Path):
    """As this version writes it: older files may leave keys out."""
    check("calibration", calibration_text(read_calibration(path)))
