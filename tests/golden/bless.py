"""Golden output: what commands print, to the letter. ``python -m tests.golden.bless`` rewrites it, ``--check`` compares."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
from pathlib import Path
from unittest import mock

from vramplan.__main__ import main

FOLDER = Path(__file__).parent

COMMANDS = {
    "estimate_batches.txt": "estimate yolov8s -b 1,4,8 --gpu 3090",
    "estimate_gibibytes.txt": "estimate yolov8s -b 16,256 --precision fp32,fp16 --budget 6GiB",
    "estimate_peak.txt": "estimate yolov8s -b 8 --precision fp16 --gpu t4 --peak --layers --top 5",
    "estimate_profile.txt": "estimate yolov8s -b 1 --precision fp16 --max-shape images:8x3x640x640 --vram 8GiB",
    "estimate_narrow.txt": "COLUMNS=60 estimate yolov8s -b 1,4 --precision fp16,int8",
    "estimate.md": "estimate vit_b_16 -b 1,8 --markdown",
    "estimate.csv": "estimate resnet50 -b 1,8 --csv",
    "gpus_3090.txt": "gpus 3090",
}


def output_of(command: str) -> str:
    """What *command* prints on standard output; ``COLUMNS=60`` in front sets the width."""
    words = command.split()
    settings = dict(word.split("=") for word in words if word.startswith("COLUMNS="))
    plain = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, plain | settings, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        main(words[len(settings) :])
    return out.getvalue()


def differences() -> list[str]:
    """Lines of a diff, empty when every file is what its command prints."""
    lines: list[str] = []
    for name, command in COMMANDS.items():
        path = FOLDER / name
        blessed = path.read_text(encoding="utf-8") if path.exists() else ""
        lines += difflib.unified_diff(blessed.splitlines(), output_of(command).splitlines(), name, command, lineterm="")
    return lines


def bless() -> None:
    """Write every file anew."""
    for name, command in COMMANDS.items():
        (FOLDER / name).write_text(output_of(command), encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv:
        found = differences()
        print("\n".join(found))
        sys.exit(bool(found))
    bless()
