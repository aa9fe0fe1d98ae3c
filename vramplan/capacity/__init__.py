"""How many streams a card carries: four limits, each with its doubt, and the one that binds."""

from vramplan.capacity.limits import LIMITS, Limit
from vramplan.capacity.load import DEFAULT_EXTRA, Engine, EngineMemory, Given, Load, Margin, Topology
from vramplan.capacity.solve import CardPlan, solve
from vramplan.capacity.span import Span
from vramplan.capacity.work import FrameWork, frame_work

__all__ = [
    "DEFAULT_EXTRA",
    "LIMITS",
    "CardPlan",
    "Engine",
    "EngineMemory",
    "FrameWork",
    "Given",
    "Limit",
    "Load",
    "Margin",
    "Span",
    "Topology",
    "frame_work",
    "solve",
]
