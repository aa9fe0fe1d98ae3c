"""Write a module as ONNX bytes, with its weights or without their values.

The TorchScript-based exporter (`dynamo=False`) is used on purpose: the files people bring were mostly
written by it (the YOLO, torchvision and mmdeploy export commands all call it), and its graphs show it:
SiLU as Sigmoid + Mul, shapes computed by Shape, Gather and Concat.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from .folding import fold_batch_norm

OPSET = 17
KEPT_ELEMENTS = 64
WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
FLOAT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
Array = npt.NDArray[Any]
DynamicAxes = Mapping[str, Mapping[int, str]]


def scatter(module: nn.Module) -> nn.Module:
    """Fill every vector of `module` (biases, norms) with distinct random values, in place.

    Fresh modules hold the same zeros and ones many times over, and the exporter would store such equal
    tensors once: the file would then claim fewer weights than the model has.
    """
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 1:
            tensor.data.uniform_(0.5, 1.5, generator=generator)
    return module


def export(
    module: nn.Module,
    args: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: DynamicAxes | None = None,
) -> onnx.ModelProto:
    """Return `module` in eval mode as an ONNX model, weights included and training metadata removed."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            args,
            buffer,  # type: ignore[arg-type]  # annotated as a path; the TorchScript exporter takes both
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: dict(axes) for name, axes in (dynamic_axes or {}).items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return _without_metadata(onnx.load_model_from_string(buffer.getvalue()))


def _without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    model.producer_name = "pytorch"
    model.producer_version = torch.__version__.partition("+")[0]
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "main_graph"
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return model


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose weights keep name, type and shape and lose their values.

    A weight is a float initializer that feeds a convolution, a product or a batch norm, or has more
    than `KEPT_ELEMENTS` elements. Shape constants keep their values: shape inference reads them.
    """
    light = onnx.ModelProto()
    light.CopyFrom(model)
    weights = {name for node in light.graph.node if node.op_type in WEIGHTED_OPS for name in node.input}
    for index, tensor in enumerate(light.graph.initializer):
        large = _elements(tensor) > KEPT_ELEMENTS
        if tensor.data_type in FLOAT_TYPES and (large or tensor.name in weights):
            empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            light.graph.initializer[index].CopyFrom(empty)
    return light


def weight_free(
    module: nn.Module,
    args: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: DynamicAxes | None = None,
) -> bytes:
    """Return `module`, batch norms folded, as a weight-free ONNX file; `scatter` changes its values."""
    folded = fold_batch_norm(scatter(module))
    model = export(folded, args, input_names=input_names, output_names=output_names, dynamic_axes=dynamic_axes)
    return serialise(without_weights(model))


def bind(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Return a copy with the named input dimensions fixed and everything that follows from it folded.

    What is left is the graph a static export and a simplifier would give: no shape arithmetic, and
    anchors as constants. Weights are not touched.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for value in bound.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    for value in bound.graph.output:
        value.type.tensor_type.ClearField("shape")
    bound = onnx.shape_inference.infer_shapes(bound, data_prop=True, strict_mode=True)
    _fold_constants(bound)
    del bound.graph.value_info[:]
    return bound


def _fold_constants(model: onnx.ModelProto) -> None:
    """Replace every node whose outputs do not depend on the input by initializers, in place."""
    graph = model.graph
    weights = {name for node in graph.node if node.op_type in WEIGHTED_OPS for name in node.input}
    initial = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in weights}
    known, kept = dict(initial), []
    shapes = _static_shapes(graph)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
            known[node.output[0]] = np.array(shapes[node.input[0]], dtype=np.int64)
        elif all(name in known for name in node.input if name):
            feeds = {name: known[name] for name in node.input if name}
            known.update(zip(node.output, _evaluate(node, feeds), strict=True))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    tensors = [t for t in graph.initializer if t.name in used]
    tensors += [numpy_helper.from_array(known[n], n) for n in known if n in used and n not in initial]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(kept)


def _evaluate(node: onnx.NodeProto, feeds: dict[str, Array]) -> list[Array]:
    kinds = [(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in feeds.items()]
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, feeds)]


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def serialise(model: onnx.ModelProto) -> bytes:
    """Return the same bytes for the same model."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def largest_constant_elements(model: onnx.ModelProto) -> int:
    """Return the size of the largest value still stored in the graph, initializer or constant."""
    stored = [_elements(t) for t in model.graph.initializer if t.raw_data or t.float_data or t.int64_data]
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    return max([0, *stored, *(numpy_helper.to_array(t).size for t in constants)])
