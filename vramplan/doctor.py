"""Examines this machine: every question is asked by itself, with a limit in time, so that one bad answer costs only itself."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from vramplan.device.host import Host, read_host
from vramplan.device.installed import Installed, TorchFacts, read_installed
from vramplan.device.nvml import open_probe
from vramplan.device.probe import Device, Memory, Probe
from vramplan.device.settings import read_settings
from vramplan.device.this_gpu import gpu_of
from vramplan.diagnosis import Card, Complaint, Diagnosis, Facts
from vramplan.errors import MachineError, VramplanError
from vramplan.findings import find
from vramplan.gpus import Gpu, all_gpus, calibrations_of

T = TypeVar("T")

ANSWER_TIMEOUT_S = 20.0
"""NVML answers in milliseconds; without persistence mode the first question wakes the GPU, which takes some seconds."""

CountCalibrations = Callable[[str], int | None]


def examine(
    probe: Probe | MachineError,
    environment: Mapping[str, str],
    *,
    host: Host,
    installed: Installed,
    count_calibrations: CountCalibrations = lambda _: None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Diagnosis:
    """The facts and the findings. *probe* is the driver, or why there is none. Raises nothing that an answer could cause."""
    questions = _Questions(timeout_s)
    driver, complaint = None, None
    cards: tuple[Card, ...] = ()
    if isinstance(probe, MachineError):
        complaint = Complaint(message=probe.message, hint=probe.hint)
    else:
        driver = questions.ask(probe.driver)
        devices = questions.ask(probe.devices) or ()
        if not devices and questions.unanswered:
            complaint = Complaint(message=questions.unanswered[-1], hint=questions.hint or "nvidia-smi")
        cards = tuple(_card(probe, device, installed.torch, count_calibrations, timeout_s) for device in devices)
    facts = Facts(
        host=host,
        installed=installed,
        settings=read_settings(environment),
        driver=driver,
        complaint=complaint,
        cards=cards,
    )
    return Diagnosis(facts=facts, findings=find(facts))


def examine_here(environment: Mapping[str, str], *, version: str) -> Diagnosis:
    """Examine this machine, now. Takes as long as PyTorch and ONNX Runtime take to be imported in processes of their own."""
    opening = _Questions(ANSWER_TIMEOUT_S)
    probe = opening.ask(open_probe)
    return examine(
        probe or MachineError(opening.unanswered[-1], hint=opening.hint or "nvidia-smi"),
        environment,
        host=read_host(environment, version=version),
        installed=read_installed(environment),
        count_calibrations=count_calibrations,
    )


def count_calibrations(gpu_key: str) -> int | None:
    """How many calibrations of this card there are, the user's and those that came along; None where they cannot be read."""
    try:
        return len(calibrations_of(gpu_key))
    except (OSError, ValueError, VramplanError):
        return None


class _Questions:
    """Asks one after the other, each on a thread of its own: a driver that hangs is left behind, and asked nothing more."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._hangs = False
        self.unanswered: list[str] = []
        self.hint = ""

    def ask(self, question: Callable[[], T]) -> T | None:
        """The answer; None when there is none, and then ``unanswered`` grew by the reason."""
        if self._hangs:
            return None
        answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()
        threading.Thread(target=lambda: answers.put(_outcome(question)), daemon=True).start()
        try:
            answer, error = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            self._hangs = True
            self.unanswered.append(f"the driver did not answer within {self._timeout_s:g} s")
            return None
        if error is not None:
            self._note(error)
        return answer

    def _note(self, error: Exception) -> None:
        if isinstance(error, VramplanError):
            self.unanswered.append(error.message)
            self.hint = error.hint
        else:
            self.unanswered.append(f"{type(error).__name__}: {error}"[:200])


def _outcome(question: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return question(), None
    except Exception as error:  # whatever a driver or its wrapper throws: a diagnosis goes on
        return None, error


def _card(
    probe: Probe, device: Device, torch: TorchFacts | None, count_calibrations: CountCalibrations, timeout_s: float
) -> Card:
    questions = _Questions(timeout_s)
    memory = questions.ask(lambda: probe.memory(device))
    gpu = questions.ask(lambda: gpu_of(probe, device)) if memory is not None else None
    known = gpu if gpu in all_gpus() else None
    total_bytes, source = _cuda_total(device, known, torch, memory)
    return Card(
        device=device,
        key=known.key if known else None,
        marketed_bytes=known.vram_marketed_bytes if known else None,
        cuda_total_bytes=total_bytes,
        cuda_total_source=source,
        is_inline_ecc=bool(device.is_ecc and known and (known.memory_type or "").startswith("GDDR")),
        memory=memory,
        processes=questions.ask(lambda: probe.processes(device)),
        activity=questions.ask(lambda: probe.activity(device)),
        calibration_count=count_calibrations(known.key) if known else None,
        unanswered=tuple(questions.unanswered),
    )


def _cuda_total(
    device: Device, gpu: Gpu | None, torch: TorchFacts | None, memory: Memory | None
) -> tuple[int | None, str | None]:
    """What CUDA calls total and who says so: PyTorch on this machine, else the catalogue, as far as the driver agrees."""
    if torch is not None and device.uuid in torch.gpu_totals_bytes:
        return torch.gpu_totals_bytes[device.uuid], "torch"
    listed = gpu.cuda_visible_total_bytes if gpu else None
    if listed is None or (memory is not None and listed > memory.total_bytes):
        return None, None
    return listed, "catalogue"
