"""TensorRT cannot be installed everywhere, so a fake with the same methods stands in for it."""

import json
import sys
import types

import pytest

import vramplan as vp
from tests.docs.contract import check
from vramplan.__main__ import main


class FakeEngine:
    device_memory_size_v2 = 17_817_600
    num_io_tensors = 2
    shapes = {"images": (-1, 3, 640, 640), "output0": (-1, 84, 8400)}  # noqa: RUF012

    def get_tensor_name(self, index):
        return list(self.shapes)[index]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_profile_shape(self, name, profile):
        return [(1, 3, 640, 640), (4, 3, 640, 640), (8, 3, 640, 640)]

    def get_tensor_dtype(self, name):
        return "DataType.HALF"

    def get_engine_stat(self, statistic):
        return {"weights": 22_313_088}[statistic]

    def create_execution_context(self):
        given = {}
        return types.SimpleNamespace(
            set_input_shape=given.__setitem__, get_tensor_shape=lambda name: (given["images"][0], *self.shapes[name][1:])
        )


class FakeRuntime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, content):
        return FakeEngine() if content == b"engine" else None


@pytest.fixture
def tensorrt(monkeypatch):
    class Logger:
        ERROR = 1

        def __init__(self, level):
            pass

    module = types.SimpleNamespace(
        __version__="10.9.0",
        Logger=Logger,
        Runtime=FakeRuntime,
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
        EngineStat=types.SimpleNamespace(TOTAL_WEIGHTS_SIZE="weights"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def test_an_engine_answers_for_itself(tensorrt, tmp_path):
    path = tmp_path / "yolov8s.engine"
    path.write_bytes(b"engine")
    estimate = vp.estimate(path, gpu="3090")
    assert estimate.budget.weights == vp.Range.exact(22_313_088)
    assert estimate.budget.activations == vp.Range.exact(17_817_600)
    assert estimate.phases["context"].allocated_peak_bytes == 17_817_600
    assert estimate.budget.inputs_bytes == 8 * 3 * 640 * 640 * 2
    assert estimate.budget.outputs_bytes == 8 * 84 * 8400 * 2
    assert "10.9.0" in estimate.notes[0]


def test_the_header_of_ultralytics_is_skipped(tensorrt, tmp_path):
    header = json.dumps({"names": {"0": "person"}}).encode()
    path = tmp_path / "yolov8s.engine"
    path.write_bytes(len(header).to_bytes(4, "little") + header + b"engine")
    assert vp.estimate(path).budget.weights_bytes == 22_313_088


def test_an_old_version_that_cannot_tell_gives_a_range(tensorrt, tmp_path):
    del tensorrt.EngineStat
    path = tmp_path / "old.plan"
    path.write_bytes(b"engine")
    weights = vp.estimate(path).budget.weights
    assert (weights.low_bytes, weights.high_bytes) == (0, len(b"engine"))


def test_a_refused_engine_is_one_clear_error(tensorrt, tmp_path):
    path = tmp_path / "other.engine"
    path.write_bytes(b"something else")
    with pytest.raises(vp.ModelError, match="refuses"):
        vp.estimate(path)


def test_without_the_library_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = tmp_path / "yolov8s.engine"
    path.write_bytes(b"engine")
    with pytest.raises(vp.MachineError) as caught:
        vp.estimate(path)
    assert caught.value.exit_code == 4
    assert ".onnx" in caught.value.hint


def test_an_engine_is_a_sweep_of_one_cell_that_cannot_be_changed(tensorrt, tmp_path, capsys):
    path = tmp_path / "yolov8s.engine"
    path.write_bytes(b"engine")
    assert main(["estimate", str(path), "--gpu", "3090"]) == 0
    assert "own numbers for this engine" in capsys.readouterr().out


def test_an_engine_as_json_is_what_the_schema_says(tensorrt, tmp_path, capsys):
    path = tmp_path / "yolov8s.engine"
    path.write_bytes(b"engine")
    assert main(["estimate", str(path), "--gpu", "3090", "--json"]) == 0
    check("estimate", capsys.readouterr().out)
