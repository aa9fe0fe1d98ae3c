"""The child process that asks cuDNN for convolution workspaces without a GPU: standard library only, run by its path.

    python cudnn_child.py LIBRARY [LIBRARY ...]      the libraries to load, in this order

It prints ``{"version": ...}``, then reads one JSON object a line and answers each with one line that repeats its ``id``. A
missing symbol makes cuDNN abort the whole process, which is why this is not done in the caller's. Instead of cuBLASLt, which
does not start without a GPU, it loads a stand-in; where that cannot be done, answers are marked ``unranked``.

Source: the cuDNN backend API, https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html, whose
numbers are those of ``cudnn_graph.h`` (cuDNN 9); "deviceless" ahead-of-time queries exist since 9.8. The order of the walk
and its filters: aten/src/ATen/native/cudnn/Conv_v8.cpp (``get_generator_sources``, ``filterEngineConfigs``).
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

if __package__:
    from vramplan.workspace.cublaslt_stand_in import stand_in
else:  # run by its path: the module lies beside this one
    from cublaslt_stand_in import stand_in  # type: ignore[import-not-found, no-redef]

_HANDLE, _BOOLEAN, _INT64, _FLOAT, _CONVOLUTION_MODE, _HEUR_MODE, _KNOB_TYPE = 0, 2, 3, 4, 7, 8, 9
_DATA_TYPE, _NUMERICAL_NOTE, _DESCRIPTOR, _CHAR = 1, 11, 15, 24
_C_TYPES: dict[int, Any] = {
    _BOOLEAN: ctypes.c_bool, _INT64: ctypes.c_int64, _FLOAT: ctypes.c_float, _CONVOLUTION_MODE: ctypes.c_int,
    _HEUR_MODE: ctypes.c_int, _KNOB_TYPE: ctypes.c_int, _DATA_TYPE: ctypes.c_int, _NUMERICAL_NOTE: ctypes.c_int,
    _HANDLE: ctypes.c_void_p,
}  # fmt: skip
"""cudnnBackendAttributeType_t and its C type; text and descriptors are handled apart."""

_CONVOLUTION, _ENGINE, _ENGINE_CONFIG, _HEURISTIC, _PLAN, _KNOB_CHOICE = 1, 2, 3, 4, 5, 7
_FORWARD, _BACKWARD_DATA, _GRAPH, _TENSOR, _DEVICE_PROPERTIES = 10, 12, 15, 17, 38
"""cudnnBackendDescriptorType_t."""

_DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 9}
_MODES, _FALLBACK = {"A": 0, "B": 1}, 2
"""cudnnBackendHeurMode_t: A is instant and PyTorch's, B knows more."""

_TENSOR_CORE, _DOWN_CONVERT_INPUTS, _NONDETERMINISTIC = 0, 1, 4
_WORKSPACE_KNOB = 25
"""CUDNN_KNOB_TYPE_WORKSPACE: 1 forbids the sharing of output tiles, and with it partial sums."""

_ALIGNMENT_BYTES = 32
"""PyTorch looks for at most 32 (``getAlignment``), and its allocator's blocks always have that."""


class CudnnError(Exception):
    """cuDNN answered a status other than success."""


class Cudnn:
    """The loaded libraries."""

    def __init__(self, libraries: Sequence[str]) -> None:
        loaded = {os.path.basename(path).partition(".")[0]: ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL) for path in libraries}
        self.graph = loaded["libcudnn_graph"]
        self.graph.cudnnGetVersion.restype = ctypes.c_size_t

    @property
    def version(self) -> int:
        """Like 91900 for 9.19.0."""
        return int(self.graph.cudnnGetVersion())

    def call(self, function: str, *args: Any) -> None:
        """Call *function*; CudnnError unless it succeeds."""
        status = getattr(self.graph, function)(*args)
        if status:
            raise CudnnError(f"{function}: {status}")


