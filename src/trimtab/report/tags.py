"""Names and values of what is drawn: noted on the artists of a figure, and read from its SVG by people and the page.

An artist is the property of names (a run, a domain) and may have a value in words for each of its points. Both travel
in its group id, the one thing that a drawing keeps of an artist. In the SVG, names become `data-of`, one a line, by
which the page's script lights up the same name everywhere; values become `<title>`, which browsers show by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from trimtab.report.formats import printable, short

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_SIGN = "trimtab:"
_MARK, _KEY, _WHOLE = "mark", "key", "whole"
_LONGEST = 120
"""Characters of a value in words, at most."""


def named(artist: Artist, names: Sequence[str], values: Sequence[str] = ()) -> None:
    """Note whose an artist is, and its values.

    Args:
        artist: a line, a patch, an area or points.
        names: of its series; of its row and its column if it is a cell.
        values: one for each point or cell that is drawn, or one for all of it. By default the names.
    """
    _note(artist, _MARK, names, values)


def key(artist: Artist, name: str) -> None:
    """Note that an artist is the name itself: an entry of a legend, or the name of a row."""
    _note(artist, _KEY, [name], ())


def whole(figure: Figure, name: str) -> None:
    """Note that a figure is about one name alone, such as one run of several."""
    if name:
        _note(figure, _WHOLE, [name], ())


def names_of(artist: Any) -> list[str]:
    """The names that were noted on an artist or on the first part of a container; none otherwise."""
    parts = [artist] if hasattr(artist, "get_gid") else list(artist.get_children())
    gid = str(parts[0].get_gid() or "") if parts else ""
    return [str(name) for name in json.loads(gid.removeprefix(_SIGN))[1]] if gid.startswith(_SIGN) else []


def _note(artist: Artist, kind: str, names: Sequence[str], values: Sequence[str]) -> None:
    clean = [printable(name) for name in names if printable(name)]
    if clean or values:
        note = [kind, clean, [short(value, _LONGEST) for value in values]]
        artist.set_gid(_SIGN + json.dumps(note))


def write_tags(root: ElementTree.Element) -> None:
    """Replace the notes in the ids of a drawing by `data-of`, `data-key` and `<title>`."""
    for element in list(root.iter()):
        if not element.attrib.get("id", "").startswith(_SIGN):
            continue
        kind, names, values = json.loads(element.attrib.pop("id").removeprefix(_SIGN))
        owner = root if kind == _WHOLE else element
        if names:
            owner.set("data-of", "\n".join(dict.fromkeys(names)))
        if kind == _KEY:
            element.set("data-key", "")
        if kind == _MARK:
            _title(element, names, values)


def _title(element: ElementTree.Element, names: Sequence[str], values: Sequence[str]) -> None:
    points = list(element.iter("use"))
    if not points and len(values) > 1:  # the cells of a grid
        points = list(element.iter("path"))
    if values and len(points) == len(values):
        for point, value in zip(points, values, strict=True):
            if value:
                _first(point, value)
    elif len(values) == 1:
        _first(element, values[0])
    elif names:
        _first(element, ", ".join(names))


def _first(element: ElementTree.Element, text: str) -> None:
    title = ElementTree.Element("title")
    title.text = text
    element.insert(0, title)
