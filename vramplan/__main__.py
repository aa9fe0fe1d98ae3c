"""``python -m vramplan`` and the ``vramplan`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's) and return the exit code."""
    from vramplan.cli.app import app  # noqa: PLC0415  a broken installation should fail in here, not on import
    from vramplan.cli.exits import run  # noqa: PLC0415
    from vramplan.cli.plain import HANDLER, register  # noqa: PLC0415

    register()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
    arguments = None if argv is None else list(argv)
    return run(lambda: app(args=arguments, prog_name="vramplan", standalone_mode=False))


if __name__ == "__main__":
    sys.exit(main())
