"""Result pages: one self-contained HTML file, without fonts or network.

A page is a title, a summary, a contents list and sections; a section holds text, tables, pictures and further
sections. Everything that is text is escaped by the template engine; only the drawings made by `figures.to_svg` go in
as they are. The one script is a constant, which the page's security policy names by its hash: it sorts tables, lights
up a name wherever it is drawn and shows values under the pointer, and without it everything is there to be read. The
page is laid out for a telephone and a desk, light and dark, screen and paper.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from itertools import groupby
from numbers import Real
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from trimtab.report.anchors import placed
from trimtab.report.figures import to_svg
from trimtab.report.formats import NOTHING, fixed, missing, number, printable, spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Tone = Literal["", "good", "bad", "unsure"]


@dataclass(frozen=True)
class Mark:
    """A word in a cell with a tone; the colour repeats what the word says, never replaces it."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Passage:
    """A text in a cell with parts of it marked.

    Attributes:
        parts: the text piece by piece, each with whether it is marked.
        told: what is said of the marked parts where they are pointed at.
    """

    parts: tuple[tuple[str, bool], ...]
    told: str = ""

    tone: ClassVar[Tone] = ""

    @property
    def text(self) -> str:
        """The whole text.

        >>> Passage((("a ", False), ("cat", True), (" ran", False))).text
        'a cat ran'
        """
        return "".join(piece for piece, _ in self.parts)


def changed_words(before: str, after: str) -> Passage:
    """A text whose words that another text lacks there are marked; words are what spaces separate.

    The longest runs of common words are matched first (Ratcliff & Metzener 1988). A word that the text lacks leaves
    no trace.

    Args:
        before: the text that it is compared with.
        after: the text that is shown.

    >>> changed_words("the pig bites the rat", "the hen bites a rat").parts
    (('the ', False), ('hen', True), (' bites ', False), ('a', True), (' rat', False))
    >>> changed_words("all the same", "all  the same").parts
    (('all the same', False),)
    """
    old, new = before.split(), after.split()
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    marked = [kind != "equal" for kind, _, _, start, end in steps for _ in range(start, end)]
    runs = [
        (" ".join(word for word, _ in run), differs)
        for differs, run in groupby(zip(new, marked, strict=True), key=itemgetter(1))
    ]
    last = len(runs) - 1
    return Passage(
        tuple(
            (run if differs else f"{' ' * (place > 0)}{run}{' ' * (place < last)}", differs)
            for place, (run, differs) in enumerate(runs)
        )
    )


Format = Callable[[Any], "str | Mark | Passage"]


@dataclass(frozen=True)
class Text:
    """One paragraph; a tone makes it a notice."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A frame as a table that scrolls inside its own box; columns of numbers are set to the right.

    Args:
        frame: one row per row; the index is not shown. nan and None are shown as a dash.
        caption: what it shows, and what its intervals cover.
        formats: column -> how a value is written; numbers otherwise get three significant digits. A format never
            sees a missing value.
        marked: numbers of the rows to set off.
    """

    frame: pd.DataFrame
    caption: str = ""
    formats: Mapping[str, Format] = field(default_factory=dict)
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A drawing made by `figures.to_svg`, and what it shows. The SVG is trusted; the caption is not."""

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room, with one caption for all; small ones two to a telephone's width."""

    pictures: Sequence[Picture]
    caption: str = ""
    small: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a collapsed one opens on a click and is open on paper."""

    title: str
    blocks: Sequence[Text | Table | Picture | Gallery | Section]
    collapsed: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        title: its heading.
        summary: its first paragraph.
        sections: what follows.
        about: the title of its browser tab, which tells it from the tabs of other runs; the heading if not given.

    >>> "<h1>A &lt;b&gt; page</h1>" in Page("A <b> page", "It works.", []).render()
    True
    """

    title: str
    summary: str
    sections: Sequence[Section]
    about: str = ""

    def render(self) -> str:
        """The page as HTML, complete and self-contained."""
        script, digest = page_script()
        given = {"page": self, "sections": placed(self.sections), "script": Markup(script), "digest": digest}
        return _template("page.html").render(given)


_NUMBER = re.compile(r"[<>+−]?(\d+(\.\d+)?(e[-−]?\d+)?|∞)(?=$|[\s%×])")
"""A cell of a column of numbers starts with one: `12 of 20`, `<1 %`, `+0.1 kept` do, `1. DynaMiCS` and `7B` do not."""
CELL_ROWS = 20
"""Rows of a table that a notebook shows, at most."""


