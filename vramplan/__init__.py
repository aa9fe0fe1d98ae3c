"""How much GPU memory a model takes, and how many video streams a card carries, before anything runs.

>>> import vramplan as vp
>>> e = vp.estimate("yolov8s", batch=8, precision="fp16", gpu="3090")
>>> e.budget.inputs_bytes == 8 * 3 * 640 * 640 * 2
True
"""

import importlib
from typing import TYPE_CHECKING

from vramplan.budget import Budget
from vramplan.errors import InternalError, MachineError, MeasurementError, ModelError, UsageError, VramplanError
from vramplan.estimate import estimate
from vramplan.gpus import Gpu, find_gpu
from vramplan.gpus import all_gpus as gpus
from vramplan.program import Buffer, MemoryProgram
from vramplan.ranges import Evidence, Range
from vramplan.result import Estimate
from vramplan.sweep import Sweep, sweep

if TYPE_CHECKING:
    from vramplan.comparing import Comparison, diff
    from vramplan.convolutions import conv_workspace
    from vramplan.device.measurement import Measurement
    from vramplan.device.reporter import report_memory
    from vramplan.fleet import StreamsPlan, streams
    from vramplan.measuring import measure
    from vramplan.replaying import Replay, replay
    from vramplan.sources.recording import Recording, read_recording, write_recording
    from vramplan.verification import Verification, verify
    from vramplan.video import Stream, Video

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Buffer",
    "Comparison",
    "Estimate",
    "Evidence",
    "Gpu",
    "InternalError",
    "MachineError",
    "Measurement",
    "MeasurementError",
    "MemoryProgram",
    "ModelError",
    "Range",
    "Recording",
    "Replay",
    "Stream",
    "StreamsPlan",
    "Sweep",
    "UsageError",
    "Verification",
    "Video",
    "VramplanError",
    "conv_workspace",
    "diff",
    "estimate",
    "find_gpu",
    "gpus",
    "measure",
    "read_recording",
    "replay",
    "report_memory",
    "streams",
    "sweep",
    "verify",
    "write_recording",
]

_LATER = {
    "Comparison": "comparing",
    "Measurement": "device.measurement",
    "Recording": "sources.recording",
    "Replay": "replaying",
    "Stream": "video",
    "StreamsPlan": "fleet",
    "Verification": "verification",
    "Video": "video",
    "conv_workspace": "convolutions",
    "diff": "comparing",
    "measure": "measuring",
    "read_recording": "sources.recording",
    "replay": "replaying",
    "report_memory": "device.reporter",
    "streams": "fleet",
    "verify": "verification",
    "write_recording": "sources.recording",
}
"""Names whose modules are loaded when somebody asks: an estimate does not pay for the capacity calculator."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
