"""What is wrong with a machine, or worth knowing: small rules over the facts, each with the command to type next.

A rule says nothing about what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vramplan.device.installed import TorchFacts
from vramplan.device.settings import hides_all_gpus
from vramplan.diagnosis import Card, Facts, Finding, Severity
from vramplan.units import format_bytes

OLDEST_DRIVER = {11: "450.80", 12: "525.60", 13: "580.65"}
"""Linux driver from which every CUDA of a major version runs (CUDA Toolkit release notes, minor version compatibility)."""

WHEEL = {12: "cu126", 13: "cu130"}
"""For each CUDA major that a driver serves, the PyTorch wheels that run on all its drivers (download.pytorch.org/whl)."""

BUSY_RATIO = 0.2
"""SM or PCIe utilisation from which a card is no longer idle: an idle one lowers its PCIe generation to save power."""

OTHERS_RATIO = 0.05
"""Share of the memory that other programs may hold before a measurement has noticeably less."""

_INSTALL_TORCH = "pip install 'vramplan[torch]'"


def find(facts: Facts) -> tuple[Finding, ...]:
    """All findings, problems first, otherwise in the order of the rules."""
    found = [finding for rule in _RULES for finding in rule(facts)]
    found += [finding for card in facts.cards for rule in _CARD_RULES for finding in rule(card, facts)]
    return tuple(sorted(found, key=lambda finding: finding.severity is not Severity.PROBLEM))


def _problem(what: str, why: str, command: str = "") -> Finding:
    return Finding(severity=Severity.PROBLEM, what=what, why=why, command=command)


def _notice(what: str, why: str, command: str = "") -> Finding:
    return Finding(severity=Severity.NOTICE, what=what, why=why, command=command)


def _no_driver(facts: Facts) -> Iterator[Finding]:
    if facts.complaint is not None:
        why = "Memory is read from the driver: without it nothing can be measured. Estimates need no GPU."
        yield _problem(facts.complaint.message, why, _way_to_the_driver(facts))
    elif not facts.cards:
        yield _problem("the driver answers, but named no GPU", "There is nothing to measure on.", "nvidia-smi -L")


def _way_to_the_driver(facts: Facts) -> str:
    """What is to be done about the complaint on this kind of machine."""
    assert facts.complaint is not None  # noqa: S101  the caller asked
    if "(LibraryNotFound)" not in facts.complaint.message:
        return facts.complaint.hint
    if facts.host.jetson:
        return "sudo apt install nvidia-jetpack"
    if facts.host.is_wsl:
        return "in Windows, install NVIDIA's driver (none inside WSL); then: wsl --shutdown"
    starts = {"docker": "docker run --gpus all …", "podman": "podman run --device nvidia.com/gpu=all …"}
    return starts.get(facts.host.container or "", facts.complaint.hint)


def _hidden(facts: Facts) -> Iterator[Finding]:
    if hides_all_gpus(_setting(facts, "CUDA_VISIBLE_DEVICES")):
        yield _problem("CUDA_VISIBLE_DEVICES hides every GPU", "CUDA programs find no GPU.", "unset CUDA_VISIBLE_DEVICES")


def _torch(facts: Facts) -> Iterator[Finding]:
    torch = facts.installed.torch
    if torch is None:
        yield _problem("PyTorch is not installed", "It is what runs a model in a measurement.", _INSTALL_TORCH)
    elif torch.cuda is None:
        why = "It is what runs a model in a measurement."
        yield _problem(f"PyTorch could not be asked: {torch.failure or 'no answer'}", why, "python -c 'import torch'")
    elif not torch.cuda:
        yield _problem(
            f"PyTorch {facts.installed.versions['torch']} is a build without CUDA",
            "It runs models on the CPU only.",
            f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{_wheel(facts)}",
        )
    elif not torch.is_available:
        yield from _blind_torch(facts, torch)


def _blind_torch(facts: Facts, torch: TorchFacts) -> Iterator[Finding]:
    """A build with CUDA that sees no GPU. Hidden GPUs and a missing driver are told elsewhere."""
    built, served = _major(torch.cuda), _major(facts.driver.cuda if facts.driver else None)
    if built is not None and served is not None and built > served:
        newer = f"install driver {OLDEST_DRIVER[built]} or newer" if built in OLDEST_DRIVER else "install a newer driver"
        older = f"; or: pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{WHEEL[served]}"
        yield _problem(
            f"PyTorch was built for CUDA {torch.cuda}, the driver serves {facts.driver.cuda if facts.driver else '?'}",
            "A driver runs programs of its own CUDA major version and of older ones.",
            newer + (older if served in WHEEL else ""),
        )
    elif facts.complaint is None and not hides_all_gpus(_setting(facts, "CUDA_VISIBLE_DEVICES")):
        said = f": {torch.failure}" if torch.failure else ""
        why = "NVML sees the GPU and CUDA does not: often rights on /dev/nvidia*, or a driver that was updated while it ran."
        yield _problem(f"PyTorch sees no GPU{said}", why, "python -c 'import torch; torch.cuda.init()'")


def _wheel(facts: Facts) -> str:
    served = _major(facts.driver.cuda if facts.driver else None) or max(WHEEL)
    return WHEEL.get(served, WHEEL[max(WHEEL) if served > max(WHEEL) else min(WHEEL)])


def _major(version: str | None) -> int | None:
    major = (version or "").partition(".")[0]
    return int(major) if major.isdecimal() else None


def _onnxruntime(facts: Facts) -> Iterator[Finding]:
    versions, providers = facts.installed.versions, facts.installed.providers
    if versions.get("onnxruntime") and versions.get("onnxruntime-gpu"):
        yield _notice(
            "onnxruntime and onnxruntime-gpu are both installed",
            "They write the same files: which of them runs depends on the order of installation.",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    elif versions.get("onnxruntime-gpu") and providers is not None and "CUDAExecutionProvider" not in providers:
        why = "ONNX Runtime falls back to the CPU without a word."
        yield _notice("onnxruntime-gpu has no CUDA provider", why, "pip install --force-reinstall onnxruntime-gpu")
    if facts.installed.providers_failure:
        what = f"ONNX Runtime could not be asked: {facts.installed.providers_failure}"
        yield _notice(what, "It cannot be imported here.", "python -c 'import onnxruntime'")


def _optional_packages(facts: Facts) -> Iterator[Finding]:
    if facts.installed.has_cudnn is False:
        why = "The workspace of convolutions follows rules and recorded answers instead of cuDNN's own."
        yield _notice("cuDNN's libraries are not installed", why, "pip install 'vramplan[cudnn]'")
    if facts.cards and not facts.installed.versions.get("PyNvVideoCodec"):
        yield _notice("PyNvVideoCodec is not installed", "The decoder cannot be measured.", "pip install 'vramplan[video]'")


def _order(facts: Facts) -> Iterator[Finding]:
    names = {card.device.name for card in facts.cards}
    if len(names) > 1 and _setting(facts, "CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        why = "CUDA counts the fastest first, nvidia-smi and vramplan by bus: number 0 may be another GPU."
        yield _notice("this machine has different GPUs", why, "export CUDA_DEVICE_ORDER=PCI_BUS_ID")


def _wsl(facts: Facts) -> Iterator[Finding]:
    if facts.host.is_wsl and facts.cards:
        why = "The driver is Windows' and does not say how much memory a process takes, only the card."
        yield _notice("this is Linux inside Windows (WSL)", why)


def _no_memory(card: Card, facts: Facts) -> Iterator[Finding]:
    stops_all = all(other.memory is None for other in facts.cards)
    tell = _problem if stops_all else _notice
    if card.memory is None and facts.host.jetson:
        why = "CPU and GPU share one memory, and NVML does not count it: estimates work, measurements do not."
        yield tell(f"{_name(card)} is a Jetson", why, "tegrastats")
    elif card.memory is None:
        yield tell(f"the driver does not say how much memory {_name(card)} has", "It is what is measured.", "nvidia-smi -q")
    elif card.memory.reserved_bytes is None:
        why = "Used memory contains what the driver keeps for itself: up to some hundred MiB."
        yield _notice(f"the driver does not tell its own memory on {_name(card)} apart", why, "install driver 515 or newer")


def _catalogue(card: Card, _: Facts) -> Iterator[Finding]:
    if card.key is None and card.memory is not None:
        why = "Estimates for it need its memory, and rates are unknown."
        size_bytes = card.cuda_total_bytes or card.memory.total_bytes
        command = f"vramplan estimate MODEL --vram {size_bytes >> 20}MiB"
        yield _notice(f"{_name(card)} is not a card of the catalogue by its name and memory", why, command)
    elif card.calibration_count == 0:
        why = "The context is taken from the catalogue; measured once, estimates use this machine's."
        yield _notice(f"{_name(card)} has no calibration", why, "vramplan calibrate")


def _link(card: Card, _: Facts) -> Iterator[Finding]:
    device, busy = card.device, card.activity is not None and (card.activity.sm_ratio or 0) >= BUSY_RATIO
    lanes, most_lanes = device.pcie_lane_count, device.pcie_lane_count_max
    if lanes is not None and most_lanes is not None and lanes < most_lanes:
        why = "Copies take that much longer: another slot, a riser or a shared switch. Lanes do not rest when idle."
        yield _notice(f"{_name(card)} runs on {lanes} of {most_lanes} PCIe lanes", why, "nvidia-smi -q -d PCI")
    now, most = device.pcie_generation, device.pcie_generation_max
    if busy and now is not None and most is not None and now < most:
        why = "It is busy, so this is no rest: the slot or the BIOS holds the link down."
        yield _notice(f"{_name(card)} runs at PCIe {now}.0 of {most}.0", why, "nvidia-smi -q -d PCI")


def _throttled(card: Card, _: Facts) -> Iterator[Finding]:
    if card.activity is not None and card.activity.throttle:
        what = f"the clocks of {_name(card)} are held down: {', '.join(card.activity.throttle)}"
        yield _notice(what, "Times are longer than the card can do; memory is the same.", "nvidia-smi -q -d PERFORMANCE")


def _shared(card: Card, _: Facts) -> Iterator[Finding]:
    if card.device.is_mig:
        why = "What is measured is the whole card; a program sees only its instance."
        yield _notice(f"{_name(card)} is divided by MIG", why, "nvidia-smi -L")
    if card.device.virtualization == "vGPU":
        why = "Its memory is a share of a card, and some counters do not answer."
        yield _notice(f"{_name(card)} is a vGPU", why, "nvidia-smi -q -d MEMORY")
    if card.device.driver_model == "WDDM":
        why = "Windows manages the memory, and the driver does not say what a process takes; TCC does, on boards that have it."
        yield _notice(f"{_name(card)} runs under WDDM", why, f"nvidia-smi -i {card.device.index} -dm 1")


def _others(card: Card, _: Facts) -> Iterator[Finding]:
    if card.memory is None or card.memory.used_bytes < OTHERS_RATIO * card.memory.total_bytes:
        return
    why = "A measurement has less memory, and times are those of a shared card."
    yield _notice(f"{format_bytes(card.memory.used_bytes)} of {_name(card)} are used now", why, "nvidia-smi")


def _setting(facts: Facts, name: str) -> str | None:
    return next((setting.value for setting in facts.settings if setting.name == name), None)


def _name(card: Card) -> str:
    return f"GPU {card.device.index} ({card.device.name})"


_RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _no_driver, _hidden, _torch, _onnxruntime, _optional_packages, _order, _wsl,
)  # fmt: skip
_CARD_RULES: tuple[Callable[[Card, Facts], Iterator[Finding]], ...] = (
    _no_memory, _catalogue, _link, _throttled, _shared, _others,
)  # fmt: skip
