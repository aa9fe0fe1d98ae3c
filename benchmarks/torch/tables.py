"""The tables of the accuracy page, each from rows of the committed data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median

import zoo
from rows import QUANTITIES, WAYS, Row

MIB = 1 << 20
SETS = {"guided": zoo.GUIDED, "judged": zoo.JUDGED, "probes": zoo.PROBES, "fresh": zoo.FRESH, "blind": zoo.BLIND}
CLOSE = {"allocated": 0.01, "reserved": 0.05}
"""What counts as close: reserved memory comes in steps of whole segments."""

NAMES = {"measured": "as measured", "cudnn": "from cuDNN", "closed": "closed form"}
"""Where the workspace of convolutions comes from, in short."""

PEER_NAMES = {
    "mem_tracker": "torch MemTracker, fake tensors",
    "onnx_tool": "onnx-tool, weights + compressed memory",
    "torchinfo_total": "torchinfo, estimated total size",
    "torchinfo_forward": "torchinfo, pass size halved",
    "all_outputs": "weights + input + every layer's output",
    "two_largest": "weights + input + 2 × largest tensor",
    "weights_and_a_fifth": "weights × 1.2",
}


def share(hits: Iterable[bool]) -> str:
    """How many of them, in percent."""
    found = list(hits)
    return f"{100 * sum(found) / len(found):.1f} %"


def spread(errors: Sequence[float]) -> list[str]:
    """Median, 95th percentile and worst of the errors' sizes."""
    sizes = sorted(map(abs, errors))
    return [
        f"{100 * median(sizes):.2f} %",
        f"{100 * sizes[int(0.95 * (len(sizes) - 1))]:.2f} %",
        f"{100 * sizes[-1]:.1f} %",
    ]


def table(head: Sequence[str], lines: Iterable[Sequence[object]], texts: int = 1) -> Iterator[str]:
    """A Markdown table; the first *texts* columns are left-aligned, the others hold numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * texts + "---:|" * (len(head) - texts)
    for cells in lines:
        yield "| " + " | ".join(map(str, cells)) + " |"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Every quantity in every way."""
    head = ("convolution workspace", "quantity", "exact to the byte", "within 1 %", "within 5 %", "median", "p95", "worst",
            "under by more than 1 %")  # fmt: skip
    return table(head, (_summary(rows, way, quantity) for quantity in QUANTITIES for way in WAYS), texts=2)


def _summary(rows: Sequence[Row], way: str, quantity: str) -> list[str]:
    errors = [row.error(way, quantity) for row in rows]
    return [
        NAMES[way],
        quantity.replace("_", " run: " if quantity.startswith("first") else ": "),
        share(row.predicted[way][quantity] == row.real[quantity] for row in rows),
        *(share(abs(error) <= limit for error in errors) for limit in (0.01, 0.05)),
        *spread(errors),
        share(error < -0.01 for error in errors),
    ]


