"""From whatever happens in a command to an exit code and at most a few lines on standard error.

0 yes · 1 the answer is no · 2 usage · 3 the model cannot be read · 4 this machine lacks something · 5 a measurement
failed · 70 our bug · 130 interrupted · 141 nobody reads the output any more
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import typer

from vramplan.cli.output import close_stdout
from vramplan.errors import VramplanError

INTERRUPTED, OUR_BUG = 130, 70

BadCommand = typer.BadParameter.__mro__[2]
"""What typer raises for a wrong command line: the base of its usage errors, which has no public name in all versions."""


def run(command: Callable[[], object]) -> int:
    """Run *command* and return its exit code; no exception leaves, and no traceback unless VRAMPLAN_TRACEBACK is set."""
    try:
        result = command()
        sys.stdout.flush()
    except VramplanError as error:
        return _tell_bug(error) if error.exit_code == OUR_BUG else _tell(error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return close_stdout()
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else 0
    except Exception as error:
        return _tell_command(error) if isinstance(error, BadCommand) else _tell_bug(error)
    return result if isinstance(result, int) else 0


def _tell(message: str, hint: str, exit_code: int) -> int:
    typer.echo(f"error: {_lines(message)}", err=True)
    for line in hint.splitlines():
        typer.echo(f"hint: {_lines(line)}", err=True)
    return exit_code


def _tell_command(error: Exception) -> int:
    """A wrong flag or argument, in typer's words and our form."""
    message = str(getattr(error, "format_message", lambda: error)())
    context = getattr(error, "ctx", None)
    return _tell(message, f"`{context.command_path if context else 'vramplan'} --help` lists what there is.", 2)


def _tell_bug(error: Exception) -> int:
    if os.environ.get("VRAMPLAN_TRACEBACK"):
        traceback.print_exception(error)
    hint = "Set VRAMPLAN_TRACEBACK=1 to see where, and add that to the report."
    return _tell(f"internal error: {type(error).__name__}: {str(error)[:500]} (please report it)", hint, OUR_BUG)


def _lines(text: str) -> str:
    """Text for a terminal, which obeys escapes, from a message that may quote a hostile file."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
