"""``vramplan serve``: a page on this machine whose answers follow sliders."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from vramplan.errors import MachineError, UsageError

Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen. Anything else lets others in.")]
Port = Annotated[int, typer.Option("--port", metavar="N", help="The port; 0 for any that is free.")]
Folder = Annotated[str, typer.Option("--folder", metavar="DIR", help="Whose .onnx files can be chosen.")]

_NEEDED = ("starlette", "uvicorn")
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


def serve_command(*, host: Host = "127.0.0.1", port: Port = 8000, folder: Folder = ".") -> int:
    """Serve a what-if board on this machine: move a slider, read the budget and the streams.

    Models are built-in ones and ONNX files: of the folder, or uploaded. Nothing in them runs. Ctrl-C ends it.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port", hint="Write it like --port 8000.")
    if not Path(folder).is_dir():
        raise UsageError(f"--folder {folder[:200]!r} is no folder", hint="Name the folder with your .onnx files.")
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise MachineError(f"the board needs {' and '.join(missing)}", hint="Type: pip install 'vramplan[serve]'")

    from vramplan.serve.app import Settings  # noqa: PLC0415  imports the web server
    from vramplan.serve.server import run  # noqa: PLC0415

    if host not in _LOCAL:
        typer.echo(f"warning: {host} can be reached from other machines; there is no password", err=True)
    run(Settings(folder=Path(folder), host=host), port, lambda url: typer.echo(f"vramplan board: {url} (Ctrl-C ends it)"))
    return 0
