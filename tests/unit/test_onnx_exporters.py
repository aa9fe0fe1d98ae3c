"""What exporters write, run by ONNX Runtime: every shape in the graph is the shape that it really had."""

import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vramplan.sources.onnx_file import bind, read_onnx

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Exporters warn about themselves."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


class Mixed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Sizes computed from sizes, in the ways that vision models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.lstm = torch.nn.LSTM(8, 6, batch_first=True)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        batch, channels, height, width = y.shape
        half = torch.nn.functional.interpolate(y, size=(x.shape[2] // 3, x.shape[3] // 3), mode="bilinear")
        tokens = self.lstm(y.flatten(2).transpose(1, 2))[0]
        grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).reshape(-1, 2).float()
        shuffled = y.view(batch, channels // 2, 2, height, width).permute(0, 2, 1, 3, 4).reshape(batch, -1, width)
        padded = torch.nn.functional.pad(y, (height % 2, 1, 2, 3))
        return (
            half,
            tokens,
            grid[None].expand(batch, -1, -1),
            shuffled,
            padded,
            tokens[tokens > 0],
            y.repeat(1, 2, 1, 1)[:, ::2],
        )


def runs_as_planned(model_bytes: bytes, feeds: dict[str, Any]) -> int:
    """Compare every value that the model writes with the plan; how many there were."""
    graph = bind(read_onnx(model_bytes), shapes={name: np.shape(value) for name, value in feeds.items()})
    model = onnx.ModelProto.FromString(model_bytes)
    declared = {output.name for output in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name in graph.tensors and name not in declared]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for output, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        tensor = graph.tensors[output.name]
        assert tensor.count_low <= value.size <= tensor.count_high, output.name
        assert tensor.dtype.value == value.dtype.name, output.name
        if tensor.is_certain:
            assert tensor.shape == value.shape, output.name
        if tensor.value is not None:
            assert tensor.value == tuple(value.reshape(-1)), output.name
    return len(names) + len(declared)


def torchscript(module: Any, opset: int) -> bytes:
    file = io.BytesIO()
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    example = torch.zeros(2, 3, 50, 66)
    torch.onnx.export(module, (example,), file, input_names=["x"], dynamic_axes=axes, opset_version=opset, dynamo=False)
    return file.getvalue()


IMAGE = {"x": np.random.default_rng(0).normal(size=(3, 3, 64, 80)).astype(np.float32)}


@pytest.mark.parametrize("opset", [11, 17])
def test_torchscript_exports(opset: int) -> None:
    assert runs_as_planned(torchscript(Mixed().eval(), opset), IMAGE) > 100


def test_dynamo_exports() -> None:
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    sizes = {0: torch.export.Dim("b", min=2, max=64), 1: torch.export.Dim("s", min=2, max=100)}
    program = torch.onnx.export(layer, (torch.zeros(2, 11, 32),), dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    name = program.model_proto.graph.input[0].name
    assert runs_as_planned(program.model_proto.SerializeToString(), {name: np.zeros((3, 7, 32), np.float32)}) > 30


@pytest.mark.parametrize("style", ["QDQ", "QOperator"])
def test_quantized_models(style: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static  # noqa: PLC0415

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [IMAGE]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    layers = [
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Sigmoid(),
    ]
    source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    source.write_bytes(torchscript(torch.nn.Sequential(*layers).eval(), 13))
    quantize_static(source, target, Once(), quant_format=QuantFormat[style])
    assert runs_as_planned(target.read_bytes(), IMAGE) >= 5
