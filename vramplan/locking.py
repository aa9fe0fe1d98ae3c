"""Budgets that guard a repository: make a lock, and check it against what the models take now.

**A lock file alone never makes code run.** A model that PyTorch reads is the user's Python, and a lock file is generated, long
and seldom read; so such a model is only opened when the command line or ``vramplan.toml`` names it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import product

from vramplan.choosing import find_runtime
from vramplan.comparing import (
    Checked,
    Comparison,
    Diff,
    Finding,
    Outcome,
    Side,
    compare,
    compare_estimates,
    layers_of,
    short_name,
    tensors_of,
)
from vramplan.device.this_gpu import find_card
from vramplan.errors import MachineError, ModelError, UsageError, close_matches, show
from vramplan.gpus import all_gpus, find_gpu
from vramplan.lockfile import (
    LAYER_LIMIT,
    LOCK_FILE,
    MAX_CELLS,
    TENSOR_LIMIT,
    CellKey,
    Lock,
    LockedCell,
    LockedModel,
    Wanted,
)
from vramplan.options import MEMORY_FORMATS
from vramplan.precision import find_policy
from vramplan.result import Estimate
from vramplan.site import DEFAULT_TOLERANCE_RATIO, SITE_FILE, Site, SiteModel
from vramplan.sources import engine_path
from vramplan.sources.torch_spec import is_torch_model
from vramplan.strict_json import MAX_TEXT_CHARS
from vramplan.sweep import sweep
from vramplan.verdict import Limit, find_limit

_LIBRARIES = {"torch": ("torch", "nvidia-cudnn-cu13"), "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "nvidia-cudnn-cu13")}
"""What decides an estimate besides vramplan, by runtime: PyTorch traces, cuDNN (where it is installed) chooses algorithms."""


def want(site_model: SiteModel) -> Wanted:
    """A ``[[model]]`` of the site's file, or the flags of a command, as the cells that are guarded. `UsageError` for names."""
    model = site_model.model
    if len(model) > MAX_TEXT_CHARS or not model.isprintable():
        raise UsageError(f"model {show(model)} has a name that a lock file cannot keep", hint="Rename it, or move it up.")
    _refuse_engine(model)
    runtimes = dict.fromkeys(find_runtime(model, runtime) for runtime in site_model.runtimes)
    gpu = None if site_model.gpu is None else _card_key(site_model.gpu)
    if site_model.memory_format is not None and site_model.memory_format not in MEMORY_FORMATS:
        raise UsageError(
            f"unknown memory format {show(site_model.memory_format)}",
            hint=close_matches(site_model.memory_format[:80], MEMORY_FORMATS),
        )
    keys = tuple(
        CellKey(
            runtime=runtime,
            precision=find_policy(precision).name,
            batch=batch,
            memory_format=(site_model.memory_format or "contiguous") if runtime == "torch" else None,
            gpu=gpu,
        )
        for runtime, precision, batch in product(runtimes, site_model.precisions, site_model.batches)
    )
    if site_model.memory_format and "torch" not in runtimes:
        raise UsageError(f"{show(model)}: memory formats are PyTorch's", hint="Use them with runtime torch.")
    if len(keys) > MAX_CELLS:
        raise UsageError(f"{show(model)}: {len(keys):,} cells are more than {MAX_CELLS:,}", hint="Guard those that you deploy.")
    return Wanted(
        model=model,
        keys=keys,
        shapes=site_model.shapes,
        dims=site_model.dims,
        budget_bytes=site_model.budget_bytes,
        tolerance_ratio=site_model.tolerance_ratio,
    )


def want_all(site: Site) -> tuple[Wanted, ...]:
    """The models of a site's file. `UsageError` when it names none, or one twice."""
    if not site.models:
        raise UsageError(f"{SITE_FILE} names no [[model]]", hint='Write [[model]] and model = "yolov8s" below it.')
    wanted = tuple(map(want, site.models))
    names = [each.identity for each in wanted]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(
                f"{SITE_FILE}: model {show(name)} is there twice", hint="Give one entry lists of batches, precisions."
            )
    return wanted


def _card_key(name: str) -> str:
    """A card that another machine finds by this name too."""
    card = find_card(name)
    if card.key not in {gpu.key for gpu in all_gpus()}:
        raise UsageError(f"the card {show(card.name)} is not in the catalogue", hint="Name one that is: `vramplan gpus`.")
    return card.key


def solve(wanted: Wanted, *, allow_pickle: bool = False) -> Iterator[tuple[CellKey, Estimate]]:
    """The estimate of each cell. Cells that differ in batch and precision only share one reading of the model.

    Errors as `vramplan.estimate`; `UsageError` for a built engine.
    """
    _refuse_engine(wanted.model)
    for keys in _groups(wanted.keys):
        first = keys[0]
        cells = sweep(
            wanted.model,
            batches=list(dict.fromkeys(key.batch for key in keys)),
            precisions=list(dict.fromkeys(key.precision for key in keys)),
            runtimes=[first.runtime],
            gpu=find_gpu(first.gpu) if first.gpu else None,
            shapes=dict(wanted.shapes),
            dims=dict(wanted.dims),
            memory_format=first.memory_format,
            allow_pickle=allow_pickle,
        )
        yield from zip(keys, cells.cells, strict=True)