class Descriptor:
    """A cuDNN backend descriptor, destroyed with this object; it keeps alive what it refers to."""

    def __init__(self, cudnn: Cudnn, kind: int) -> None:
        self.cudnn, self.pointer = cudnn, ctypes.c_void_p()
        self.kept: list[Descriptor] = []
        cudnn.call("cudnnBackendCreateDescriptor", ctypes.c_int(kind), ctypes.byref(self.pointer))

    def __del__(self) -> None:
        if self.pointer:
            self.cudnn.graph.cudnnBackendDestroyDescriptor(self.pointer)

    def set(self, attribute: int, kind: int, *values: Any) -> Descriptor:
        """Set *attribute* and return this descriptor."""
        array, count = _array(kind, values)
        arguments = (ctypes.c_int(attribute), ctypes.c_int(kind), ctypes.c_int64(count), array)
        self.cudnn.call("cudnnBackendSetAttribute", self.pointer, *arguments)
        self.kept += [value for value in values if isinstance(value, Descriptor)]
        return self

    def finalize(self) -> Descriptor:
        """Make it usable; CudnnError when cuDNN does not support what it describes."""
        self.cudnn.call("cudnnBackendFinalize", self.pointer)
        return self

    def get(self, attribute: int, kind: int, most: int = 1) -> list[Any]:
        """Up to *most* values of *attribute*."""
        array = (_C_TYPES[kind] * most)()
        return list(array[: self._read(attribute, kind, most, array)])

    def get_descriptors(self, attribute: int, kind: int, most: int) -> list[Descriptor]:
        """Up to *most* descriptors of *kind* that this one refers to."""
        found = [Descriptor(self.cudnn, kind) for _ in range(most)]
        array = (ctypes.c_void_p * most)(*(one.pointer for one in found))
        found = found[: self._read(attribute, _DESCRIPTOR, most, array)]
        for one in found:
            one.kept.append(self)
        return found

    def count(self, attribute: int, kind: int) -> int:
        """How many values *attribute* has."""
        return self._read(attribute, kind, 0, None)

    def _read(self, attribute: int, kind: int, most: int, array: Any) -> int:
        count = ctypes.c_int64(0)
        arguments = (ctypes.c_int(attribute), ctypes.c_int(kind), ctypes.c_int64(most), ctypes.byref(count), array)
        self.cudnn.call("cudnnBackendGetAttribute", self.pointer, *arguments)
        return count.value


def _array(kind: int, values: Sequence[Any]) -> tuple[Any, int]:
    if kind == _CHAR:
        return ctypes.create_string_buffer(values[0]), len(values[0]) + 1
    if kind == _DESCRIPTOR:
        return (ctypes.c_void_p * len(values))(*(one.pointer for one in values)), len(values)
    return (_C_TYPES[kind] * len(values))(*values), len(values)


class Described:
    """A device that need not be there: *text*, a JSON object, describes it."""

    def __init__(self, cudnn: Cudnn, text: str) -> None:
        self.memory_bytes = float(json.loads(text)["totalGlobalMem"])
        self._properties = Descriptor(cudnn, _DEVICE_PROPERTIES).set(2702, _CHAR, text.encode()).finalize()

    def of_graph(self, graph: Descriptor) -> Descriptor:
        """*graph* is for any device."""
        return graph

    def of_heuristic(self, heuristic: Descriptor) -> Descriptor:
        """*heuristic* for this device."""
        return heuristic.set(204, _DESCRIPTOR, self._properties)

    def of_plan(self, plan: Descriptor) -> Descriptor:
        """*plan* for this device."""
        return plan.set(407, _DESCRIPTOR, self._properties)


class Present:
    """The device of the current CUDA context, by a handle of its own."""

    memory_bytes = math.inf  # who asks the device allocates for real

    def __init__(self, cudnn: Cudnn) -> None:
        self._handle = ctypes.c_void_p()
        cudnn.call("cudnnCreate", ctypes.byref(self._handle))

    def of_graph(self, graph: Descriptor) -> Descriptor:
        """*graph* for this device, and all that is made of it."""
        return graph.set(800, _HANDLE, self._handle.value)

    def of_heuristic(self, heuristic: Descriptor) -> Descriptor:
        """*heuristic* has the device of its graph."""
        return heuristic

    def of_plan(self, plan: Descriptor) -> Descriptor:
        """*plan* for this device."""
        return plan.set(400, _HANDLE, self._handle.value)


