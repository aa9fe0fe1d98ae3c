"""How a result shows itself: as a pandas data frame, and as a table in a notebook.

Results live below the room that knows pandas and tables. They name it here, and it is loaded when somebody asks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_REPORT = "vramplan.report"


class Shown:
    """A result with ``to_frame`` and a picture of itself in a notebook."""

    __slots__ = ()

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """One of its tables as a data frame, the first one without a name; a row is one thing, a column one quantity.

        Units are in the names of the columns; whole numbers are ``Int64`` and sizes bytes, so that an unknown one is
        ``<NA>`` and not a float. Raises `UsageError`, with the names there are, for another *table*.
        """
        frame: pd.DataFrame = _room("frames").frame_of(self, table)
        return frame

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        html: str = _room("notebook").html_of(self)
        return html


def _room(name: str) -> Any:
    return importlib.import_module(f"{_REPORT}.{name}")
