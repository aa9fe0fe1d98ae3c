"""The documentation site: ``sphinx-build -W --keep-going docs docs/_build``."""

import re
from collections.abc import Iterator

import vramplan

project = "vramplan"
author = "the vramplan authors"
version = release = vramplan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"vramplan {version}"
html_show_copyright = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "literal"

_ROW = re.compile(r"^(\w[\w\[\], …]*?)\s{2,}(\S.*)$")
"""A line of a docstring's table: names, two spaces or more, what they are."""


def _tables_are_lists(lines: list[str]) -> Iterator[str]:
    """Docstrings line up names and meanings in columns; here they become definition lists."""
    inside = False
    for line in lines:
        row = _ROW.match(line)
        if row:
            yield from (() if inside else ("",))
            yield f"``{row[1]}``"
            yield f"    {row[2]}"
            inside = True
        elif inside and line.startswith("    "):
            yield f"    {line.strip()}"
        else:
            yield from (("",) if inside else ())
            yield line
            inside = False


def setup(app: object) -> None:
    """Called by Sphinx."""

    def tidy(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
        lines[:] = list(_tables_are_lists(lines))

    app.connect("autodoc-process-docstring", tidy)  # type: ignore[attr-defined]
