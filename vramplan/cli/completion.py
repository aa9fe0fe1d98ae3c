"""What a shell offers for a half-typed word: names of models, cards, precisions, runtimes. Typer asks when Tab is pressed.

Nothing here reads a model, and a file that cannot be listed is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

MODEL_SUFFIXES = (".onnx", ".pt2", ".pt", ".pth", ".safetensors", ".engine", ".plan", ".py")

Offer = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """Built-in models, and files of this folder that may be one. A shell that is offered nothing completes paths itself."""
    from vramplan.sources.zoo import zoo  # noqa: PLC0415  keeps start-up fast

    return _beginning(incomplete, (*zoo(), *_files_here(MODEL_SUFFIXES)))


def locks_and_models(incomplete: str) -> list[str]:
    """What `vramplan diff` takes: lock files too."""
    return [*models(incomplete), *_beginning(incomplete, _files_here((".json",)))]


def cards(incomplete: str) -> list[str]:
    """The names of the catalogue, also as people say them (3090 for rtx3090), and ``auto``."""
    from vramplan.gpus import all_gpus  # noqa: PLC0415  keeps start-up fast

    keys = [gpu.key for gpu in all_gpus()]
    return _last_of_list(incomplete, ["auto", *keys, *(key.removeprefix("rtx") for key in keys if key.startswith("rtx"))])


def precisions(incomplete: str) -> list[str]:
    """The names of the policies."""
    from vramplan.precision import POLICIES  # noqa: PLC0415  keeps start-up fast

    return _last_of_list(incomplete, POLICIES)


def runtimes(incomplete: str) -> list[str]:
    """The runtimes, and ``all``."""
    from vramplan.gpus import RUNTIMES  # noqa: PLC0415  keeps start-up fast

    return _last_of_list(incomplete, (*RUNTIMES, "all"))


def runtime_options(incomplete: str) -> list[str]:
    """The keys of a session's options."""
    from vramplan.runtimes.onnxruntime.options import OPTION_NAMES  # noqa: PLC0415  keeps start-up fast

    return _beginning(incomplete, (f"{name}=" for name in OPTION_NAMES))


def words(*choices: str) -> Offer:
    """A flag that takes one of *choices*."""
    return lambda incomplete: _beginning(incomplete, choices)


def _beginning(incomplete: str, choices: Iterable[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(incomplete)]


def _last_of_list(incomplete: str, choices: Iterable[str]) -> list[str]:
    """``fp32,f`` is completed to ``fp32,fp16``: what is in the list already is not offered again."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{choice}" for choice in _beginning(last, choices) if choice not in before.split(",")]


def _files_here(suffixes: tuple[str, ...]) -> list[str]:
    try:
        return sorted(path.name for path in Path().iterdir() if path.name.endswith(suffixes))
    except OSError:
        return []