Device = Described | Present


def _tensor(cudnn: Cudnn, shape: Sequence[int], dtype: str, name: str, *, channels_last: bool) -> Descriptor:
    order = [0, *range(2, len(shape)), 1] if channels_last else list(range(len(shape)))
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis], step = step, step * shape[axis]
    tensor = Descriptor(cudnn, _TENSOR).set(901, _DATA_TYPE, _DATA_TYPES[dtype]).set(902, _INT64, *shape)
    return tensor.set(903, _INT64, *strides).set(906, _INT64, ord(name)).set(900, _INT64, _ALIGNMENT_BYTES).finalize()


def convolution_graph(cudnn: Cudnn, device: Device, call: dict[str, Any]) -> Descriptor:
    """The operation graph PyTorch builds for *call*: one convolution, computed in fp32 (fp64 for fp64).

    A transposed convolution is the gradient of the input of one from the output's shape to the input's.
    """
    dtype, channels_last = call["dtype"], call["channels_last"]
    x = _tensor(cudnn, call["input_shape"], dtype, "x", channels_last=channels_last)
    w = _tensor(cudnn, call["weight_shape"], dtype, "w", channels_last=channels_last)
    y = _tensor(cudnn, call["output_shape"], dtype, "y", channels_last=channels_last)
    compute = _DATA_TYPES["float64" if dtype == "float64" else "float32"]
    convolution = Descriptor(cudnn, _CONVOLUTION).set(100, _DATA_TYPE, compute).set(101, _CONVOLUTION_MODE, 1)
    convolution.set(106, _INT64, len(call["stride"])).set(105, _INT64, *call["padding"]).set(104, _INT64, *call["padding"])
    convolution.set(102, _INT64, *call["dilation"]).set(103, _INT64, *call["stride"]).finalize()
    # alpha, beta, convolution, then (W, X, Y) of a forward convolution from 700 on, (W, DX, DY) of a gradient from 706 on
    kind, first, tensors = (_BACKWARD_DATA, 706, (w, y, x)) if call["transposed"] else (_FORWARD, 700, (w, x, y))
    operation = Descriptor(cudnn, kind).set(first, _FLOAT, 1.0).set(first + 1, _FLOAT, 0.0)
    for offset, operand in enumerate((convolution, *tensors), start=2):
        operation.set(first + offset, _DESCRIPTOR, operand)
    return device.of_graph(Descriptor(cudnn, _GRAPH)).set(801, _DESCRIPTOR, operation.finalize()).finalize()


def _configs(graph: Descriptor, device: Device, mode: int) -> list[Descriptor]:
    heuristic = Descriptor(graph.cudnn, _HEURISTIC).set(201, _DESCRIPTOR, graph).set(200, _HEUR_MODE, mode)
    device.of_heuristic(heuristic).finalize()
    return heuristic.get_descriptors(202, _ENGINE_CONFIG, heuristic.count(202, _DESCRIPTOR))


def _allowed(graph: Descriptor, device: Device, call: dict[str, Any]) -> Iterator[Descriptor]:
    """Engine configurations in the heuristic's order, as PyTorch and ONNX Runtime walk them, less those that are skipped."""
    skipped = {_DOWN_CONVERT_INPUTS}
    if not call["tensor_cores"]:
        skipped.add(_TENSOR_CORE)
    if call["deterministic"]:
        skipped.add(_NONDETERMINISTIC)
    for mode in (_MODES[call["heuristic"]], _FALLBACK):
        try:
            configs = _configs(graph, device, mode)
        except CudnnError:
            continue
        for config in configs:
            if skipped.isdisjoint(_engine(config).get(1303, _NUMERICAL_NOTE, 16)):
                yield config


def _engine(config: Descriptor) -> Descriptor:
    return config.get_descriptors(300, _ENGINE, 1)[0]


