"""``vramplan gpus``: the catalogue, or everything about one card."""

from __future__ import annotations

from vramplan.cli import flags
from vramplan.cli.output import Format, Output


def gpus_command(
    name: flags.GpuName = None,
    *,
    json: flags.Json = False,
    csv: flags.Csv = False,
    markdown: flags.Markdown = False,
    output: flags.OutputFile = None,
    force: flags.Force = False,
) -> int:
    """List the cards that are known and how much of their memory a program can use; with NAME all facts of one."""
    from vramplan.gpus import all_gpus, find_gpu  # noqa: PLC0415  keeps start-up fast
    from vramplan.report import cards, export  # noqa: PLC0415

    target = Output.of(json=json, csv=csv, markdown=markdown, path=output, force=force)
    gpus = all_gpus() if name is None else (find_gpu(name),)
    match target.format:
        case Format.JSON:
            target.emit(cards.cards_json(gpus))
        case Format.CSV:
            target.emit(export.to_csv(cards.card_rows(gpus)))
        case Format.MARKDOWN:
            target.emit("\n".join(export.to_markdown(cards.cards_grid(gpus))) + "\n")
        case Format.TABLE if name is None:
            target.emit(cards.cards_text(gpus, width=target.width, colour=target.colour))
        case Format.TABLE:
            target.emit(cards.card_text(gpus[0], width=target.width, colour=target.colour))
    return 0