def _groups(keys: Iterable[CellKey]) -> Iterator[list[CellKey]]:
    """Cells that one sweep answers: every precision of a group at every batch of it, in the sweep's order."""
    by_precision: dict[tuple[object, ...], list[CellKey]] = {}
    for key in keys:
        by_precision.setdefault((key.gpu, key.memory_format, key.runtime, key.precision), []).append(key)
    groups: dict[tuple[object, ...], list[CellKey]] = {}
    for (*where, _), same in by_precision.items():
        groups.setdefault((*where, *(key.batch for key in same)), []).extend(same)
    yield from groups.values()


def _refuse_engine(model: str) -> None:
    if engine_path(model):
        raise UsageError(f"{show(model)} is a built engine, which fits one machine", hint="Lock the .onnx file behind it.")


def lock_model(wanted: Wanted, *, allow_pickle: bool = False) -> LockedModel:
    """The entry of one model. Errors as `vramplan.estimate`."""
    solved = list(solve(wanted, allow_pickle=allow_pickle))
    facts = solved[0][1].model
    return LockedModel(
        wanted=wanted,
        format=facts.format,
        sha256=facts.sha256,
        parameters=facts.parameters,
        versions=versions(wanted),
        cells=tuple(_locked(key, cell) for key, cell in solved),
    )


def _locked(key: CellKey, cell: Estimate) -> LockedCell:
    tensors, layers = tensors_of(cell), layers_of(cell)
    return LockedCell(
        key=key,
        budget=cell.budget,
        phases=cell.phases,
        peak_op=short_name(cell.peak.op),
        tensor_count=len(tensors.sizes),
        tensors=tensors.largest(TENSOR_LIMIT),
        layer_count=len(layers.sizes),
        layers=layers.largest(LAYER_LIMIT),
    )


def versions(wanted: Wanted) -> dict[str, str]:
    """What the estimate of a model rests on: vramplan, and the libraries that read and trace it."""
    runtimes = {key.runtime for key in wanted.keys}
    names = ["vramplan", *(name for runtime in sorted(runtimes, reverse=True) for name in _LIBRARIES.get(runtime, ()))]
    names += ["onnx"] if runtimes - {"torch"} else []
    found = {name: _version(name) for name in names}
    return {name: version for name, version in found.items() if version}


def _version(name: str) -> str:
    if name == "vramplan":
        from vramplan import __version__  # noqa: PLC0415  the package is not complete while this module is imported

        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def merged(old: Lock | None, fresh: Iterable[LockedModel]) -> Lock:
    """*old* with the entries of *fresh* in place of its own of the same models."""
    entries = {model.wanted.identity: model for model in (old.models if old else ())}
    entries.update({model.wanted.identity: model for model in fresh})
    return Lock(models=tuple(entries.values()))


