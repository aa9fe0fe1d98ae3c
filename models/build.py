"""Build the weight-free ONNX files that `zoo.toml` names.

    python -m vramplan.models.build [NAME ...]           write them
    python -m vramplan.models.build --check [NAME ...]   compare with the committed ones; exit 1 if they differ

The bytes depend on the exporter, so `--check` means something only under the torch version that wrote
the file; each file says which in its `producer_version`.
"""

import argparse
import importlib
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from .onnx_export import weight_free

FOLDER = Path(__file__).parent
Dims = tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What `zoo.toml` says about building one model. Invariant: `shape` has one size per input dim."""

    name: str
    path: Path
    factory: str
    parameters: int
    input_name: str
    input_dims: Dims
    shape: tuple[int, ...]
    output_name: str
    output_dims: Dims

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.input_dims):
            raise ValueError(f"zoo.toml: {self.name}: shape and input_dims differ in length")


def read_zoo(path: Path = FOLDER / "zoo.toml") -> tuple[Entry, ...]:
    """Return every model of the zoo, in file order."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(_entry(path.parent, row) for row in table["model"])


def _entry(folder: Path, row: dict[str, Any]) -> Entry:
    return Entry(
        name=row["name"],
        path=folder / row["file"],
        factory=row["factory"],
        parameters=row["parameters"],
        input_name=row["input"]["name"],
        input_dims=tuple(row["input"]["dims"]),
        shape=tuple(row["input"]["shape"]),
        output_name=row["output"]["name"],
        output_dims=tuple(row["output"]["dims"]),
    )


def make(factory: str) -> nn.Module:
    """Call `package.module:function` and return its module; the weights are random but always the same."""
    module_name, _, function = factory.partition(":")
    relative = module_name.rpartition(".")[2]
    call: Callable[[], nn.Module] = getattr(importlib.import_module(f".{relative}", __package__), function)
    torch.manual_seed(0)
    return call()


def build(entry: Entry) -> bytes:
    """Return the weight-free file of one model, after checking its parameter count."""
    module = make(entry.factory)
    count = sum(parameter.numel() for parameter in module.parameters())
    if count != entry.parameters:
        raise ValueError(f"{entry.name}: {count:,} parameters, zoo.toml says {entry.parameters:,}")
    return weight_free(
        module,
        (torch.zeros(entry.shape),),
        input_names=(entry.input_name,),
        output_names=(entry.output_name,),
        dynamic_axes={
            entry.input_name: named_dims(entry.input_dims),
            entry.output_name: named_dims(entry.output_dims),
        },
    )


def named_dims(dims: Dims) -> dict[int, str]:
    """Return the dynamic ones of `dims` by position."""
    return {index: dim for index, dim in enumerate(dims) if isinstance(dim, str)}


def difference(path: Path, content: bytes) -> str | None:
    """Return why the file at `path` is not `content`, or None when it is."""
    if not path.exists():
        return "missing"
    if path.read_bytes() == content:
        return None
    wrote, now = (onnx.load_model_from_string(data).producer_version for data in (path.read_bytes(), content))
    return "differs" if wrote == now else f"differs: written with torch {wrote}, this is torch {now}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vramplan.models.build", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: every model of the zoo")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(argv)
    entries = [entry for entry in read_zoo() if not options.names or entry.name in options.names]
    stale = [entry.name for entry in entries if not _process(entry, check=options.check)]
    return 1 if stale or not entries else 0


def _process(entry: Entry, *, check: bool) -> bool:
    content = build(entry)
    problem = difference(entry.path, content) if check else None
    if not check:
        entry.path.parent.mkdir(exist_ok=True)
        entry.path.write_bytes(content)
    print(f"{entry.name:<14} {len(content):>8,} bytes  {problem or 'ok'}", flush=True)  # noqa: T201
    return problem is None


if __name__ == "__main__":
    sys.exit(main())
