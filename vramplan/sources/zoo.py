"""The built-in models: names, published numbers, and where their weight-free ONNX files lie."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

PACKAGE = "vramplan.models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One built-in model, as ``zoo.toml`` lists it.

    ``parameters`` counts elements before batch norms are folded; ``gflops`` is published, at ``default_dims``, two
    operations a multiply-add; ``factory`` names the PyTorch definition behind the file.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    file: str
    factory: str
    parameters: int
    gflops: float
    gflops_source: str
    default_dims: Mapping[str, int]

    @property
    def path(self) -> Traversable:
        """The weight-free ONNX file."""
        return files(PACKAGE).joinpath(self.file)


@functools.cache
def zoo() -> Mapping[str, ZooModel]:
    """Every built-in model by name."""
    rows = tomllib.loads(files(PACKAGE).joinpath("zoo.toml").read_text(encoding="utf-8"))["model"]
    return {row["name"]: _zoo_model(row) for row in rows}


def find_zoo_model(name: str) -> ZooModel | None:
    """The built-in model called *name* or an alias of it, whatever the case; None when there is none."""
    word = name.strip().lower()
    return next((model for model in zoo().values() if word in {model.name, *model.aliases}), None)


def _zoo_model(row: dict[str, object]) -> ZooModel:
    given = row["input"]
    assert isinstance(given, dict)  # noqa: S101  our own file, checked by a test
    sizes = zip(given["dims"], given["shape"], strict=True)
    return ZooModel(
        name=str(row["name"]),
        aliases=tuple(map(str, row.get("aliases", ()))),  # type: ignore[call-overload]
        title=str(row["title"]),
        file=str(row["file"]),
        factory=str(row["factory"]),
        parameters=int(row["parameters"]),  # type: ignore[call-overload]
        gflops=float(row["gflops"]),  # type: ignore[arg-type]
        gflops_source=str(row["gflops_source"]),
        default_dims={dim: size for dim, size in sizes if isinstance(dim, str) and dim != "batch"},
    )