def check(
    lock: Lock,
    *,
    path: str = LOCK_FILE,
    wanted: Sequence[Wanted] | None = None,
    named: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Checked:
    """Estimate every cell of *lock* again, and compare.

    *wanted* is what ``vramplan.toml`` asks for: its budgets and tolerances hold then, and its cells have to be locked. *named*
    are the models of the command line: no others are checked. Of what neither names, no code runs.

    Never raises for a model that cannot be read: that is a finding. `UsageError` when a named model is not locked.
    """
    entries = _chosen(lock, named)
    if wanted is None:
        return Checked(path=path, findings=tuple(_check_entries(entries, set(named), allow_pickle=allow_pickle)))
    locked = {entry.wanted.identity: entry for entry in entries}
    asked = [each for each in wanted if not named or each.model in named]
    findings = [finding for each in asked for finding in _check_wanted(each, locked.get(each.identity), allow_pickle)]
    known = {each.identity: set(each.keys) for each in asked}
    gone = [f"{entry.wanted.identity}: {cell.key.label}" for entry in entries for cell in entry.cells
            if cell.key not in known.get(entry.wanted.identity, set())]  # fmt: skip
    notes = tuple(f"{show(name)} is locked and no longer in {SITE_FILE}: not checked" for name in gone)
    return Checked(path=path, findings=tuple(findings), notes=notes)


def _chosen(lock: Lock, named: Sequence[str]) -> list[LockedModel]:
    known = dict.fromkeys(entry.wanted.model for entry in lock.models)
    for name in named:
        if name not in known:
            raise UsageError(f"model {show(name)} is not locked", hint=close_matches(name[:80], known) or "Lock it first.")
    return [entry for entry in lock.models if not named or entry.wanted.model in named]


def _check_entries(entries: Sequence[LockedModel], named: set[str], *, allow_pickle: bool) -> Iterator[Finding]:
    for entry in entries:
        if is_torch_model(entry.wanted.model) and entry.wanted.model not in named:
            yield _not_named(entry.wanted)
        else:
            yield from _check_entry(entry, entry.wanted, allow_pickle=allow_pickle)


def refuse_unnamed_code(wanted: Wanted) -> None:
    """`UsageError` for a model whose code would run only because a lock file says so."""
    if is_torch_model(wanted.model):
        finding = _not_named(wanted)
        raise UsageError(finding.error, hint=finding.hint)


def _not_named(wanted: Wanted) -> Finding:
    return Finding(
        model=wanted.model,
        cell="",
        outcome=Outcome.UNREADABLE,
        error=f"{show(wanted.model)} is opened by PyTorch, which can run its code: a lock file alone may not ask for that",
        hint=f"Name the model behind the command, or in {SITE_FILE}.",
        exit_code=UsageError.exit_code,
    )


def _check_wanted(wanted: Wanted, entry: LockedModel | None, allow_pickle: bool) -> Iterator[Finding]:
    """The cells that the site asks for: those that are locked are checked, the others are told."""
    cells = {cell.key: cell for cell in entry.cells} if entry else {}
    found = [cells[key] for key in wanted.keys if key in cells]
    if entry and found:
        kept = replace(entry, cells=tuple(found))
        yield from _check_entry(kept, replace(wanted, keys=tuple(cell.key for cell in found)), allow_pickle=allow_pickle)
    for key in wanted.keys:
        if key not in cells:
            yield Finding(model=wanted.identity, cell=key.label, outcome=Outcome.UNLOCKED, hint="`vramplan lock` locks it.")


def _check_entry(entry: LockedModel, wanted: Wanted, *, allow_pickle: bool) -> Iterator[Finding]:
    try:
        solved = dict(solve(wanted, allow_pickle=allow_pickle))
    except (UsageError, ModelError, MachineError) as error:
        code = MachineError.exit_code if isinstance(error, MachineError) else ModelError.exit_code
        yield Finding(
            model=wanted.identity, cell="", outcome=Outcome.UNREADABLE, error=error.message, hint=error.hint, exit_code=code
        )
        return
    for locked in entry.cells:
        cell = solved[locked.key]
        pair = compare(Side.of_locked(locked, "locked"), Side.of_estimate(cell, "now"))
        yield Finding.of(
            pair,
            model=wanted.identity,
            cell=locked.key.label,
            tolerance_ratio=wanted.tolerance_ratio,
            limit=find_limit(wanted.budget_bytes, cell.gpu),
            notes=tuple(_circumstances(entry, cell, pair)) if pair.change_bytes else (),
        )


def _circumstances(entry: LockedModel, cell: Estimate, pair: Comparison) -> Iterator[str]:
    """What else is not as it was when *entry* was locked: the file, the versions, how well a part is known."""
    if cell.model.sha256 != entry.sha256:
        yield "the model's file is another one"
    now = versions(entry.wanted)
    for name in dict.fromkeys((*entry.versions, *now)):
        before, after = entry.versions.get(name, "without it"), now.get(name, "without it")
        if before != after:
            yield f"{name}: locked with {before}, checked with {after}".replace("with without", "without")
    for name, part in pair.before.budget.parts.items():
        kind = pair.after.budget.parts[name].evidence
        if part.evidence != kind:
            yield f"{name.replace('_', ' ')}: {part.evidence.value} when it was locked, {kind.value} now"


def over_limit(entries: Iterable[LockedModel]) -> Iterator[tuple[LockedModel, LockedCell, Limit]]:
    """The locked cells that do not fit their budget or card, by the nominal estimate."""
    for entry in entries:
        for cell in entry.cells:
            limit = find_limit(entry.wanted.budget_bytes, find_gpu(cell.key.gpu) if cell.key.gpu else None)
            if limit and cell.budget.total_bytes > limit.size_bytes:
                yield entry, cell, limit


def diff_locks(before: Lock, after: Lock) -> Diff:
    """The cells that two lock files share, and those that one of them has alone."""
    old, new = _cells(before), _cells(after)
    return Diff(
        pairs=tuple(compare(Side.of_locked(old[name], name), Side.of_locked(new[name], name)) for name in old if name in new),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
    )


def _cells(lock: Lock) -> dict[str, LockedCell]:
    return {f"{entry.wanted.identity}: {cell.key.label}": cell for entry in lock.models for cell in entry.cells}


def diff_wanted(before: Wanted, after: Wanted, *, allow_pickle: bool = False) -> Comparison:
    """Two estimates, each of one cell. Errors as `vramplan.estimate`."""
    ((first_key, first),) = solve(before, allow_pickle=allow_pickle)
    ((second_key, second),) = solve(after, allow_pickle=allow_pickle)
    labels = (f"{before.model}: {first_key.label}", f"{after.model}: {second_key.label}")
    return compare_estimates(first, second, labels=labels)


def plain(model: str) -> SiteModel:
    """One cell of *model*, with nothing said about it."""
    return SiteModel(
        model=model,
        batches=(None,),
        precisions=("as-is",),
        runtimes=(None,),
        memory_format=None,
        gpu=None,
        shapes={},
        dims={},
        budget_bytes=None,
        tolerance_ratio=DEFAULT_TOLERANCE_RATIO,
    )
