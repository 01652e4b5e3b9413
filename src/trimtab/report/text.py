"""Tables as plain text as wide as the terminal, or 80 columns, without anything that it would interpret."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.report.formats import NOTHING, missing, short

WIDE = 80
"""Columns of a table, at most, where no terminal is wider."""
_LONGEST = 56
"""Characters of a cell, at most."""
_GAP = "  "
_NUMBER = re.compile(r"[-+\[]?\d")


def plain_table(frame: pd.DataFrame, *, left: Collection[str] = ()) -> str:
    """A frame for the terminal: numbers with four significant digits, a dash where there is none.

    Headings fold at spaces and underscores. Columns for which there is no `room` stand in tables below, the first
    column before them again.

    Args:
        frame: one row per row; the index is not shown.
        left: columns that are set to the left; those of texts are anyway.

    >>> print(plain_table(pd.DataFrame({"form": ["a", "b"], "error": [0.123456, None]})))
    form   error
    a     0.1235
    b          -
    """
    places, most = range(len(frame.columns)), room()
    columns = [_Column.of(str(frame.columns[k]), frame.iloc[:, k].tolist(), left) for k in places]
    panels: list[list[_Column]] = [columns[:1]]
    for column in columns[1:]:
        wide = sum(one.width + len(_GAP) for one in panels[-1]) + column.width
        if wide > most and len(panels[-1]) > 1:
            panels.append(columns[:1])
        panels[-1] = [*panels[-1], column]
    return "\n\n".join(map(_side_by_side, panels)) if columns else ""


def room() -> int:
    """Columns for a table: those of the terminal that stdout is, 80 at least and where it is none."""
    on_terminal = sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()
    return max(WIDE, shutil.get_terminal_size((WIDE, 24)).columns) if on_terminal else WIDE


@dataclass(frozen=True)
class _Column:
    """The lines of a column: of its heading, and of its cells."""

    heading: list[str]
    cells: list[str]
    to_left: bool

    @classmethod
    def of(cls, name: str, values: list[Any], left: Collection[str]) -> _Column:
        cells = [_cell(value) for value in values]
        words = [word for word in re.split(r"[\s_]+", short(name, _LONGEST)) if word]
        width = max(map(len, [*cells, *words]), default=0)
        heading: list[str] = []
        for word in words:
            if heading and len(heading[-1]) + 1 + len(word) <= width:
                heading[-1] += f" {word}"
            else:
                heading.append(word)
        texts = [cell for cell in cells if cell not in ("", "-")]
        return cls(heading, cells, name in left or not all(map(_NUMBER.match, texts)))

    @property
    def width(self) -> int:
        return max(map(len, [*self.heading, *self.cells]), default=0)

    def lines(self, deep: int) -> list[str]:
        """The column with its heading in the last of so many lines."""
        aligned = str.ljust if self.to_left else str.rjust
        above = [""] * (deep - len(self.heading))
        return [aligned(line, self.width) for line in [*above, *self.heading, *self.cells]]


def _side_by_side(columns: list[_Column]) -> str:
    deep = max(len(column.heading) for column in columns)
    rows = zip(*(column.lines(deep) for column in columns), strict=True)
    return "\n".join(_GAP.join(row).rstrip() for row in rows)


def _cell(value: Any) -> str:
    if missing(value):
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return short(str(value).replace("−", "-").replace(NOTHING, "-"), _LONGEST)
