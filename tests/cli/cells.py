"""Estimates made by hand, for tests of what is printed about them."""

from __future__ import annotations

from vramplan.budget import PARTS, Budget
from vramplan.gpus import Gpu
from vramplan.precision import Kept
from vramplan.program import MemoryProgram
from vramplan.ranges import Evidence, Range
from vramplan.result import Binding, Coverage, Estimate, LiveBuffer, ModelFacts, PeakMoment, Profile
from vramplan.runtimes.plan import Layer, PhasePeak
from vramplan.units import MIB

IMAGES = ("batch", 3, "height", "width")


def size_range(nominal_bytes: int, doubt_bytes: int = 0) -> Range:
    if not doubt_bytes:
        return Range.exact(nominal_bytes)
    low_bytes = max(0, nominal_bytes - doubt_bytes)
    return Range(
        low_bytes=low_bytes, nominal_bytes=nominal_bytes, high_bytes=nominal_bytes + doubt_bytes, evidence=Evidence.BOUNDED
    )


def cell(
    precision: str = "fp32",
    batch: int | None = 1,
    *,
    doubt_bytes: int = 0,
    gpu: Gpu | None = None,
    dims: tuple[int | str, ...] = IMAGES,
    live: tuple[LiveBuffer, ...] = (),
    layers: tuple[Layer, ...] = (),
    kept: tuple[Kept, ...] = (),
    profile: Profile | None = None,
    notes: tuple[str, ...] = (),
    unmodelled: tuple[str, ...] = (),
    name: str = "toy",
    **sizes_bytes: int,
) -> Estimate:
    """One cell; *sizes_bytes* are the parts by name, *doubt_bytes* is the width of the activations to either side."""
    parts = {part: Range.exact(sizes_bytes.get(part, 0)) for part in PARTS}
    parts["activations"] = size_range(sizes_bytes.get("activations", 0), doubt_bytes)
    shape = (batch or 1, 3, 640, 640)
    image = Binding(name="images", dtype="float32", dims=dims, shape=shape, size_bytes=4 * 3 * 640 * 640 * shape[0])
    return Estimate(
        model=ModelFacts(name=name, format="onnx", parameters=11_156_639, inputs=(image,), outputs=(), digest=lambda: "0" * 64),
        runtime="tensorrt",
        precision=precision,
        batch=batch,
        memory_format="engine",
        gpu=gpu,
        budget=Budget(**parts),
        phases={"context": PhasePeak.of(130 * MIB)},
        lower_bound_bytes=100 * MIB,
        sum_of_outputs_bytes=400 * MIB,
        peak=PeakMoment(op="Conv_1", index=1, live=live),
        coverage=Coverage(ops=9, exact=9 - len(unmodelled), measured=0, bounded=0, unmodelled=unmodelled),
        kept=kept,
        layers=layers,
        profile=profile,
        notes=notes,
        program=MemoryProgram(buffers=(), events=(), ops=("load", "Conv_1"), phases=()),
    )


def layer(name: str, output_bytes: int) -> Layer:
    return Layer(
        name=name,
        kind="convolution",
        ops=("Conv", "Relu"),
        dtype="float16",
        output_shape=(1, 64, 80, 80),
        output_bytes=output_bytes,
        weights_bytes=MIB,
        workspace_bytes=0,
        live_bytes=2 * output_bytes,
    )
