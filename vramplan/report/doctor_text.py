"""A diagnosis to read or to paste into an issue, and the same for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from vramplan.device.probe import Activity, Device
from vramplan.diagnosis import Card, Diagnosis, Facts, Severity
from vramplan.report.canvas import MAX_WIDTH, Canvas
from vramplan.report.export import to_json
from vramplan.report.words import printable
from vramplan.units import format_bytes

UNKNOWN = "unknown"
_LABEL_WIDTH = 12
_UUID_CHARS = 12
_MOST_PROCESSES = 20
_STYLES = {Severity.PROBLEM: "bold red", Severity.NOTICE: "yellow"}


def doctor_json(diagnosis: Diagnosis) -> str:
    """Every fact and every finding; sizes in bytes, null is unknown."""
    content: dict[str, Any] = asdict(diagnosis)
    return to_json({"can_measure": diagnosis.can_measure, **content})


def doctor_text(diagnosis: Diagnosis, *, width: int = MAX_WIDTH, colour: bool = False) -> str:
    """The machine, each GPU, settings, runtimes, findings, and one sentence."""
    canvas = Canvas(width=width, colour=colour)
    for index, line in enumerate(_machine(diagnosis.facts)):
        canvas.line(printable(line), style="" if index else "bold")
    for card in diagnosis.facts.cards:
        canvas.blank()
        canvas.line(printable(_title(card)), style="bold")
        for label, text in _card(card):
            canvas.line(printable(f"  {label:<{_LABEL_WIDTH}} {text}"))
    _section(canvas, "Settings", _settings(diagnosis.facts))
    _section(canvas, "Runtimes", _runtimes(diagnosis.facts))
    _findings(canvas, diagnosis)
    canvas.blank()
    canvas.line(sentence(diagnosis), style="bold green" if diagnosis.can_measure else "bold red")
    return canvas.text()


def sentence(diagnosis: Diagnosis) -> str:
    """The answer."""
    if diagnosis.can_measure:
        return "A GPU can be measured here."
    count = sum(finding.severity is Severity.PROBLEM for finding in diagnosis.findings)
    return f"No GPU can be measured here: {count} problem{'s' if count > 1 else ''}. Estimates work without one."


def _section(canvas: Canvas, title: str, lines: Iterator[str]) -> None:
    canvas.blank()
    canvas.line(title, style="bold")
    for line in lines:
        canvas.line(printable(f"  {line}"))


def _findings(canvas: Canvas, diagnosis: Diagnosis) -> None:
    canvas.blank()
    canvas.line("Findings" if diagnosis.findings else "Findings: none", style="bold")
    for finding in diagnosis.findings:
        canvas.line(printable(f"  {finding.severity}: {_closed(finding.what)} {finding.why}"), style=_STYLES[finding.severity])
        if finding.command:
            canvas.line(printable(f"    next: {finding.command}"))


def _closed(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _machine(facts: Facts) -> Iterator[str]:
    host = facts.host
    yield f"vramplan {host.vramplan} · Python {host.python} · {host.platform}"
    if facts.driver is not None:
        yield f"driver {facts.driver.version} · serves CUDA up to {facts.driver.cuda or UNKNOWN} · NVML answers"
    else:
        yield f"driver {UNKNOWN} · NVML does not answer"
    kinds = ["Linux inside Windows (WSL)"] * host.is_wsl
    kinds += [f"in a container ({host.container})"] if host.container else []
    kinds += [f"Jetson: {host.jetson}"] if host.jetson else []
    if kinds:
        yield " · ".join(kinds)


def _title(card: Card) -> str:
    device = card.device
    uuid = device.uuid if len(device.uuid) <= _UUID_CHARS else f"{device.uuid[:_UUID_CHARS]}…"
    capability = f"compute capability {device.compute_capability or UNKNOWN}"
    return f"GPU {device.index}: {device.name} · catalogue: {card.key or 'not listed'} · {uuid} · {capability}"


def _card(card: Card) -> Iterator[tuple[str, str]]:
    yield "totals", _totals(card)
    reason = _reason(card)
    if reason:
        yield "they differ", reason
    memory = card.memory
    reserved = memory.reserved_bytes if memory else None
    now = f"used {_size(memory.used_bytes)} · free {_size(memory.free_bytes)}" if memory else UNKNOWN
    yield "memory now", f"{now} · kept by the driver {_size(reserved)}"
    yield from _processes(card)
    yield "mode", _mode(card.device)
    yield "PCIe", f"now {_link(card.device)} · at most {_link(card.device, is_max=True)}"
    yield "clocks", _clocks(card.device, card.activity)
    yield "calibration", UNKNOWN if card.calibration_count is None else str(card.calibration_count or "none")
    for words in card.unanswered:
        yield "no answer", words


def _totals(card: Card) -> str:
    source = {"torch": "read by PyTorch", "catalogue": "of the catalogue", None: ""}[card.cuda_total_source]
    shown = _size(card.memory.total_bytes if card.memory else None)
    cuda = f"CUDA {_size(card.cuda_total_bytes)}" + (f" ({source})" if source else "")
    return f"marketed {_size(card.marketed_bytes)} · nvidia-smi {shown} · {cuda}"


def _reason(card: Card) -> str:
    """Where the bytes between the totals are."""
    parts = []
    total_bytes = card.memory.total_bytes if card.memory else None
    if total_bytes is not None and card.marketed_bytes is not None and total_bytes < card.marketed_bytes:
        taken_by = "ECC's check bits, which take a sixteenth, and the board's own" if card.is_inline_ecc else "the board's own"
        parts.append(f"{_size(card.marketed_bytes - total_bytes)} never reach the driver: {taken_by}")
    if total_bytes is not None and card.cuda_total_bytes is not None and card.cuda_total_bytes < total_bytes:
        parts.append(f"{_size(total_bytes - card.cuda_total_bytes)} the driver keeps from programs")
    return "; ".join(parts)


def _processes(card: Card) -> Iterator[tuple[str, str]]:
    if not card.processes:
        yield "processes", UNKNOWN if card.processes is None else "none that the driver names"
        return
    for process in card.processes[:_MOST_PROCESSES]:
        size = "memory not told by the driver" if process.used_bytes is None else format_bytes(process.used_bytes)
        yield "process", f"{process.pid} {process.name or '(of another user or container)'} · {size}"
    if len(card.processes) > _MOST_PROCESSES:
        yield "processes", f"and {len(card.processes) - _MOST_PROCESSES} more"


def _mode(device: Device) -> str:
    switches = {"ECC": device.is_ecc, "MIG": device.is_mig, "display": device.is_display}
    parts = [f"{name} {_switch(is_on)}" for name, is_on in switches.items()]
    return " · ".join([*parts, *filter(None, (device.driver_model, device.virtualization))])


def _link(device: Device, *, is_max: bool = False) -> str:
    generation = device.pcie_generation_max if is_max else device.pcie_generation
    lanes = device.pcie_lane_count_max if is_max else device.pcie_lane_count
    return UNKNOWN if generation is None or lanes is None else f"{generation}.0 x{lanes}"


def _clocks(device: Device, activity: Activity | None) -> str:
    if activity is None:
        return UNKNOWN
    held = f"held down by {', '.join(activity.throttle)}" if activity.throttle else "not held down"
    sm = f"SM {_number(activity.sm_clock_mhz)} of {_number(device.sm_clock_max_mhz)} MHz"
    return f"{sm} · video {_number(activity.video_clock_mhz)} of {_number(device.video_clock_max_mhz)} MHz · {held}"


def _settings(facts: Facts) -> Iterator[str]:
    for setting in facts.settings:
        yield f"{setting.name}={setting.value}: {setting.effect}"
    if not facts.settings:
        yield "none that matter are set"


def _runtimes(facts: Facts) -> Iterator[str]:
    details = {"torch": _torch_words(facts), "onnxruntime": _provider_words(facts), "onnxruntime-gpu": _provider_words(facts)}
    for package, version in facts.installed.versions.items():
        detail = details.get(package, "") if version else ""
        yield f"{package:<18} {version or 'not installed'}" + (f" · {detail}" if detail else "")


def _torch_words(facts: Facts) -> str:
    torch = facts.installed.torch
    if torch is None or torch.cuda is None:
        return f"not asked: {torch.failure}" if torch and torch.failure else UNKNOWN
    if not torch.cuda:
        return "CPU build"
    seen = UNKNOWN if torch.gpu_count is None else str(torch.gpu_count)
    parts = [f"built for CUDA {torch.cuda}", f"cuDNN {torch.cudnn or UNKNOWN}", f"GPUs it sees: {seen}"]
    return " · ".join([*parts, *([f"then: {torch.failure}"] if torch.failure else [])])


def _provider_words(facts: Facts) -> str:
    providers = facts.installed.providers
    if providers is None:
        return UNKNOWN
    kind = "GPU build" if "CUDAExecutionProvider" in providers else "CPU build"
    names = ", ".join(provider.removesuffix("ExecutionProvider") for provider in providers)
    return f"{kind} ({names})"


def _size(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _switch(is_on: bool | None) -> str:
    return {True: "on", False: "off", None: UNKNOWN}[is_on]
