"""The commands under one name. Only what `--help` needs is imported here; every command imports the rest when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from vramplan.cli.calibrate import calibrate_command
from vramplan.cli.check import check_command
from vramplan.cli.diff import diff_command
from vramplan.cli.doctor import doctor_command
from vramplan.cli.estimate import estimate_command
from vramplan.cli.gpus import gpus_command
from vramplan.cli.lock import lock_command
from vramplan.cli.measure import measure_command
from vramplan.cli.replay import replay_command
from vramplan.cli.serve import serve_command
from vramplan.cli.streams import streams_command
from vramplan.cli.verify import verify_command
from vramplan.cli.watch import watch_command

app = typer.Typer(
    name="vramplan",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("estimate", short_help="How much GPU memory a model takes, part by part.")(estimate_command)
app.command("streams", short_help="How many video streams a card carries, and what stops the next one.")(streams_command)
app.command("serve", short_help="A page on this machine whose answers follow sliders.")(serve_command)
app.command("lock", short_help="Write the budgets that a repository agrees on to a file.")(lock_command)
app.command("check", short_help="Whether the locked budgets still hold, and what made one grow.")(check_command)
app.command("diff", short_help="Two budgets side by side: parts, tensors, layers.")(diff_command)
app.command("measure", short_help="Run a model on this machine's GPU, and report what it took.")(measure_command)
app.command("verify", short_help="Estimate and measurement side by side, part by part.")(verify_command)
app.command("replay", short_help="A recorded run's memory, and whether the allocator's replay is equal.")(replay_command)
app.command("watch", short_help="A GPU at work, and three signs that it could do better.")(watch_command)
app.command("doctor", short_help="What this machine has, what is missing, and what to type.")(doctor_command)
app.command("calibrate", short_help="Measure this machine's GPU once; later estimates use it.")(calibrate_command)
app.command("gpus", short_help="The cards that are known, or all facts of one.")(gpus_command)


@app.callback(invoke_without_command=True)
def vramplan(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> int:
    """How much GPU memory a model takes, before anything runs.

    Start with: vramplan estimate yolov8s
    """
    if version:
        from vramplan import __version__  # noqa: PLC0415

        typer.echo(f"vramplan {__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    return 0
