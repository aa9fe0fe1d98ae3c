"""What ``vramplan.toml`` says about streams, where the command line says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vramplan.site import Site

_SAME_NAME = ("margin", "video", "codec", "bit_depth", "infer_every")
_CAMERAS = frozenset({"video", "codec", "bit_depth", "infer_every"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStreams:
    """Defaults of the working folder; None and empty where it has none."""

    models: list[str] | None = None
    gpu: str | None = None
    precision: str | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    options: dict[str, str | int] = field(default_factory=dict)


def site_streams(context: typer.Context, *, has_model: bool, has_cameras: bool) -> SiteStreams:
    """The site's answer to what *context*'s command line leaves open, told on standard error; nothing when a model is named.

    With *has_cameras* (``--stream``, ``--mix``) the site's video is not used. Errors as `vramplan.site.read_site`.
    """
    if has_model:
        return SiteStreams()
    from vramplan.site import find_site  # noqa: PLC0415  keeps start-up fast

    if (site := find_site(Path())) is None:
        return SiteStreams()
    taken = _of_site(site, lambda name: not _is_given(context, name), has_cameras=has_cameras)
    told = [f"model {', '.join(taken.models)}"] if taken.models else []
    told += [f"gpu {taken.gpu}"] if taken.gpu else []
    told += [f"precision {taken.precision}"] if taken.precision else []
    told += [f"{name.replace('_', '-')} {value}" for name, value in taken.options.items()]
    if told:
        typer.echo(f"from {site.path.name}: {' · '.join(told)}", err=True)
    return taken


def _of_site(site: Site, is_open: Callable[[str], bool], *, has_cameras: bool) -> SiteStreams:
    """*site* where a flag is open. Models share one precision; sizes of inputs are those of the only model."""
    precisions = {precision for model in site.models for precision in model.precisions}
    only = site.models[0] if len(site.models) == 1 else None
    options = {
        name: value
        for name in _SAME_NAME
        if (value := getattr(site, name)) is not None and is_open(name) and not (has_cameras and name in _CAMERAS)
    }
    return SiteStreams(
        models=list(dict.fromkeys(model.model for model in site.models)) or None,
        gpu=site.gpu if is_open("gpu") and is_open("vram") else None,
        precision=_one(precisions - {"as-is"}) if is_open("precision") else None,
        shapes=dict(only.shapes) if only and is_open("shape") else {},
        dims=dict(only.dims) if only and is_open("dim") else {},
        options=options,
    )


def _one(names: set[str]) -> str | None:
    """The only one of *names*: of several the site does not say which it is."""
    return next(iter(names)) if len(names) == 1 else None


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a flag stands on the command line; typer names the source of a value in an enum that has no public name."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
