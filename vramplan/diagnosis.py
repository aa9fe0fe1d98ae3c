"""What `vramplan doctor` found out, as plain data: None is an answer that nobody gave."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vramplan.device.host import Host
from vramplan.device.installed import Installed
from vramplan.device.probe import Activity, Device, Driver, GpuProcess, Memory
from vramplan.device.settings import Setting


class Severity(StrEnum):
    """A problem stops every measurement; a notice changes what one means."""

    PROBLEM = "problem"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What, why it matters, and what to type; ``command`` is empty where nothing can be typed."""

    severity: Severity
    what: str
    why: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU and its three totals: on the box (catalogue), of nvidia-smi (``memory``), of CUDA.

    ``key`` is the catalogue's name. ``cuda_total_source`` is ``torch`` or ``catalogue``. ``is_inline_ecc`` is whether check
    bits take a sixteenth of the memory. ``unanswered`` are the driver's own words for what it did not answer.

    Invariant: a CUDA total has a source.
    """

    device: Device
    key: str | None = None
    marketed_bytes: int | None = None
    cuda_total_bytes: int | None = None
    cuda_total_source: str | None = None
    is_inline_ecc: bool = False
    memory: Memory | None = None
    processes: tuple[GpuProcess, ...] | None = None
    activity: Activity | None = None
    calibration_count: int | None = None
    unanswered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.cuda_total_bytes is None) != (self.cuda_total_source is None):
            raise ValueError(f"{self.device.name}: a total without a source, or a source without a total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What the driver, or the way to it, said instead of an answer."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was asked. ``complaint`` is why there is no driver, None when it answers."""

    host: Host
    installed: Installed
    settings: tuple[Setting, ...] = ()
    driver: Driver | None = None
    complaint: Complaint | None = None
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The facts and what is to be said of it, problems first."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def can_measure(self) -> bool:
        """Whether a GPU can be measured here."""
        return not any(finding.severity is Severity.PROBLEM for finding in self.findings)