def _workspace_bytes(config: Descriptor, device: Device) -> int:
    plan = device.of_plan(Descriptor(config.cudnn, _PLAN).set(401, _DESCRIPTOR, config)).finalize()
    return int(plan.get(402, _INT64)[0])


def _knobs(config: Descriptor) -> dict[int, int]:
    return {one.get(600, _KNOB_TYPE)[0]: one.get(601, _INT64)[0] for one in config.get_descriptors(302, _KNOB_CHOICE, 64)}


def _unshared_bytes(config: Descriptor, device: Device, knobs: dict[int, int]) -> int | None:
    """Workspace of the same kernel when each output tile is one block's: the copies alone. None where it cannot be asked."""
    if _WORKSPACE_KNOB not in knobs or len(knobs) == 1:  # the engine of products has no other knob, and no tiles
        return None
    choices = []
    for kind, value in knobs.items():
        choice = Descriptor(config.cudnn, _KNOB_CHOICE).set(600, _KNOB_TYPE, kind)
        choices.append(choice.set(601, _INT64, 1 if kind == _WORKSPACE_KNOB else value).finalize())
    try:
        other = Descriptor(config.cudnn, _ENGINE_CONFIG).set(300, _DESCRIPTOR, _engine(config))
        return _workspace_bytes(other.set(302, _DESCRIPTOR, *choices).finalize(), device)
    except CudnnError:
        return None


def _built(graph: Descriptor, device: Device, call: dict[str, Any]) -> Iterator[tuple[Descriptor, int]]:
    """The configurations that build, with their workspaces; one that asks for more than the device has yields to the next."""
    for config in _allowed(graph, device, call):
        try:
            size_bytes = _workspace_bytes(config, device)
        except CudnnError:
            continue
        if size_bytes <= device.memory_bytes:
            yield config, size_bytes


def engines(cudnn: Cudnn, device: Device, call: dict[str, Any]) -> Iterator[int]:
    """The engine of each configuration in the order of the walk, whether it builds or not."""
    for config in _allowed(convolution_graph(cudnn, device, call), device, call):
        yield int(_engine(config).get(1301, _INT64)[0])


def answer(cudnn: Cudnn, device: Device, call: dict[str, Any]) -> dict[str, Any]:
    """The first configuration that builds: its workspace, engine and knobs; ``{"bytes": None}`` when none does.

    For a benchmark, which tries all of them, also the least and the largest workspace of any.
    """
    built = _built(convolution_graph(cudnn, device, call), device, call)
    config, size_bytes = next(built, (None, 0))
    if config is None:
        return {"bytes": None}
    knobs = _knobs(config)
    found = {
        "bytes": size_bytes,
        "engine": _engine(config).get(1301, _INT64)[0],
        "knobs": knobs,
        "unshared_bytes": _unshared_bytes(config, device, knobs),
    }
    if call["benchmark"]:
        sizes = [size_bytes, *(size for _, size in built)]
        found |= {"least_bytes": min(sizes), "largest_bytes": max(sizes)}
    return found


def _without_cublaslt(libraries: Sequence[str]) -> tuple[Sequence[str], bool]:
    """What to load, and whether a stand-in was loaded for cuBLASLt."""
    names = {path: os.path.basename(path) for path in libraries}
    real = [path for path, name in names.items() if name.startswith("libcublasLt.so.")]
    is_replaced = bool(real) and stand_in(".".join(names[real[0]].split(".")[:3]))
    return [path for path in libraries if not (is_replaced and path in real)], is_replaced


def main(libraries: Sequence[str]) -> None:
    """Answer until the input ends."""
    loaded, is_ranked = _without_cublaslt(libraries)
    cudnn = Cudnn(loaded)
    print(json.dumps({"version": cudnn.version}), flush=True)  # noqa: T201
    text, device = "", None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if device is None or request["device"] != text:
                text, device = request["device"], Described(cudnn, request["device"])
            reply = answer(cudnn, device, request["call"])
        except CudnnError as error:
            reply = {"bytes": None, "error": str(error)}
        print(json.dumps(reply | ({} if is_ranked else {"unranked": True}) | {"id": request["id"]}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
