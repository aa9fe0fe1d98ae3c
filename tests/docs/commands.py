"""The reference of the command line and the man page: both made of the commands themselves.

python -m tests.docs.commands     write them again
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from tests.docs.console import ENVIRONMENT, ROOT
from vramplan import __version__
from vramplan.cli.app import app

PAGE = ROOT / "docs" / "reference" / "cli.md"
MANUAL = ROOT / "docs" / "reference" / "vramplan.1"

EXIT_CODES = {
    "0": "yes, or nothing was asked",
    "1": "the answer is no: over the budget or the card, beyond the tolerance, out of memory",
    "2": "the command is wrong",
    "3": "the model cannot be read",
    "4": "this machine lacks a library, a GPU or a driver",
    "5": "a measurement was tried and failed",
    "70": "our bug; set VRAMPLAN_TRACEBACK=1 and please report it",
    "130, 141": "interrupted; nobody reads the output any more",
}
VARIABLES = {
    "NO_COLOR": "no colour, also on a terminal",
    "COLUMNS": "how wide reports are; 100 in a pipe",
    "PYTORCH_CUDA_ALLOC_CONF": "PyTorch's allocator is modelled with these settings, and refused where it cannot be",
    "CUDA_VISIBLE_DEVICES": "which GPU is measured",
    "VRAMPLAN_CONFIG_DIR": "where calibrations are kept, instead of ~/.config/vramplan",
    "VRAMPLAN_CACHE_DIR": "where answers of cuDNN are kept, instead of ~/.cache/vramplan; may be deleted at any time",
    "VRAMPLAN_TRACEBACK": "1 shows where an internal error comes from",
}
FILES = {
    "vramplan.toml": "models, cards, cameras and budgets of a site, read by lock, check and streams in its folder",
    "vramplan.lock.json": "the budgets that a repository agreed on, written by lock and read by check",
}
ABOUT = (
    "Says before anything runs what a model takes of a GPU, part by part, with a range and the evidence of every number."
    " No GPU, no PyTorch and no TensorRT is needed to ask."
)
REMARK = (
    "Tables and data go to standard output; errors, progress and where a file was written go to standard error. There is no"
    " colour in a pipe. Files are written whole or not at all, and never replaced without --force."
)
MORE = {
    "estimate": "[your own ONNX file](../how-to/read-your-onnx.md), [a PyTorch module](../how-to/estimate-a-module.md),"
    " [ONNX Runtime](../explanation/onnxruntime.md)",
    "streams": "[measured rates](../how-to/measure-streams.md)",
    "lock": "[guarding memory in CI](../how-to/gate-ci.md), where `vramplan.toml` is too",
    "measure": "[measuring and verifying](../how-to/measure-and-verify.md)",
    "replay": "[what a recording is, and its format](recording.md)",
    "watch": "[a machine, a running program](../how-to/diagnose.md)",
    "calibrate": "[your own GPU, measured once](../how-to/calibrate.md)",
}
EXAMPLES = {
    "vramplan estimate yolov8s -b 1,8 --precision fp16 --gpu 3090": "What a detector takes on a card.",
    "vramplan estimate model.onnx --dim height=640 --dim width=640 --budget 2GiB": "Your own file; exit code 1 when over.",
    "vramplan streams --gpu 3090 --video 1080p30 --codec hevc": "How many cameras a card carries.",
    "vramplan lock model.onnx -b 8 --gpu t4 && vramplan check": "Budgets that guard a repository.",
}


def program() -> Any:
    """The command line as typer builds it."""
    return typer.main.get_command(app)


def page() -> str:
    """Every --help under a heading, then what holds for all commands."""
    command = program()
    lines = ["# Command line", "", "Generated from the commands themselves: `python -m tests.docs.commands`."]
    lines += ["As a man page: [vramplan.1](vramplan.1), which a `pip install` puts where `man` looks.", ""]
    lines += [*_block(command, "vramplan"), ""]
    for name in command.commands:
        lines += [f"## {name}", "", *_block(command.commands[name], f"vramplan {name}", command), ""]
        lines += [f"More: {MORE[name]}.", ""] if name in MORE else []
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    lines += ["", *textwrap.wrap(REMARK, 128), "", "## Environment and files", "", "| name | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in {**VARIABLES, **FILES}.items()]
    return "\n".join(lines) + "\n"


def _block(command: Any, path: str, parent: Any = None) -> Iterator[str]:
    outer = None if parent is None else parent.context_class(parent, info_name="vramplan", **parent.context_settings)
    context = command.context_class(command, info_name=path.rsplit(maxsplit=1)[-1], parent=outer, **_settings(command))
    yield "```console"
    yield f"$ {path} --help"
    yield from (line.rstrip() for line in command.get_help(context).rstrip().splitlines())
    yield "```"


def _settings(command: Any) -> dict[str, Any]:
    return {**program().context_settings, **command.context_settings, "terminal_width": int(ENVIRONMENT["COLUMNS"]) - 2}


def manual() -> str:
    """The man page in troff; `man` renders it."""
    command = program()
    out = [f'.TH VRAMPLAN 1 "" "vramplan {__version__}" "User Commands"', ".SH NAME"]
    out += ["vramplan \\- how much GPU memory a model takes, and how many video streams a card carries"]
    out += [".SH SYNOPSIS", ".B vramplan", ".I COMMAND", "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]", ".SH DESCRIPTION"]
    out += [_troff(ABOUT), ".PP", _troff(REMARK), ".SH COMMANDS"]
    for name, each in command.commands.items():
        out += _command(name, each)
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        out.append(f".SH {title}")
        for word, meaning in rows.items():
            out += _entry(word, meaning)
    out.append(".SH EXAMPLES")
    for line, meaning in EXAMPLES.items():
        out += [".PP", _troff(meaning), ".PP", ".nf", ".RS", _troff(line), ".RE", ".fi"]
    return "\n".join(out) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{name} {_troff(usage)}"'
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help)):
        yield _troff(" ".join(paragraph.split()))
        yield ".PP"
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record:
            yield from _entry(*record)


def _entry(word: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_troff(word)}\\fR"
    yield _troff(" ".join(meaning.split()))


def _troff(text: str) -> str:
    """Text that troff takes as it is: no escapes, no requests, hyphens that can be copied."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    plain = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in plain)
    return "\\&" + plain if plain[:1] in ".'" else plain


def write() -> None:
    """Write both files."""
    PAGE.write_text(page(), encoding="utf-8")
    MANUAL.write_text(manual(), encoding="utf-8")


if __name__ == "__main__":
    write()
