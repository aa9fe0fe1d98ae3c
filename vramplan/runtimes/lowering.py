"""From kernels to a memory program: what is held when each kernel runs, and what it lets go.

Results live from the kernel that writes them to the last that reads them. A view lives in what it looks at; a result
that moves into a concatenation lives there from its first part to its last reader; a region holds its scratch while it
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from vramplan.allocators.offsets import assign_offsets
from vramplan.allocators.placement import Request
from vramplan.dtypes import DType
from vramplan.graph import Tensor
from vramplan.precision import Converted
from vramplan.program import Buffer, Lifetime, MemoryProgram, ProgramBuilder, Role
from vramplan.runtimes.fusion import FusedGraph, Kernel
from vramplan.runtimes.ops import Kind

ALIGNMENT = 512
"""Blocks are multiples of 512 B: MNIST's 25,088 + 6,272 is logged as 31,744 = 25,088 + 6,656 (TensorRT 8.6 and 10)."""

CHANNEL_VECTOR = {DType.FLOAT16: 8, DType.BFLOAT16: 8, DType.INT8: 4, DType.FLOAT8_E4M3FN: 4}
"""Channels are padded to the smallest vector format of a type: HWC8 for 16 bits, CHW4 for 8 (developer guide, I/O formats)."""

SHAPE_TENSOR_COUNT = 64
"""Integer constants up to this many elements are shapes, axes and indices, which TensorRT keeps on the host."""

Scratch = Callable[[Kernel, Mapping[str, Tensor]], int]
"""Bytes that a kernel needs beside what it reads and writes."""

IN_PLACE_PRODUCERS = frozenset({Kind.CONVOLUTION, Kind.POINTWISE, Kind.POOLING, Kind.CONCAT})
IN_PLACE_READERS = frozenset({Kind.CONVOLUTION, Kind.POINTWISE, Kind.CONCAT})


def lower(fused: FusedGraph, converted: Converted, *, in_place: bool = True, scratch: Scratch | None = None) -> MemoryProgram:
    """The memory program of one engine and one inference: phases ``engine`` and ``context``.

    ``in_place`` lets results move into concatenations; ``scratch`` sizes a compiled region (default: `region_scratch`).
    """
    return _Lowering(fused, converted, in_place=in_place, scratch=scratch or region_scratch).program()


def stored_weights(fused: FusedGraph, converted: Converted) -> Iterator[Buffer]:
    """One buffer for each weight, its scales and each folded constant that kernels read from device memory."""
    tensors = converted.graph.tensors
    for name in fused.constants:
        if tensors[name].dtype.is_float or tensors[name].count > SHAPE_TENSOR_COUNT:
            yield Buffer(name=name, role=Role.WEIGHT, size_bytes=tensors[name].size_bytes, path=name)
        if name in converted.scales:
            scale = converted.scales[name]
            yield Buffer(name=scale.name, role=Role.WEIGHT, size_bytes=scale.size_bytes, path=name)


def padded_bytes(tensor: Tensor) -> int:
    """Bytes of a result between kernels: channels of an image tensor padded to the vector of its type."""
    vector = CHANNEL_VECTOR.get(tensor.dtype, 1)
    if tensor.shape is None or len(tensor.shape) != 4 or vector == 1:
        return tensor.size_bytes
    batch, channels, *space = tensor.shape
    return tensor.dtype.storage_bytes(batch * math.ceil(channels / vector) * vector * math.prod(space))


def concat_homes(fused: FusedGraph) -> dict[str, str]:
    """For each result that is written straight into a concatenation: the concatenated tensor it lives in.

    A result moves in when its producer can write strided and every other reader can read strided; otherwise it is copied.
    Public YOLO engines show it: results that Resize and MaxPool read are copied, and so are halves of a Split. What several
    concatenations read (DenseNet) is copied into each, or every one of them would stay alive to the last.
    """
    readers: dict[str, list[Kernel]] = {}
    producer: dict[str, Kernel] = {}
    for kernel in fused.kernels:
        producer.update(dict.fromkeys(kernel.writes, kernel))
        for name in kernel.reads:
            readers.setdefault(name, []).append(kernel)
    homes: dict[str, str] = {}
    for kernel in fused.kernels:
        if kernel.kind is Kind.CONCAT:
            for name in dict.fromkeys(kernel.nodes[0].reads):
                if name not in homes and _moves_in(name, producer, readers, fused):
                    homes[name] = kernel.writes[0]
    return homes


def _moves_in(name: str, producer: dict[str, Kernel], readers: dict[str, list[Kernel]], fused: FusedGraph) -> bool:
    return (
        name in producer
        and name not in fused.graph.outputs
        and producer[name].kind in IN_PLACE_PRODUCERS
        and all(kernel.kind in IN_PLACE_READERS for kernel in readers[name])
        and sum(kernel.kind is Kind.CONCAT for kernel in readers[name]) == 1
    )


