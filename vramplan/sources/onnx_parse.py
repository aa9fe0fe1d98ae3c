"""From the bytes of a slimmed ``ModelProto`` to a `Tree` of plain objects, with every name and dimension checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from vramplan.dtypes import DType
from vramplan.errors import ModelError
from vramplan.graph import Attribute
from vramplan.sources.onnx_external import ExternalFolder
from vramplan.sources.onnx_order import in_order
from vramplan.sources.onnx_tree import ANY_DIM, Body, Constant, Declared, Dims, Function, Operation, Tree, Values
from vramplan.sources.onnx_types import DTYPES, check_dims, expected_bytes, printable, show
from vramplan.sources.onnx_values import MAX_COUNT, NUMPY_TYPES

_A = onnx.AttributeProto
_CONVERTERS: dict[int, Callable[[Any], Attribute]] = {
    _A.FLOAT: lambda proto: float(proto.f),
    _A.INT: lambda proto: int(proto.i),
    _A.STRING: lambda proto: _text(proto.s),
    _A.FLOATS: lambda proto: tuple(proto.floats),
    _A.INTS: lambda proto: tuple(proto.ints),
    _A.STRINGS: lambda proto: tuple(map(_text, proto.strings)),
}
_FIELDS = {"float_data": {DType.FLOAT32}, "double_data": {DType.FLOAT64}, "int64_data": {DType.INT64},
           "uint64_data": {DType.UINT64, DType.UINT32}}  # fmt: skip
_CONSTANT_ATTRIBUTES = {"value_int": DType.INT64, "value_ints": DType.INT64, "value_float": DType.FLOAT32,
                        "value_floats": DType.FLOAT32, "value_string": DType.STRING, "value_strings": DType.STRING}  # fmt: skip


def parse(model_bytes: bytes, *, where: str, folder: str | None) -> Tree:
    """Read a model; *folder* is where its external files are, None when it came as bytes.

    Raises `ModelError` for anything that no ONNX model can contain.
    """
    try:
        proto = onnx.ModelProto.FromString(model_bytes)
    except MemoryError:
        raise
    except Exception:
        # Protobuf's own errors say nothing that helps a reader of the file.
        raise ModelError(f"{where} is not an ONNX model, or is damaged", hint="Export or download it again.") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{where} is not an ONNX model: it has no graph", hint="Export or download it again.")
    return _Parser(where, ExternalFolder(folder, where)).tree(proto)


class _Parser:
    """Converts messages; collects notes."""

    def __init__(self, where: str, external: ExternalFolder) -> None:
        self.where = where
        self.external = external
        self.notes: list[str] = []

    def tree(self, proto: Any) -> Tree:
        functions: dict[tuple[str, str, str], Function] = {}
        for message in proto.functions:
            function = self.function(message)
            if function.key in functions:
                raise ModelError(f"{self.where} defines function {show(function.key[1])} twice")
            functions[function.key] = function
        body = self.body(proto.graph, is_main=True)
        return Tree(
            body=body,
            functions=functions,
            opsets=_opsets(proto.opset_import),
            producer=printable(f"{proto.producer_name} {proto.producer_version}".strip())[:80],
            notes=(*self.notes, *self.external.notes()),
        )

    def function(self, proto: Any) -> Function:
        def undescribed(name: str) -> Declared:
            return Declared(name=printable(name), dtype=DType.FLOAT32, dims=None)

        operations, constants = self.operations(proto.node)
        inputs = tuple(map(undescribed, proto.input))
        return Function(
            body=Body(
                name=printable(proto.name),
                inputs=inputs,
                outputs=tuple(map(undescribed, proto.output)),
                constants=constants,
                operations=self.ordered(operations, inputs, constants, printable(proto.name)),
                hints={hint.name: hint for hint in map(self.declared, proto.value_info)},
            ),
            opsets=_opsets(proto.opset_import),
            defaults={attribute.name: attribute for attribute in proto.attribute_proto},
            key=(_domain(proto.domain), printable(proto.name), printable(proto.overload)),
        )

    def body(self, proto: Any, *, is_main: bool = False) -> Body:
        name = printable(proto.name)
        operations, constants = self.operations(proto.node)
        initializers = [*map(self.initializer, proto.initializer), *map(self.sparse, proto.sparse_initializer)]
        repeated = _first_repeated([*(constant.name for constant in initializers), *constants])
        if repeated is not None:
            raise ModelError(f"{self.where}: {show(repeated)} is given a constant value twice")
        constants.update((constant.name, constant) for constant in initializers)
        inputs = tuple(self.declared(value) for value in proto.input)
        # Before IR version 4 every initializer was listed as an input too; it is a weight all the same.
        inputs = tuple(value for value in inputs if value.name not in constants)
        ordered = self.ordered(operations, inputs, constants, name)
        outputs = tuple(map(self.declared, proto.output))
        if is_main:
            used = {value.name for value in outputs}.union(*(operation.reads for operation in ordered))
            self.note_unused([constant for constant in initializers if constant.name not in used])
        return Body(
            name=name,
            inputs=inputs,
            outputs=outputs,
            constants=constants,
            operations=ordered,
            hints={hint.name: hint for hint in map(self.declared, (*proto.value_info, *proto.output))},
        )

    def ordered(
        self, operations: list[Operation], inputs: Iterable[Declared], constants: Mapping[str, Constant], name: str
    ) -> tuple[Operation, ...]:
        """The operations in an order in which they can run; a cycle or a second producer is an error."""
        repeated = _first_repeated([value.name for value in inputs])
        if repeated is not None:
            raise ModelError(f"{self.where}: input {show(repeated)} is declared twice")
        given = {value.name for value in inputs} | constants.keys()
        ordered, moved = in_order(operations, given, where=self.where)
        if moved:
            self.notes.append(f"the nodes of graph {show(name)} were not in an order in which they can run, and are sorted")
        return ordered

    def note_unused(self, unused: list[Constant]) -> None:
        if unused:
            size_bytes = sum(constant.size_bytes for constant in unused)
            names = ", ".join(show(constant.name) for constant in unused[:3]) + (", …" if len(unused) > 3 else "")
            self.notes.append(f"{len(unused)} initializers that no node reads are left out ({size_bytes:,} bytes): {names}")

    def operations(self, protos: Iterable[Any]) -> tuple[list[Operation], dict[str, Constant]]:
        """The nodes that compute, and the Constant nodes as constants."""
        operations: list[Operation] = []
        constants: dict[str, Constant] = {}
        for proto in protos:
            operation = self.operation(proto)
            is_constant = operation.op == "Constant" and not operation.domain
            constant = constant_node(operation, where=self.where) if is_constant else None
            if constant is None:
                operations.append(operation)
            elif constant.name in constants:
                raise ModelError(f"{self.where}: tensor {show(constant.name)} is written by two nodes")
            else:
                constants[constant.name] = constant
        return operations, constants

    def operation(self, proto: Any) -> Operation:
        outputs = tuple(map(printable, proto.output))
        op = printable(proto.op_type)
        name = printable(proto.name) or next(filter(None, outputs), "")
        if not any(outputs):
            raise ModelError(f"{self.where}: node {show(name)} ({op[:80]}) has no output")
        attributes: dict[str, Attribute] = {}
        tensors: dict[str, Constant] = {}
        bodies: dict[str, Body] = {}
        references: dict[str, str] = {}
        for attribute in proto.attribute:
            key = printable(attribute.name)
            if attribute.ref_attr_name:
                references[key] = attribute.ref_attr_name
            elif attribute.HasField("g"):
                bodies[key] = self.body(attribute.g)
            elif attribute.HasField("t"):
                tensors[key] = self.initializer(attribute.t)
            elif attribute.HasField("sparse_tensor"):
                tensors[key] = self.sparse(attribute.sparse_tensor)
            else:
                converted = convert_attribute(attribute)
                if converted is not None:
                    attributes[key] = converted
        for attribute in proto.attribute if bodies else ():
            # The bodies are walked here; C++ must never see them, for it recurses without a limit.
            attribute.ClearField("g")
        return Operation(
            name=name,
            op=op,
            domain=_domain(proto.domain),
            inputs=tuple(map(printable, proto.input)),
            outputs=outputs,
            attributes=attributes,
            tensors=tensors,
            bodies=bodies,
            captures=frozenset().union(*map(_free_names, bodies.values())),
            references=references,
            overload=printable(proto.overload),
            proto=proto,
        )

    def initializer(self, proto: Any) -> Constant:
        """A tensor of the file, its size checked against its values and its external file."""
        name, dims = printable(proto.name), tuple(proto.dims)
        dtype = self.dtype(proto.data_type, name)
        check_dims(name, dtype, dims, what=f"{self.where}: tensor")
        if proto.data_location == onnx.TensorProto.EXTERNAL or proto.external_data:
            entries = {entry.key: entry.value for entry in proto.external_data}
            self.external.check(name, entries, expected_bytes(dtype, dims))
            return Constant(name=name, dtype=dtype, dims=dims)
        if proto.raw_data and len(proto.raw_data) != expected_bytes(dtype, dims):
            raise ModelError(
                f"{self.where}: tensor {show(name)} declares {list(dims)} of {dtype}, {expected_bytes(dtype, dims):,} bytes, "
                f"but has {len(proto.raw_data):,} bytes of values"
            )
        return Constant(name=name, dtype=dtype, dims=dims, value=_small_values(proto, dtype, dims))

    def sparse(self, proto: Any) -> Constant:
        """A sparse tensor as the dense one that runtimes make of it."""
        values = self.initializer(proto.values)
        check_dims(values.name, values.dtype, proto.dims, what=f"{self.where}: tensor")
        return Constant(name=values.name, dtype=values.dtype, dims=tuple(proto.dims))

    def declared(self, proto: Any) -> Declared:
        name = printable(proto.name)
        kind, container = proto.type, ""
        while (word := kind.WhichOneof("value")) in {"sequence_type", "optional_type"}:
            container = container or word.removesuffix("_type")
            kind = kind.sequence_type.elem_type if word == "sequence_type" else kind.optional_type.elem_type
        if word not in {"tensor_type", "sparse_tensor_type"}:
            return Declared(name=name, dtype=DType.FLOAT32, dims=None, container=container or str(word or ""))
        tensor = kind.tensor_type if word == "tensor_type" else kind.sparse_tensor_type
        dtype = self.dtype(tensor.elem_type, name) if tensor.elem_type else DType.FLOAT32
        dims = _declared_dims(tensor.shape.dim) if tensor.HasField("shape") else None
        check_dims(name, dtype, (dim for dim in dims or () if isinstance(dim, int)), what=f"{self.where}: tensor")
        return Declared(name=name, dtype=dtype, dims=dims, container=container)

    def dtype(self, number: int, name: str) -> DType:
        if number not in DTYPES:
            raise ModelError(
                f"{self.where}: tensor {show(name)} has element type number {number}, which vramplan does not know"
            )
        return DTYPES[number]


def with_attributes(operation: Operation, given: Mapping[str, Any], *, where: str) -> Operation:
    """A node of a local function, its references replaced by the attributes that the caller gave.

    A reference to an attribute that nobody gave is an attribute left out.
    """
    proto = onnx.NodeProto()
    proto.CopyFrom(operation.proto)
    del proto.attribute[:]
    for attribute in operation.proto.attribute:
        source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if source is not None:
            proto.attribute.append(source)
            proto.attribute[-1].name = attribute.name
    resolved = _Parser(where, ExternalFolder(None, where)).operation(proto)
    return replace(resolved, bodies=operation.bodies, captures=operation.captures)


def constant_node(operation: Operation, *, where: str) -> Constant | None:
    """The constant that a Constant node stands for; None when an attribute of a function decides it."""
    name = operation.outputs[0]
    if operation.references:
        return None
    for tensor in operation.tensors.values():
        return replace(tensor, name=name)
    for attribute, dtype in _CONSTANT_ATTRIBUTES.items():
        if attribute in operation.attributes:
            return constant_of(name, dtype, operation.attributes[attribute])
    raise ModelError(f"{where}: Constant node {show(operation.name)} has no value")


def convert_attribute(proto: Any) -> Attribute | None:
    """An attribute as a plain Python value; None for tensors, graphs, types and attributes without a value."""
    convert = _CONVERTERS.get(proto.type)
    return None if convert is None else convert(proto)


def constant_of(name: str, dtype: DType, attribute: Attribute) -> Constant:
    """The tensor that ``value_int``, ``value_floats`` and their like stand for."""
    dims = (len(attribute),) if isinstance(attribute, tuple) else ()
    small = dtype in NUMPY_TYPES and sum(dims) <= MAX_COUNT
    return Constant(name=name, dtype=dtype, dims=dims, value=np.array(attribute, dtype=NUMPY_TYPES[dtype]) if small else None)


def _small_values(proto: Any, dtype: DType, dims: tuple[int, ...]) -> Values | None:
    """The values of a small tensor, as far as the file has them."""
    count = int(np.prod(dims, dtype=np.float64))
    if count > MAX_COUNT or dtype not in NUMPY_TYPES:
        return None
    if proto.raw_data or not count:
        little = np.dtype(NUMPY_TYPES[dtype]).newbyteorder("<")
        return np.frombuffer(proto.raw_data, dtype=little).astype(NUMPY_TYPES[dtype]).reshape(dims)
    field = next((field for field, dtypes in _FIELDS.items() if dtype in dtypes), "int32_data")
    stored = getattr(proto, field)
    if len(stored) != count:
        return None
    if dtype is DType.FLOAT16:
        return np.array([value & 0xFFFF for value in stored], dtype=np.uint16).view(np.float16).reshape(dims)
    return np.array(stored).astype(NUMPY_TYPES[dtype]).reshape(dims)


def _declared_dims(protos: Iterable[Any]) -> Dims:
    """Dimensions as numbers or names. Some exporters (PaddlePaddle, old Keras) write -1 for "any"."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value != -1 else printable(dim.dim_param) or ANY_DIM
        for dim in protos
    )


def _free_names(body: Body) -> frozenset[str]:
    """Names that a body reads from the graphs around it."""
    read = set[str]().union(*(operation.reads for operation in body.operations), (value.name for value in body.outputs))
    written = {name for operation in body.operations for name in operation.outputs}
    return frozenset(read - written - body.constants.keys() - {value.name for value in body.inputs})


def _opsets(protos: Iterable[Any]) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in protos} or {"": 1}


def _domain(text: str) -> str:
    return "" if text == "ai.onnx" else printable(text)


def _text(value: bytes) -> str:
    return printable(value.decode("utf-8", "replace"))


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