def by_group(rows: Sequence[Row], kind: str) -> Iterator[str]:
    """Exact and close in the first run, by set of models, element type and layout; *kind* is allocated or reserved."""
    limit = CLOSE[kind]
    close = f"within {100 * limit:.0f} %"
    head = ["", "runs", *(f"exact, {NAMES[way]}" for way in WAYS), *(f"{close}, {NAMES[way]}" for way in WAYS)]
    return table(head, (_group(name, own, f"first_{kind}", limit) for name, own in groups(rows)))


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows cut three ways."""
    for name, models in SETS.items():
        yield name, [row for row in rows if row.model in models]
    cuts: tuple[Callable[[Row], str], ...] = (lambda row: row.dtype, lambda row: row.memory_format)
    for cut in cuts:
        for name in dict.fromkeys(map(cut, rows)):
            yield name, [row for row in rows if cut(row) == name]


def _group(name: str, rows: Sequence[Row], quantity: str, limit: float) -> list[object]:
    exact = [share(row.predicted[way][quantity] == row.real[quantity] for row in rows) for way in WAYS]
    return [name, len(rows), *exact, *(share(abs(row.error(way, quantity)) <= limit for row in rows) for way in WAYS)]


def worst(rows: Sequence[Row], way: str) -> Iterator[str]:
    """The ten largest errors of the allocated peak, and what they come from."""
    found = sorted(rows, key=lambda row: -abs(row.error(way, "first_allocated")))[:10]
    head = ("model", "type", "layout", "op at our peak", "reason", "batch", "measured, MiB", "error")
    return table(head, (_worst(row, way) for row in found), texts=5)


def _worst(row: Row, way: str) -> list[object]:
    error = f"{100 * row.error(way, 'first_allocated'):+.2f} %"
    real = f"{row.real['first_allocated'] / MIB:.1f}"
    return [row.model, row.dtype, row.memory_format, f"`{row.peak_op}`", reason(row, way), row.batch, real, error]


def reason(row: Row, way: str) -> str:
    """Where the error comes from: it is gone with the workspace as it was recorded, or it is not."""
    told, recorded = (row.predicted[name]["first_allocated"] for name in (way, "measured"))
    workspace, rest = told - recorded, recorded - row.real["first_allocated"]
    if abs(workspace) > abs(rest):
        return f"workspace of a convolution: {abs(workspace) / MIB:.1f} MiB too {'much' if workspace > 0 else 'little'}"
    what = "scratch of a recurrent kernel" if row.peak_op.split()[-1] in {"lstm", "gru", "rnn"} else "trace or allocator"
    return f"{what}: {abs(rest) / MIB:.1f} MiB too {'much' if rest > 0 else 'little'}"


def peers(rows: Sequence[Row]) -> Iterator[str]:
    """What others say on the same rows, and what our closed form says on the rows that each of them covers."""
    head = ("", "rows", "median error", "p95", "worst", "within 1 %", "under by more than 1 %", "closed form there, within 1 %")
    return table(head, [*(_ours(rows, way) for way in ("cudnn", "closed")), *(_peer(rows, peer) for peer in PEER_NAMES)])


def _ours(rows: Sequence[Row], way: str) -> list[object]:
    errors = [row.error(way, "first_allocated") for row in rows]
    close, under = share(abs(error) <= 0.01 for error in errors), share(error < -0.01 for error in errors)
    return [f"**vramplan**, {NAMES[way]}", len(errors), *spread(errors), close, under, close]


def _peer(rows: Sequence[Row], peer: str) -> list[object]:
    covered = [row for row in rows if peer in row.peers]
    errors = [row.error_of(peer) for row in covered]
    return [
        PEER_NAMES[peer],
        len(covered),
        *spread(errors),
        share(abs(error) <= 0.01 for error in errors),
        share(error < -0.01 for error in errors),
        share(abs(row.error("closed", "first_allocated")) <= 0.01 for row in covered),
    ]


CONVOLUTION_SETS = ("guided", "judged", "apart")


def convolutions(lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """How close cuDNN comes without a GPU, by kind of convolution; the closed form beside it on the judged calls."""
    found = {(line["way"], line["set"], line["kind"]): line for line in lines}
    kinds = dict.fromkeys(line["kind"] for line in lines if line["way"] == "cudnn")
    head = ["kind", *(f"calls, {name}" for name in CONVOLUTION_SETS), *(f"within 512 B, {name}" for name in CONVOLUTION_SETS),
            *(f"under, {name}" for name in CONVOLUTION_SETS), "within 8 MiB, judged", "in range, judged",
            "closed form within 512 B, judged"]  # fmt: skip
    return table(head, (_convolutions(kind, found) for kind in kinds))


def _convolutions(kind: str, found: Mapping[tuple[str, str, str], Mapping[str, str]]) -> list[str]:
    def cell(way: str, name: str, column: str) -> str:
        line = found.get((way, name, kind))
        return "" if line is None else line[column] if column == "calls" else f"{100 * float(line[column]):.1f} %"

    by_set = [cell("cudnn", name, column) for column in ("calls", "close", "under") for name in CONVOLUTION_SETS]
    rest = [cell("cudnn", "judged", "within_8_mib"), cell("cudnn", "judged", "inside"), cell("closed", "judged", "close")]
    return [kind, *by_set, *rest]


def engines(lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What the device's own cuDNN answered, by the engine that it named."""
    own = [line for line in lines if line["set"] == "every"]
    largest = sorted(own, key=lambda line: -int(line["calls"]))
    return table(
        ("engine", "calls", "within 512 B"),
        ([line["kind"], line["calls"], f"{100 * float(line['close']):.2f} %"] for line in largest),
    )


def failures(lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Blank answers by peer and reason, the models named."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        found.setdefault((line["peer"], line["reason"]), []).append(line["model"])
    head = ("peer", "models", "it says", "runs")
    return table(
        head,
        (
            (
                PEER_NAMES[peer],
                ", ".join(dict.fromkeys(models)),
                "`" + reason.replace("|", "/").replace("`", "'") + "`",
                len(models),
            )
            for (peer, reason), models in found.items()
        ),
        texts=3,
    )


def cards(lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Our answers by card."""
    head = ("model", "card", "compute capability", "allocated, from cuDNN", "allocated, closed form", "reserved, from cuDNN",
            "reserved, closed form", "context", "context, low to high")  # fmt: skip
    return table(head, map(_card, lines), texts=2)


def _card(line: Mapping[str, str]) -> list[str]:
    sizes = [
        f"{int(line[f'{way}_{name}']) / MIB:.1f}" if line[f"{way}_{name}"] else ""
        for name in ("first_allocated", "steady_reserved")
        for way in ("cudnn", "closed")
    ]
    low, nominal, high = (f"{int(line[f'context_{name}']) / MIB:.0f}" for name in ("low", "nominal", "high"))
    model = f"{line['model']}, {line['dtype']}, batch {line['batch']}"
    return [model, line["gpu"], line["compute_capability"], *sizes, nominal, f"{low}–{high}"]


def every_model(rows: Sequence[Row]) -> Iterator[str]:
    """Runs, how many are exact, and the largest error of each way."""
    head = ("model", "runs", *(f"exact, {NAMES[way]}" for way in WAYS), *(f"worst, {NAMES[way]}" for way in WAYS))
    return table(head, (_model(model, rows) for model in dict.fromkeys(row.model for row in rows)))


def _model(model: str, rows: Sequence[Row]) -> list[object]:
    own = [row for row in rows if row.model == model]
    exact = [sum(row.predicted[way]["first_allocated"] == row.real["first_allocated"] for row in own) for way in WAYS]
    largest = [max((row.error(way, "first_allocated") for row in own), key=abs) for way in WAYS]
    return [model, len(own), *exact, *(f"{100 * error:+.1f} %" for error in largest)]
