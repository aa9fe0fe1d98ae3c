"""The graph as the installed ONNX Runtime optimises it: asked with zeros for weights, in a child with limits, remembered."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vramplan import sessions
from vramplan.choosing import usual_runtimes
from vramplan.device import ort_graph
from vramplan.device.ort_graph import Refusal, SessionGraph, ask, in_one_line
from vramplan.errors import RefusedError
from vramplan.estimate import estimate
from vramplan.sources import open_model
from vramplan.sources.onnx_hollow import hollow
from vramplan.sweep import sweep

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
NUMPY = {FLOAT: np.float32, HALF: np.float16}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path / "cache"))
    sessions._answer.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def real() -> None:
    pytest.importorskip("onnxruntime")


def model(nodes, *, dtype=FLOAT, weights=(), shape=(1, 8, 16, 16), result=(1, 8, 16, 16), opset=17, **more) -> bytes:
    inits = [numpy_helper.from_array(np.ones(size, dtype=NUMPY[dtype]), name) for name, size in weights]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, result)],
        inits,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=more.get("ir_version", 10)
    ).SerializeToString()


def norm_model(dtype: int = FLOAT) -> bytes:
    """Conv → BatchNormalization → x * Sigmoid(x): in a session Conv → QuickGelu."""
    norm = [(name, (8,)) for name in ("scale", "shift", "mean", "var")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Sigmoid", ["n"], ["s"]),
        helper.make_node("Mul", ["n", "s"], ["y"]),
    ]
    return model(nodes, dtype=dtype, weights=[("w", (8, 8, 3, 3)), *norm])


def refused_model() -> bytes:
    return model([helper.make_node("Frobnicate", ["x"], ["y"])])


def structure(content: bytes) -> bytes:
    return open_model(content).onnx.structure


def ops(answer: object) -> list[str]:
    assert isinstance(answer, SessionGraph)
    return [node.op_type for node in onnx.load_from_string(answer.model_bytes).graph.node]


def speaking(tmp_path: Path, body: str) -> list[str]:
    """A child that does *body* instead."""
    path = tmp_path / "child.py"
    path.write_text(f"import sys, time, os\nsys.stdin.readline()\n{body}\n")
    return [sys.executable, str(path)]


def test_large_weights_become_zeros_of_one_file():
    found = hollow(structure(norm_model()))
    assert found is not None
    assert (found.zeros_bytes, found.total_bytes) == (8 * 8 * 3 * 3 * 4, 8 * 8 * 3 * 3 * 4)
    assert not found.is_altered
    weights = {item.name: item for item in onnx.load_from_string(found.model_bytes).graph.initializer}
    assert {entry.key: entry.value for entry in weights["w"].external_data}["location"] == "zeros"
    assert not weights["scale"].external_data


def test_a_path_of_the_model_is_not_followed(tmp_path):
    proto = onnx.load_from_string(norm_model())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="secret.bin", size_threshold=64)
    found = hollow(open_model(tmp_path / "m.onnx").onnx.structure)
    assert found is not None
    assert b"secret" not in found.model_bytes


def test_large_constants_are_lifted_out_of_their_nodes():
    value = numpy_helper.from_array(np.ones((8, 8, 3, 3), dtype=np.float32))
    content = model(
        [helper.make_node("Constant", [], ["w"], value=value), helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    )
    found = hollow(structure(content))
    assert found is not None
    proto = onnx.load_from_string(found.model_bytes)
    assert [node.op_type for node in proto.graph.node] == ["Conv"]
    assert [item.name for item in proto.graph.initializer] == ["w"]


def test_hollow_integers_may_be_shapes():
    indices = numpy_helper.from_array(np.arange(600, dtype=np.int64), "i")
    proto = onnx.load_from_string(model([helper.make_node("Gather", ["x", "i"], ["y"], axis=3)], result=(1, 8, 16, 600)))
    proto.graph.initializer.append(indices)
    found = hollow(structure(proto.SerializeToString()))
    assert found is not None
    assert found.is_altered


def test_onnx_runtimes_own_graph(real, cache):
    answer = ask(structure(norm_model()), "extended")
    assert ops(answer) == ["Conv", "QuickGelu"]
    assert ops(ask(structure(norm_model()), "disabled")) == ["Conv", "BatchNormalization", "Sigmoid", "Mul"]
    assert len(list((cache / "onnxruntime").iterdir())) == 2


def test_an_answer_is_remembered_and_a_damaged_one_is_asked_again(real, cache, tmp_path):
    broken = speaking(tmp_path, "os._exit(3)")
    first = ask(structure(norm_model()), "extended")
    assert ask(structure(norm_model()), "extended", command=broken) == first
    (path,) = (cache / "onnxruntime").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert ask(structure(norm_model()), "extended", command=broken) is None
    assert ask(structure(norm_model()), "extended") == first


def test_another_version_is_asked_for_itself(real, cache, tmp_path):
    assert ask(structure(norm_model()), "extended") is not None
    assert ask(structure(norm_model()), "extended", version="0.0", command=speaking(tmp_path, "os._exit(3)")) is None


@pytest.mark.parametrize(
    "body",
    ["os._exit(3)", "os.kill(os.getpid(), 11)", "print('{}')", "print('no report')", "print('{\"done\": true}')"],
)
def test_a_child_that_fails_is_no_answer_and_is_not_remembered(tmp_path, cache, body):
    assert ask(structure(norm_model()), "extended", version="1.30", command=speaking(tmp_path, body)) is None
    assert not list(cache.glob("onnxruntime/*"))


def test_a_child_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(ort_graph, "_TIME_S", 1)
    start_s = time.monotonic()
    assert ask(structure(norm_model()), "extended", version="1.30", command=speaking(tmp_path, "time.sleep(60)")) is None
    assert time.monotonic() - start_s < 10


def test_a_child_has_limits(real):
    code = (
        "import resource; from vramplan.device import ort_graph_child as child; child._limit(7);"
        "print([resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == f"{[8 << 30, 7, 256 << 20]}\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (refused_model(), "No Op registered for Frobnicate"),
        (model([helper.make_node("Relu", ["x"], ["y"])], opset=99), "Opset 99 is under development"),
        (model([helper.make_node("Relu", ["x"], ["y"])], ir_version=99), "Unsupported model IR version: 99"),
        (model([helper.make_node("Foo", ["x"], ["y"], domain="")]), "No Op registered for Foo"),
    ],
)
def test_a_model_that_onnx_runtime_refuses(real, content, reason):
    answer = ask(structure(content), "extended")
    assert isinstance(answer, Refusal)
    assert reason in answer.reason
    assert "/" not in answer.reason.split(" ")[0]
    with pytest.raises(RefusedError, match="refuses the model"):
        estimate(content, runtime="onnxruntime")


def test_a_missing_kernel_of_the_cpu_says_nothing_about_cuda(real):
    content = model([helper.make_node("Erf", ["x"], ["e"]), helper.make_node("Mul", ["e", "x"], ["y"])], dtype=HALF)
    assert not isinstance(ask(structure(content), "extended"), Refusal)


def test_a_refusal_is_a_note_beside_another_runtimes_rows(real):
    found = sweep(refused_model(), runtimes=("tensorrt", "onnxruntime"), precisions=("fp32", "fp16"))
    assert [cell.runtime for cell in found] == ["tensorrt", "tensorrt"]
    (note,) = found.notes
    assert note.startswith("no row of onnxruntime: ONNX Runtime")
    assert "Frobnicate" in note
    with pytest.raises(RefusedError):
        sweep(refused_model(), runtimes=("onnxruntime",))


def test_what_onnx_runtime_says_in_one_line():
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x/model.onnx failed:/onnxruntime_src/core/model.cc:256"
        " onnxruntime::Model::Model(const std::function<void(int)>&, int)\nUnsupported \x1b[31mIR version: 99"
    )
    assert in_one_line(text) == "Unsupported [31mIR version: 99"
    assert len(in_one_line("failed:" + 1000 * "a")) == 400


def test_a_half_precision_file_fuses_as_it_would_on_a_gpu(real):
    content = norm_model(HALF)
    assert ops(ask(structure(content), "extended")) == ["Conv", "QuickGelu"]
    found = estimate(content, runtime="onnxruntime")
    assert [layer.kind for layer in found.layers] == ["conv", "quickgelu"]
    assert {layer.dtype for layer in found.layers} == {"float16"}
    # 8 * 8 * 3 * 3 weights and the bias that the norm became, 2 B each
    assert found.budget.weights_bytes == (8 * 8 * 3 * 3 + 8) * 2


def test_a_gelu_in_half_precision_is_one_although_its_numbers_are_rounded(real):
    numbers = [("root", 2**0.5), ("one", 1.0), ("half", 0.5)]
    nodes = [
        helper.make_node("Div", ["x", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Mul", ["m", "half"], ["y"]),
    ]
    proto = onnx.load_from_string(model(nodes, dtype=HALF))
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(value, dtype=np.float16), name) for name, value in numbers)
    assert ops(ask(structure(proto.SerializeToString()), "extended")) == ["Gelu"]


def test_casts_between_half_and_single_precision_outlive_the_optimiser(real):
    assert ops(ask(structure(mixed_model()), "extended")) == ["Conv", "Atan", "Sigmoid", "Atan"]
    unknown = helper.make_node("Cast", ["h"], ["y"], to=HALF)
    assert hollow(structure(model([helper.make_node("Nobody", ["x"], ["h"], domain="x"), unknown], dtype=HALF))) is None
    assert hollow(structure(model([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)]))) is not None


def test_the_note_says_whose_graph_it_is(real, monkeypatch):
    asked = estimate(norm_model(), runtime="onnxruntime")
    assert asked.notes[0].startswith(f"ONNX Runtime {ort_graph.installed_version()}, installed here, optimised the graph")
    monkeypatch.setattr(ort_graph, "installed_version", lambda: None)
    own = estimate(norm_model(), runtime="onnxruntime")
    assert own.notes[0].startswith("ONNX Runtime is not installed: the graph is optimised by rules of our own")
    assert own.total_bytes == asked.total_bytes


def test_rules_of_our_own_leave_room_for_a_graph_with_fewer_fusions(monkeypatch):
    content = model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["c"], ["s"]),
            helper.make_node("Mul", ["c", "s"], ["y"]),
        ],
        weights=[("w", (8, 8, 3, 3))],
        shape=(64, 8, 256, 256),
        result=(64, 8, 256, 256),
    )
    monkeypatch.setattr(ort_graph, "installed_version", lambda: None)
    own = estimate(content, runtime="onnxruntime")
    # Without QuickGelu one more result of 64 * 8 * 256 * 256 * 4 B is alive.
    plain = estimate(content, runtime="onnxruntime", runtime_options={"graph_optimization_level": "basic"})
    assert plain.total_bytes > own.total_bytes
    assert own.total_high_bytes >= plain.total_high_bytes


def test_files_are_shown_in_two_runtimes_and_bytes_in_one():
    assert usual_runtimes("a.onnx") == ("tensorrt", "onnxruntime")
    assert usual_runtimes(norm_model()) == ("tensorrt",)


def mixed_model() -> bytes:
    """x in half precision → Conv → Cast to single → Sigmoid → Cast back: every tensor has the type that the file says."""
    return model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Cast", ["c"], ["s"], to=FLOAT),
            helper.make_node("Sigmoid", ["s"], ["t"]),
            helper.make_node("Cast", ["t"], ["y"], to=HALF),
        ],
        dtype=HALF,
        weights=[("w", (8, 8, 3, 3))],
    )


def test_a_constant_that_is_cast_keeps_its_value(real):
    """The scales of a Resize in a file that was converted to half precision: 1, 1, 2, 2."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float16), "scales")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=FLOAT),
        helper.make_node("Cast", ["scales"], ["s"], to=FLOAT),
        helper.make_node("Resize", ["a", "", "s"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=HALF),
    ]
    proto = onnx.load_from_string(model(nodes, dtype=HALF, result=(1, 8, 32, 32)))
    proto.graph.initializer.append(scales)
    assert ops(ask(structure(proto.SerializeToString()), "extended")) == ["Atan", "Resize", "Atan"]


