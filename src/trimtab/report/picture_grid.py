"""Grid of small pictures as one drawing: rows of pictures under headings, each with its own text alternative."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from trimtab.report.formats import printable, short
from trimtab.report.page import Picture

CELL, GAP, LINE = 60, 6, 13
"""Units of a picture's side, between pictures, and of a line of text."""
MOST_ROWS, MOST_COLUMNS = 12, 12
_TELEPHONE = 360


def picture_grid(
    rows: Sequence[tuple[str, Sequence[str]]], columns: Sequence[str], *, label: str = "", caption: str = ""
) -> Picture:
    """Grid of PNG pictures inside one SVG, without any file beside it.

    Args:
        rows: the title above each row, and a PNG in base 64 for each column; "" leaves its place free. Rows and columns
            beyond `MOST_ROWS` and `MOST_COLUMNS` are left out.
        columns: headings, which fold at spaces.
        label: the text alternative of the whole; each picture has that of its row and column.
        caption: what it shows.
    """
    columns, rows = list(columns)[:MOST_COLUMNS], list(rows)[:MOST_ROWS]
    heads = [short(name, 24).split(" ") for name in columns]
    top = LINE * max(map(len, heads), default=0) + GAP
    width, step = len(columns) * (CELL + GAP) + GAP, CELL + LINE + 2 * GAP
    style = f"min-width: {width}px; max-width: {4 * width // 3}px" if width > _TELEPHONE else ""
    drawing = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {top + step * len(rows)}"}
    drawing |= {"role": "img", "aria-label": printable(label), "style": style}
    root = ElementTree.Element("svg", drawing | ({"data-width": str(width)} if style else {}))
    ElementTree.SubElement(root, "title").text = printable(label)
    for place, words in enumerate(heads):
        for line, word in enumerate(words):
            _text(root, word, GAP + place * (CELL + GAP) + CELL / 2, LINE * (line + 1), "middle")
    for number, (title, cells) in enumerate(rows):
        y = top + step * number
        _text(root, short(title, max(24, width // 6)), GAP, y + LINE - 2, "start")
        for place, png in enumerate(list(cells)[: len(columns)]):
            if png:
                at = {"x": str(GAP + place * (CELL + GAP)), "y": str(y + LINE + 2), "width": str(CELL)}
                at |= {"height": str(CELL), "href": f"data:image/png;base64,{png}"}
                image = ElementTree.SubElement(root, "image", at | {"style": "image-rendering: pixelated"})
                ElementTree.SubElement(image, "title").text = printable(f"{title}: {columns[place]}")
    return Picture(ElementTree.tostring(root, encoding="unicode"), caption)


def _text(root: ElementTree.Element, text: str, x: float, y: float, anchor: str) -> None:
    look = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor, "font-size": "10"}
    ElementTree.SubElement(root, "text", look | {"fill": "var(--ink, #1d2530)"}).text = printable(text)
