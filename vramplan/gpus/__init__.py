"""Which GPUs there are, how much of their memory a program can use, and what a process takes before it starts."""

from vramplan.gpus.calibration import CalibratedDecode, Calibration
from vramplan.gpus.calibration_store import calibrations_of
from vramplan.gpus.catalogue import Catalogue, Gpu, all_gpus, parse_catalogue
from vramplan.gpus.context import RUNTIMES, ContextReading, bare_context_bytes, context_bytes, context_readings, context_reason
from vramplan.gpus.lookup import custom_gpu, find_gpu
from vramplan.gpus.usable import inline_ecc_by_default, usable_bytes, usable_reason

__all__ = [
    "RUNTIMES",
    "CalibratedDecode",
    "Calibration",
    "Catalogue",
    "ContextReading",
    "Gpu",
    "all_gpus",
    "bare_context_bytes",
    "calibrations_of",
    "context_bytes",
    "context_readings",
    "context_reason",
    "custom_gpu",
    "find_gpu",
    "inline_ecc_by_default",
    "parse_catalogue",
    "usable_bytes",
    "usable_reason",
]
