"""Candidate set as one drawing: the target, large, and its distractors, with what was chosen written under each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from trimtab.report.formats import printable, short
from trimtab.report.page import Picture

LARGE, SMALL, GAP, LINE, EDGE = 132, 62, 8, 11, 2
"""Units: the target's side, a distractor's, between pictures, a line of text, from a picture to its frame."""
BESIDE = 3
"""Distractors in a row."""
WIDTH = LARGE + BESIDE * (SMALL + GAP) + 2 * GAP
_EMBEDDED = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Candidate:
    """A picture of a candidate set.

    Attributes:
        name: what it is called.
        picture: a data URI of a PNG or JPEG; without one its name is drawn.
        marks: lines under it: who chose it. A distractor with marks has a dashed frame.
        told: the same in words, for the pointer.
    """

    name: str
    picture: str = ""
    marks: Sequence[str] = ()
    told: str = ""


def candidate_set(target: Candidate, distractors: Sequence[Candidate], *, caption: str = "") -> Picture:
    """Candidate set inside one SVG, without any file beside it.

    Args:
        target: drawn large, in a frame, under the word "target".
        distractors: in rows beside it.
        caption: what stands below.
    """
    label = printable(f"{target.name} among {len(distractors)} other candidates")
    root = ElementTree.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": label}
    )
    ElementTree.SubElement(root, "title").text = label
    _text(root, "target", GAP + LARGE / 2, LINE - 1)
    bottom = _drawn(root, target, (GAP, LINE + 4), LARGE, {"stroke-width": "3"})
    y = LINE + 4.0
    for start in range(0, len(distractors), BESIDE):
        ends = []
        for place, one in enumerate(distractors[start : start + BESIDE]):
            x = 2 * GAP + LARGE + place * (SMALL + GAP)
            frame = {"stroke-width": "2", "stroke-dasharray": "4 3"} if one.marks else {}
            ends.append(_drawn(root, one, (x, y), SMALL, frame))
        y = max(ends) + GAP
    root.set("viewBox", f"0 0 {WIDTH} {max(bottom, y):g}")
    return Picture(ElementTree.tostring(root, encoding="unicode"), caption)


def _drawn(
    root: ElementTree.Element, one: Candidate, at: tuple[float, float], side: int, frame: dict[str, str]
) -> float:
    """A picture with its frame and its marks; where its last line ends."""
    (x, y), group = at, ElementTree.SubElement(root, "g")
    ElementTree.SubElement(group, "title").text = printable(one.told or one.name)
    place = {"x": f"{x:g}", "y": f"{y:g}", "width": str(side), "height": str(side)}
    if drawn := _EMBEDDED.fullmatch(one.picture):
        sharp = {"style": "image-rendering: pixelated"} if drawn[1] == "png" else {}
        ElementTree.SubElement(group, "image", place | {"href": one.picture} | sharp)
    else:
        _text(group, short(one.name, side // 6), x + side / 2, y + side / 2 + 3)
    # Outside the picture, so that it is seen on pictures as light or as dark as it is.
    around = {"x": f"{x - EDGE:g}", "y": f"{y - EDGE:g}"} | dict.fromkeys(
        ("width", "height"), f"{side + 2 * EDGE:g}"
    )
    thin = {"stroke-width": "0.6", "stroke": "var(--grid, #cfd6de)"}
    ElementTree.SubElement(
        group, "rect", around | {"fill": "none", "stroke": "var(--ink, #1d2530)"} | (frame or thin)
    )
    for line, mark in enumerate(one.marks):
        _text(group, mark, x + side / 2, y + side + LINE * (line + 1) + EDGE)
    return y + side + LINE * len(one.marks) + (4 if one.marks else 0)


def _text(root: ElementTree.Element, text: str, x: float, y: float) -> None:
    look = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": "middle", "font-size": "9.5"}
    ElementTree.SubElement(root, "text", look | {"fill": "var(--ink, #1d2530)"}).text = printable(text)
