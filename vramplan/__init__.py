"""How much GPU memory a model takes, and how many video streams a card carries, before anything runs.

>>> import vramplan as vp
>>> e = vp.estimate("yolov8s", batch=8, precision="fp16", gpu="3090")
>>> e.budget.inputs_bytes == 8 * 3 * 640 * 640 * 2
True
"""

from vramplan.budget import Budget
from vramplan.errors import InternalError, MachineError, MeasurementError, ModelError, UsageError, VramplanError
from vramplan.estimate import estimate
from vramplan.gpus import Gpu, find_gpu
from vramplan.gpus import all_gpus as gpus
from vramplan.program import Buffer, MemoryProgram
from vramplan.ranges import Evidence, Range
from vramplan.result import Estimate
from vramplan.streams import StreamsPlan, streams
from vramplan.video import Stream, Video

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Buffer",
    "Estimate",
    "Evidence",
    "Gpu",
    "InternalError",
    "MachineError",
    "MeasurementError",
    "MemoryProgram",
    "ModelError",
    "Range",
    "Stream",
    "StreamsPlan",
    "UsageError",
    "Video",
    "VramplanError",
    "estimate",
    "find_gpu",
    "gpus",
    "streams",
]