def test_a_file_of_mixed_precision_keeps_each_tensors_type(real):
    found = estimate(mixed_model(), runtime="onnxruntime")
    assert [layer.dtype for layer in found.layers] == ["float16", "float32", "float32", "float16"]
    assert found.budget.weights_bytes == 8 * 8 * 3 * 3 * 2
    assert [layer.kind for layer in found.layers] == ["conv", "cast", "sigmoid", "cast"]
    assert "installed here, optimised the graph" in found.notes[0]
    wide = estimate(mixed_model(), runtime="onnxruntime", precision="fp32")
    assert {layer.dtype for layer in wide.layers} == {"float32"}
    assert wide.budget.weights_bytes == 8 * 8 * 3 * 3 * 4


@pytest.mark.parametrize(
    ("mask", "kind"),
    [((8, 1, 1, 16), "biassoftmax"), ((1, 4, 16, 16), "biassoftmax"), ((16, 16), "biassoftmax"), ((8, 1, 16, 16), "softmax")],
)
def test_a_mask_joins_a_softmax_on_cuda_when_it_repeats_over_a_stretch_of_dimensions(real, mask, kind):
    nodes = [helper.make_node("Add", ["x", "m"], ["a"]), helper.make_node("Softmax", ["a"], ["y"], axis=-1)]
    content = onnx.load_from_string(model(nodes, shape=(8, 4, 16, 16), result=(8, 4, 16, 16)))
    content.graph.input.append(helper.make_tensor_value_info("m", FLOAT, mask))
    found = estimate(content.SerializeToString(), runtime="onnxruntime")
    assert found.layers[-1].kind == kind