class _Lowering:
    """Turns kernels into holds and frees, one pass over the kernels."""

    def __init__(self, fused: FusedGraph, converted: Converted, *, in_place: bool, scratch: Scratch) -> None:
        self.fused, self.converted, self.scratch = fused, converted, scratch
        self.tensors = converted.graph.tensors
        self.homes = concat_homes(fused) if in_place else {}
        self.builder = ProgramBuilder()
        self.held: dict[str, int] = {}
        self.outputs = {self.storage(name) for name in fused.graph.outputs}
        self.bindings = self.outputs.union(fused.graph.inputs)
        self.last_use = {
            self.storage(name): index for index, kernel in enumerate(fused.kernels) for name in (*kernel.reads, *kernel.writes)
        }

    def storage(self, name: str) -> str:
        """The tensor whose bytes *name* lives in, through views and concatenations."""
        root = self.fused.root(name)
        while root in self.homes:
            root = self.homes[root]
        return root

    def program(self) -> MemoryProgram:
        """Weights, then inputs, then every kernel."""
        for buffer in stored_weights(self.fused, self.converted):
            self.builder.hold(buffer)
        self.builder.phase("engine")
        for name in self.fused.graph.inputs:
            self.hold(name, Role.INPUT)
        for index, kernel in enumerate(self.fused.kernels):
            self.run(index, kernel)
        self.builder.phase("context")
        return self.builder.build()

    def run(self, index: int, kernel: Kernel) -> None:
        """Hold what *kernel* writes, and its scratch; free what nothing reads any more."""
        self.builder.op(kernel.name)
        for name in kernel.writes:
            self.hold(name, Role.OUTPUT if self.storage(name) in self.outputs else Role.ACTIVATION)
        if kernel.inner and (size_bytes := self.scratch(kernel, self.tensors)):
            buffer = Buffer(name=scratch_name(kernel), role=Role.WORKSPACE, size_bytes=size_bytes, path=kernel.name)
            self.builder.free(self.builder.hold(buffer))
        for name in dict.fromkeys(map(self.storage, (*kernel.reads, *kernel.writes))):
            if self.last_use[name] == index and name in self.held and name not in self.bindings:
                self.builder.free(self.held.pop(name))

    def hold(self, name: str, role: Role) -> None:
        """Hold the storage of *name*, unless it is held already. Bindings have the caller's layout: no padding."""
        storage = self.storage(name)
        if storage not in self.held:
            tensor = self.tensors[storage]
            size_bytes = padded_bytes(tensor) if role is Role.ACTIVATION else tensor.size_bytes
            self.held[storage] = self.builder.hold(Buffer(name=storage, role=role, size_bytes=size_bytes, path=storage))


def scratch_name(kernel: Kernel) -> str:
    """What the scratch buffer of a region is called."""
    return f"scratch of {kernel.name}"


def region_scratch(kernel: Kernel, tensors: Mapping[str, Tensor]) -> int:
    """Bytes that a compiled region needs for the results inside it: one block with offsets, each result to its last use.

    BERT-base in 16 bits, batch 32 × 128: nine hidden-size tensors, 56,623,104 B; the build log says 56,631,296.
    """
    requests = [Request(tensors[name].size_bytes, lifetime) for name, lifetime in inner_lifetimes(kernel).items()]
    return assign_offsets(requests, alignment=ALIGNMENT).total_bytes


def inner_lifetimes(kernel: Kernel) -> dict[str, Lifetime]:
    """When each result inside a region is held, in steps of its inner kernels."""
    starts: dict[str, int] = {}
    stops: dict[str, int] = {}
    for step, member in enumerate(kernel.inner):
        starts.update(dict.fromkeys(member.writes, step))
        stops.update(dict.fromkeys((*member.reads, *member.writes), step + 1))
    return {name: Lifetime(start, stops[name]) for name, start in starts.items() if name not in kernel.writes}


def region_peak(kernel: Kernel, tensors: Mapping[str, Tensor]) -> tuple[Kernel, dict[str, Kernel]]:
    """The inner kernel at which most results inside a region are alive, and for each of those the kernel that lets it go."""
    lifetimes = inner_lifetimes(kernel)
    change = [0] * (len(kernel.inner) + 1)
    for name, (start, stop) in lifetimes.items():
        change[start] += tensors[name].size_bytes
        change[stop] -= tensors[name].size_bytes
    live = list(accumulate(change))
    step = live.index(max(live))
    alive = {name: stop for name, (start, stop) in lifetimes.items() if start <= step < stop}
    return kernel.inner[step], {name: kernel.inner[stop - 1] for name, stop in alive.items()}


def region_floor(kernel: Kernel, tensors: Mapping[str, Tensor]) -> int:
    """The least a region can need: what one of its kernels reads and writes, when pointwise ops join their neighbours."""
    inside = {name for member in kernel.inner for name in member.writes}.difference(kernel.writes)
    members = (member for member in kernel.inner if member.kind is not Kind.POINTWISE)
    return max((sum(tensors[n].size_bytes for n in inside.intersection((*m.reads, *m.writes))) for m in members), default=0)
