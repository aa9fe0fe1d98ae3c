"""Words that all JSON outputs share: exact keys, sizes in bytes, evidence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model


class Object(BaseModel):
    """A JSON object with exactly these keys; the text below an attribute is its description in the schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


Bytes = Annotated[int, Field(ge=0)]
"""A size. Signed ones (an error, a change) are plain integers."""

Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Format = Literal["onnx", "zoo", "module", "pt2", "torchscript", "pickle", "weights", "engine", "recording"]
Evidence = Literal["exact", "measured", "catalogue", "bounded", "assumed"]

MAYBE: Any = Field(default_factory=lambda: None)
"""The default of a key that may be left out: the schema does not require it. ``X | None`` is a key that may be null."""


class Output(Object):
    schema_version: Literal[1]
    """Grows when a key goes, or changes its meaning; a new key does not change it."""


class Limits(Object):
    low_bytes: Bytes
    """The least it can be."""
    high_bytes: Bytes
    """The most it may be."""


class Sizes(Object):
    low_bytes: Bytes
    """The least it can be."""
    nominal_bytes: Bytes
    """What to plan with."""
    high_bytes: Bytes
    """The most it may be."""


class KnownSizes(Sizes):
    evidence: Evidence
    """What the numbers rest on."""


class ReasonedSizes(KnownSizes):
    reason: Text
    """The rule or the source behind them."""


def parts_of(name: str, value: type, ending: str = "") -> type[Object]:
    """An object with one *value* for each part of a budget."""
    described = {
        "weights": "Parameters and folded constants, as the runtime stores them.",
        "inputs": "Tensors that the caller provides.",
        "activations": "Intermediate results that are alive at the peak.",
        "outputs": "Tensors that the caller receives.",
        "workspace": "Scratch memory of kernels.",
        "allocator_slack": "What the allocator holds beyond what is alive.",
        "context": "The CUDA context, its libraries and loaded kernels.",
    }
    entries: dict[str, Any] = {
        f"{part}{ending}": (value, Field(description=description)) for part, description in described.items()
    }
    return create_model(name, __base__=Object, **entries)


PartBytes = parts_of("PartBytes", Bytes, "_bytes")
PartLimits = parts_of("PartLimits", Limits)
PartEvidence = parts_of("PartEvidence", Evidence)
PartSizes = parts_of("PartSizes", KnownSizes)
PartSizes.__doc__ = "Each part of a budget as a range."
