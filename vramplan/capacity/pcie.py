"""What crosses the PCIe bus for each stream, and how many streams the bus carries.

Both directions work at once, so the busier one limits. With the GPU's decoder the compressed video goes up; with CPU decode
the decoded frames do, as NV12 (a pipeline that uploads converted tensors moves more: the pessimistic end). Down go the
models' raw outputs, unless the program filters them on the GPU, which leaves a few boxes (the optimistic end).

Known limits: copies of recorded or re-encoded video are not counted; neither is a root port shared with other cards.
"""

from __future__ import annotations

from vramplan.capacity.constants import constants
from vramplan.capacity.limits import Limit
from vramplan.capacity.load import Load
from vramplan.capacity.measured import pcie_gb_s
from vramplan.capacity.span import Span
from vramplan.gpus import Gpu
from vramplan.gpus.link import LANE_GB_S
from vramplan.ranges import Evidence
from vramplan.video import Codec, Stream

BITS_PER_PX = (0.03, 0.1, 0.3)
"""Bits a compressed pixel takes, low – nominal – high: 6 Mbit/s at 1080p30 is 0.1. MJPEG takes about ten times as much."""

BOXES_BYTES = 16 * 1024
"""A few hundred boxes with class and score."""


def pcie_limit(gpu: Gpu, load: Load) -> Limit:
    """GB/s of the link against the busier direction of the average stream."""
    if gpu.unified_memory:
        reason = "CPU and GPU share one memory: nothing crosses a bus"
        return Limit(name="pcie", unit="GB/s", capacity=None, demand=None, applies=False, reason=reason)
    if (measured := pcie_gb_s(gpu)) is not None:
        return Limit(name="pcie", unit="GB/s", capacity=measured, demand=_demand(load))
    if gpu.pcie_generation is None or gpu.pcie_lane_count is None:
        return Limit(name="pcie", unit="GB/s", capacity=None, demand=None, reason=f"the PCIe link of {gpu.name} is not known")
    raw = LANE_GB_S[gpu.pcie_generation] * gpu.pcie_lane_count
    link = Span.of(raw, Evidence.CATALOGUE, f"PCIe {gpu.pcie_generation}.0 x{gpu.pcie_lane_count}, {raw:.1f} GB/s raw")
    return Limit(name="pcie", unit="GB/s", capacity=link.times(constants().pcie), demand=_demand(load))


def _demand(load: Load) -> Span:
    up, down = _up(load), _down(load)
    low, nominal, high = (max(pair) for pair in zip(up, down, strict=True))
    decoded = "decoded frames go up" if load.decode == "cpu" else "compressed video goes up"
    source = f"{decoded}, raw outputs of the models come down (optimistic end: only boxes)"
    return Span(low=low / 1e9, nominal=nominal / 1e9, high=high / 1e9, evidence=Evidence.ASSUMED, sources=(source,))


def _up(load: Load) -> tuple[float, float, float]:
    """Bytes a second of the average stream towards the card."""
    if load.decode == "gpu":
        low, nominal, high = (bits * load.mean(_compressed_px) / 8 for bits in BITS_PER_PX)
        return low, nominal, high
    frames = load.mean(lambda stream: stream.infer_fps * stream.video.frame_bytes)
    return frames, frames, max(frames, load.infer_fps * sum(engine.work.input_bytes for engine in load.engines), 2 * frames)


def _compressed_px(stream: Stream) -> float:
    """Pixels a second, those of MJPEG ten times."""
    factor = 10 if stream.video.codec is Codec.MJPEG else 1
    return stream.video.fps * stream.video.width_px * stream.video.height_px * factor


def _down(load: Load) -> tuple[float, float, float]:
    """Bytes a second of the average stream towards the host."""
    outputs = load.infer_fps * sum(engine.work.output_bytes for engine in load.engines)
    return min(outputs, load.infer_fps * BOXES_BYTES), outputs, outputs
