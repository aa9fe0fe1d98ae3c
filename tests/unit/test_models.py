"""The zoo: our definitions have the published sizes, and the files built from them say the same."""

from math import prod
from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch")

from vramplan.models import build, onnx_export, resnet, small, yolo11, yolov5, yolov8  # noqa: E402
from vramplan.models.folding import fold_batch_norm  # noqa: E402

ZOO = {entry.name: entry for entry in build.read_zoo()}
CASES = sorted((Path(__file__).parents[2] / "benchmarks" / "onnx").glob("*.onnx"))
PUBLISHED = {
    "yolov5s": 7_235_389,
    "yolov5m": 21_190_557,
    "yolov8n": 3_157_200,
    "yolov8s": 11_166_560,
    "yolov8m": 25_902_640,
    "yolov8l": 43_691_520,
    "yolov8x": 68_229_648,
    "yolo11n": 2_624_080,
    "yolo11s": 9_458_752,
    "yolo11m": 20_114_688,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "vit_b_16": 86_567_656,
}
FUSED = {"yolov5s": 7_225_885, "yolov5m": 21_172_173, "yolov8s": 11_156_544}
YOLO_OUTPUTS = {"yolov5": (25200, 85), "yolov8": (84, 8400), "yolo11": (84, 8400)}


def on_meta(name):
    with torch.device("meta"):
        return build.make(ZOO[name].factory)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def bound_shapes(model, sizes):
    """Every tensor's shape after the named input dimensions are fixed, as shape inference sees it."""
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_value = sizes[dim.dim_param]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.output)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}


def test_the_zoo_has_every_published_model():
    assert {name: entry.parameters for name, entry in ZOO.items()} == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_definition_has_the_published_parameter_count(name):
    assert parameters(on_meta(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", FUSED)
def test_folding_leaves_the_published_fused_count(name):
    assert parameters(fold_batch_norm(on_meta(name))) == FUSED[name]


def test_a_factory_takes_a_class_count():
    with torch.device("meta"):
        one, eighty = yolov8.yolov8s(1), yolov8.yolov8s(80)
    # Three class branches of hidden width 128, weights and bias for each class fewer.
    assert parameters(eighty) - parameters(one) == 3 * (128 + 1) * 79


@pytest.mark.parametrize("factory", [yolov5.yolov5n, yolov8.yolov8n, yolo11.yolo11n, resnet.resnet18])
def test_folding_does_not_change_the_output(factory):
    torch.manual_seed(0)
    module = onnx_export.scatter(factory())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(fold_batch_norm(module)(images), module(images), rtol=1e-4, atol=1e-3)


def test_folding_leaves_the_original_alone():
    module = small.strided_conv_net()
    before = parameters(module)
    folded = fold_batch_norm(module)
    assert (parameters(module), parameters(folded)) == (before, before - (64 + 128 + 256 + 512) * 2)


@pytest.mark.parametrize(("factory", "axis"), [(yolov5.yolov5n, 1), (yolov8.yolov8n, 2), (yolo11.yolo11n, 2)])
def test_an_exported_detector_computes_what_torch_does_at_any_size(factory, axis):
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module = fold_batch_norm(onnx_export.scatter(factory()))
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", axis: "anchors"}}
    example = (torch.zeros(1, 3, 640, 640),)
    model = onnx_export.export(module, example, input_names=["images"], output_names=["output0"], dynamic_axes=axes)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 640, 640), (1, 3, 320, 480), (2, 3, 320, 320)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = module(images)
        (actual,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_has_no_weight_values_and_tens_of_kilobytes(name):
    model = onnx.load(ZOO[name].path)
    assert onnx_export.largest_constant_elements(model) <= onnx_export.KEPT_ELEMENTS
    assert ZOO[name].path.stat().st_size < 150_000


@pytest.mark.parametrize("name", ["yolov8s", "resnet50", "vit_b_16", "yolo11m"])
def test_a_file_has_exactly_the_folded_model_as_initializers(name):
    model = onnx.load(ZOO[name].path)
    weights = sum(prod(tensor.dims) for tensor in model.graph.initializer if not tensor.raw_data)
    assert weights == parameters(fold_batch_norm(on_meta(name)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_shape_is_known_once_the_input_is(name):
    entry = ZOO[name]
    shapes = bound_shapes(onnx.load(entry.path), {"batch": 2, "height": 320, "width": 480})
    assert all(0 not in shape for shape in shapes.values())
    cells = 320 * 480 // 64 + 320 * 480 // 256 + 320 * 480 // 1024
    anchors = 3 * cells if name.startswith("yolov5") else cells
    expected = {"batch": 2, "anchors": anchors}
    assert shapes[entry.output_name] == tuple(expected.get(dim, dim) for dim in entry.output_dims)


@pytest.mark.parametrize(("family", "output"), YOLO_OUTPUTS.items())
def test_a_detector_has_the_usual_output_at_640(family, output):
    entry = next(entry for name, entry in ZOO.items() if name.startswith(family))
    shapes = bound_shapes(onnx.load(entry.path), {"batch": 1, "height": 640, "width": 640})
    assert shapes["output0"] == (1, *output)


@pytest.mark.parametrize("name", ["yolov8n", "mobilenet_v2"])
def test_a_committed_file_is_what_the_definition_builds(name):
    wrote = onnx.load(ZOO[name].path).producer_version
    if wrote != torch.__version__.partition("+")[0]:
        pytest.skip(f"the files were written with torch {wrote}")
    assert build.main(["--check", name]) == 0


def test_a_missing_or_stale_file_is_named(tmp_path):
    content = ZOO["resnet50"].path.read_bytes()
    assert build.difference(tmp_path / "none.onnx", content) == "missing"
    (tmp_path / "stale.onnx").write_bytes(ZOO["yolov8n"].path.read_bytes())
    assert build.difference(tmp_path / "stale.onnx", content) == "differs"
    assert build.difference(ZOO["resnet50"].path, content) is None


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_benchmark_graph_is_static_and_weight_free(path):
    model = onnx.load(path)
    assert all(0 not in shape for shape in bound_shapes(model, {}).values())
    assert not {"Shape", "Range", "ConstantOfShape"} & {node.op_type for node in model.graph.node}
    assert path.stat().st_size < 150_000


def test_binding_keeps_the_computation():
    runtime = pytest.importorskip("onnxruntime")
    module = onnx_export.scatter(small.mnist_cntk())
    args = (torch.randn(1, 1, 28, 28),)
    axes = {"images": {0: "batch"}}
    model = onnx_export.export(module, args, input_names=["images"], output_names=["logits"], dynamic_axes=axes)
    bound = onnx_export.bind(model, {"batch": 1})
    session = runtime.InferenceSession(bound.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"images": args[0].numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), module(*args))