def cell(heading: str, summary: str = "", table: Table | None = None) -> str:
    """An object in the output of a notebook's cell: HTML with the first rows of a table, everything escaped.

    >>> "<strong>&lt;b&gt;</strong>" in cell("<b>", "It works.")
    True
    """
    rest = max(0, len(table.frame) - CELL_ROWS) if table is not None else 0
    if table is not None and not len(table.frame.columns):
        table = None
    elif table is not None:
        marked = [row for row in table.marked if row < CELL_ROWS]
        table = replace(table, frame=table.frame.head(CELL_ROWS), marked=marked, caption="")
    return _template("cell.html").render(heading=heading, summary=summary, item=table, rest=rest)


@cache
def page_script() -> tuple[str, str]:
    """The script of every page, and its hash as a security policy names it."""
    script = files("trimtab.report").joinpath("templates/page.js").read_text(encoding="utf-8")
    return script, f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("trimtab.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(clean=printable, columns=_columns, drawing=Markup)
    environment.tests["kind"] = lambda block, kind: type(block).__name__ == kind
    return environment.get_template(name)


def _columns(table: Table) -> list[dict[str, Any]]:
    """Each column as it is written: its heading, its cells, and whether they are numbers (set to the right)."""
    columns = []
    for place, name in enumerate(table.frame.columns):
        cells = [_cell(value, table.formats.get(str(name))) for value in table.frame.iloc[:, place]]
        written = [cell.text for cell in cells if cell.text != NOTHING]
        numeric = all(map(_NUMBER.match, written)) and {type(cell) for cell in cells} == {Mark}
        numeric = numeric and bool(written)
        columns.append({"heading": printable(name), "cells": cells, "numeric": numeric})
    return columns


def _cell(value: object, write: Format | None) -> Mark | Passage:
    if not isinstance(value, Mark) and missing(value):
        return Mark(NOTHING)
    written = write(value) if write is not None else value
    if isinstance(written, Passage):
        parts = tuple((_inside_a_line(piece), marked) for piece, marked in written.parts)
        return Passage(parts, printable(written.told)) if written.text.strip() else Mark(NOTHING)
    if isinstance(written, Mark):
        return Mark(printable(written.text) or NOTHING, written.tone)
    if isinstance(written, (bool, np.bool_)):
        return Mark("yes" if written else "no")
    if isinstance(written, Real):
        return Mark(number(float(written)))
    return Mark(printable(written) or NOTHING)


def _inside_a_line(text: str) -> str:
    """A part of a line made printable, with a blank at either end where it has one."""
    ends = [" " if end.isspace() else "" for end in (text[:1], text[-1:])]
    return printable(text).join(ends) if text.strip() else ends[0]


def settings_section(rows: Iterable[tuple[str, object]]) -> Section:
    """A folded table of settings and what they were."""
    frame = pd.DataFrame([(name, str(value)) for name, value in rows], columns=["setting", "value"])
    return Section("Settings", [Table(frame)], collapsed=True)


def written(frame: pd.DataFrame, columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Columns of a frame under headings: as they are, with fixed decimals, with their intervals, or by a function.

    Args:
        frame: one row per row.
        columns: heading -> a column; or (value, form), (low, high, form) for an interval alone, or
            (value, low, high, form) for both, the interval under a heading of its own. A form is ".3", "+.3" for
            numbers with a sign, "g" for a setting as it was written, or a function of the columns named before it.

    >>> frame = pd.DataFrame({"gap": [0.25], "low": [0.1], "high": [0.4], "n": [12], "of": [20]})
    >>> headings = {"gap": ("gap", "low", "high", "+.2"), "objects": "n", "used": ("n", "of", "{} of {}".format)}
    >>> written(frame, headings).to_dict("records")
    [{'gap': '+0.25', 'interval: gap': '+0.10 to +0.40', 'objects': 12, 'used': '12 of 20'}]
    """
    cells: dict[str, list[Any]] = {}
    for heading, how in columns.items():
        if isinstance(how, str):
            cells[heading] = frame[how].tolist()
            continue
        *names, form = how
        values = [frame[name].tolist() for name in names]
        if form == "g" or callable(form):
            write = form if callable(form) else "{:g}".format
            cells[heading] = [write(*row) for row in zip(*values, strict=True)]
            continue
        places, signed = int(form[-1]), form.startswith("+")
        if len(names) != 2:
            cells[heading] = [fixed(value, places, signed=signed) for value in values[0]]
        if len(names) > 1:
            key = heading if len(names) == 2 else f"interval: {heading}"
            cells[key] = spans(values[-2], values[-1], places, signed=signed)
    return pd.DataFrame(cells)


def picture(figure: Figure, caption: str = "") -> Picture:
    """A figure as a block of a page."""
    return Picture(to_svg(figure), caption)


def gallery(figures: Sequence[Figure], caption: str = "", *, small: bool = False) -> Gallery:
    """Figures side by side with one caption."""
    return Gallery([picture(figure) for figure in figures], caption, small)
