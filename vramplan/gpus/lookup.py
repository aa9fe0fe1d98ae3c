"""From what a person types to a card, without ever guessing how much memory it has."""

from __future__ import annotations

import difflib
import functools
import re

from vramplan.errors import UsageError
from vramplan.gpus.catalogue import Gpu, all_gpus
from vramplan.units import GIB, MAX_BYTES

_BRANDS = re.compile(r"(nvidia|geforce|quadro|tesla|jetson|rtx|gtx|pro(?=\d)|super|laptop|mobile)")
_MEMORY = re.compile(r"(\d+)\s*gi?b\b")
_TOKEN = re.compile(r"\d+gb|[a-z]*\d+|[a-z]+")
_FILLERS = frozenset(
    {
        *("nvidia", "geforce", "tesla", "nvgpu", "gpu", "graphics", "card"),
        *("generation", "edition", "server", "workstation", "developer", "dev", "kit", "module"),
    }
)
_SERIES = frozenset({"rtx", "gtx", "jetson"})
_SPELLINGS = {"mobile": "laptop", "bw": "blackwell"}

_PRODUCTS = {frozenset({"orin", "nano"}): "jetson-orin-nano-8gb"}
"""Names that belong to one product although a longer name contains them: the "Orin Nano" on sale as a developer kit
has the 8 GB module; the 4 GB module and the Super mode are asked for by their full names."""

_LISTED_LIMIT = 8


def find_gpu(name: str) -> Gpu:
    """The card that *name* means: ``3090``, ``RTX3090``, ``NVIDIA GeForce RTX 3090``, ``t4``, ``a100-40gb``, ``agx orin 64``.

    Every word of *name* must belong to the card. A name that is one card's own wins over longer ones (``3080`` is not
    the 3080 Ti), and one chip on several boards with the same memory is the first of them (``a100 80gb`` is the PCIe
    board). Raises `UsageError`, with up to eight close names, where no card or cards of different memory are meant.
    """
    words = _words(name)
    found = [gpu for gpu in all_gpus() if words and all(_belongs(word, gpu) for word in words)]
    own = [gpu for gpu in found if words - _SERIES in _own_names(gpu)]
    if words - _SERIES in _PRODUCTS:
        own = [gpu for gpu in found if gpu.key == _PRODUCTS[words - _SERIES]]
    candidates = own or found
    if not candidates:
        raise _unknown(name)
    if len({(gpu.architecture, gpu.sm_count, gpu.vram_marketed_bytes, gpu.nvdec_count) for gpu in candidates}) > 1:
        raise _ambiguous(name, candidates)
    return candidates[0]


def custom_gpu(vram_bytes: int) -> Gpu:
    """A card of which only the memory is known: *vram_bytes* is taken as what CUDA can allocate on it."""
    if not 0 < vram_bytes <= MAX_BYTES:
        raise UsageError(f"VRAM: {vram_bytes} bytes is no size of a card", hint="Write it like --vram 24GiB.")
    return Gpu(
        key="custom",
        name=f"{vram_bytes / GIB:.1f} GiB card",
        family="custom",
        vram_marketed_bytes=vram_bytes,
        source="the size was given by the user",
    )


def _words(text: str) -> frozenset[str]:
    """The words that tell cards apart: ``"RTX4060ti 16 GB"`` → rtx, 4060, ti, 16gb."""
    spaced = _MEMORY.sub(r" \1gb ", _BRANDS.sub(r" \1 ", text[:200].lower()))
    words = (_SPELLINGS.get(word, word) for word in _TOKEN.findall(spaced))
    return frozenset(words) - _FILLERS


@functools.cache
def _card_words(gpu: Gpu) -> frozenset[str]:
    memory = f"{gpu.vram_marketed_bytes // GIB}gb"
    return _words(f"{gpu.key} {gpu.name} {gpu.architecture}") | {memory, (gpu.memory_type or "").lower()}


@functools.cache
def _own_names(gpu: Gpu) -> frozenset[frozenset[str]]:
    """The card's key and full name as words, without the series, which people leave out."""
    return frozenset(_words(text) - _SERIES for text in (gpu.key, gpu.name))


def _belongs(word: str, gpu: Gpu) -> bool:
    return word in _card_words(gpu) or f"{word}gb" in _card_words(gpu)


def _unknown(name: str) -> UsageError:
    keys = {_compact(spelling): gpu.key for gpu in all_gpus() for spelling in (gpu.key, gpu.name)}
    matches = difflib.get_close_matches(_compact(name[:200]), keys, n=2 * _LISTED_LIMIT, cutoff=0.5)
    near = dict.fromkeys(keys[match] for match in matches)
    listed = ", ".join(list(near)[:_LISTED_LIMIT])
    hint = f"Did you mean: {listed}? " if listed else ""
    return UsageError(
        f"unknown GPU {name[:80]!r}",
        hint=f"{hint}`vramplan gpus` lists the cards; for one that is not listed, give its memory: --vram 24GiB",
    )


def _compact(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _ambiguous(name: str, candidates: list[Gpu]) -> UsageError:
    listed = ", ".join(gpu.key for gpu in candidates[:_LISTED_LIMIT])
    more = len(candidates) - _LISTED_LIMIT
    rest = f" and {more} more" if more > 0 else ""
    return UsageError(
        f"GPU {name[:80]!r} can mean {len(candidates)} cards: {listed}{rest}",
        hint="Name one of them; for a card that is not listed, give its memory: --vram 24GiB",
    )
