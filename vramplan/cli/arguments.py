"""From the text of flags to values, with an error that names the flag and shows how to write it."""

from __future__ import annotations

from collections.abc import Iterable

from vramplan.errors import UsageError, close_matches
from vramplan.units import parse_bytes

MAX_BATCH = 1 << 20
MAX_DIM = 1 << 40
ALL_RUNTIMES = "all"


def read_list(flag: str, texts: Iterable[str]) -> list[str]:
    """``1,4,8`` or the flag several times, in order. UsageError for empty items and for repeats."""
    items = [item.strip() for text in texts for item in text.split(",")]
    if "" in items:
        raise UsageError(f"{flag}: an item of the list is empty", hint=f"Separate items with one comma: {flag} a,b,c")
    check_repeats(flag, items)
    return items


def check_repeats(flag: str, items: list[str]) -> None:
    """UsageError that names the first item that comes twice."""
    repeated = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if repeated is not None:
        raise UsageError(f"{flag}: {repeated[:40]!r} is there twice", hint="Name each once.")


def read_batches(texts: Iterable[str]) -> list[int | None]:
    """``-b 1,4,8``; without the flag one batch that the model decides."""
    words = read_list("-b", texts)
    batches = [_positive("-b", word, MAX_BATCH) for word in words]
    check_repeats("-b", list(map(str, batches)))
    return [*batches] or [None]


def read_precisions(texts: Iterable[str]) -> list[str]:
    """``--precision fp32,fp16``, by name or alias."""
    from vramplan.precision import find_policy  # noqa: PLC0415  keeps start-up fast

    names = [find_policy(word).name for word in read_list("--precision", texts)]
    check_repeats("--precision", names)
    return names


def read_runtimes(texts: Iterable[str], model: str) -> list[str]:
    """``--runtime tensorrt``, or ``all`` that can run *model*; none without the flag. UsageError for other words."""
    from vramplan.choosing import RUNTIMES, possible_runtimes  # noqa: PLC0415  keeps start-up fast

    words = [word.lower() for word in read_list("--runtime", texts)]
    if ALL_RUNTIMES in words:
        if len(words) > 1:
            raise UsageError("--runtime: all has the others in it", hint="Write --runtime all alone.")
        return [*possible_runtimes(model)]
    for word in words:
        if word not in RUNTIMES:
            raise UsageError(f"--runtime: unknown runtime {word[:40]!r}", hint=close_matches(word, (*RUNTIMES, ALL_RUNTIMES)))
    return words


def read_shapes(flag: str, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """``images:1x3x640x640`` by input name; the name may contain colons itself."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not (name and colon):
            raise UsageError(f"{flag}: {text[:80]!r} has no input name", hint=f"Write it like {flag} images:1x3x640x640")
        if name in shapes:
            raise UsageError(f"{flag}: input {name[:80]!r} is there twice", hint="Name each once.")
        words = sizes.lower().replace("×", "x").split("x") if sizes else []
        shapes[name] = tuple(_positive(f"{flag} {name[:80]}", word, MAX_DIM) for word in words)
    return shapes


def read_turns(flag: str, texts: Iterable[str]) -> list[dict[str, tuple[int, ...]]]:
    """The sets of shapes that a model is run with in turn: an input with several shapes has one in each, the others stay."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for text in texts:
        for name, shape in read_shapes(flag, [text]).items():
            shapes.setdefault(name, []).append(shape)
    count = max(map(len, shapes.values()), default=1)
    for name, given in shapes.items():
        if len(given) not in (1, count):
            raise UsageError(
                f"{flag}: input {name[:80]!r} has {len(given)} shapes, another one {count}",
                hint="Give each input as many shapes as there are runs, or one for all of them.",
            )
    return [{name: given[min(turn, len(given) - 1)] for name, given in shapes.items()} for turn in range(count)]


def read_dims(texts: Iterable[str]) -> dict[str, int]:
    """``height=640`` by the name of a dynamic dimension; several may stand in one text, with commas."""
    dims: dict[str, int] = {}
    for text in read_list("--dim", texts):
        name, equals, size = text.rpartition("=")
        if not (name and equals):
            raise UsageError(f"--dim: {text[:80]!r} is not NAME=SIZE", hint="Write it like --dim height=640")
        if name in dims:
            raise UsageError(f"--dim: {name[:80]!r} is there twice", hint="Name each once.")
        dims[name] = _positive(f"--dim {name[:80]}", size, MAX_DIM)
    return dims


def read_options(texts: Iterable[str]) -> dict[str, str]:
    """``key=value`` of ``--runtime-option``, one a flag. Which keys there are is the runtime's to say."""
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise UsageError(
                f"--runtime-option: {text[:80]!r} is not KEY=VALUE",
                hint="Write it like --runtime-option arena_extend_strategy=kSameAsRequested",
            )
        if key in options:
            raise UsageError(f"--runtime-option: {key[:80]!r} is there twice", hint="Name each once.")
        options[key] = value
    return options


def read_size(flag: str, text: str | None) -> int | None:
    """``8GiB`` in bytes; None without the flag. UsageError for nothing at all."""
    if text is None:
        return None
    size_bytes = parse_bytes(text, what=flag)
    if size_bytes == 0 and flag != "--workspace":
        raise UsageError(f"{flag}: {text[:40]!r} is no memory at all", hint=f"Write it like {flag} 8GiB")
    return size_bytes


def check_sections(*, peak: bool, layers: bool, top: int | None, csv: bool) -> None:
    """UsageError for a --top that limits nothing, and for two tables in one CSV."""
    if top is not None and top < 1:
        raise UsageError(f"--top: {top} is not a whole number from 1", hint="Write it like --top 10")
    if top is not None and not (peak or layers):
        raise UsageError("--top needs --peak or --layers", hint="Add the one whose rows it limits.")
    if csv and peak and layers:
        raise UsageError("--csv has one table: --peak and --layers exclude each other", hint="Run the command once for each.")


def _positive(flag: str, text: str, most: int) -> int:
    """A whole number from 1 to *most*."""
    word = text.strip()
    if not (word.isascii() and word.isdigit() and len(word) < 20 and 1 <= int(word) <= most):
        raise UsageError(f"{flag}: {word[:40]!r} is not a whole number from 1 to {most}", hint="Write it in digits, like 8.")
    return int(word)
