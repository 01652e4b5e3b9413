"""A standalone SVG drawing, made fit to stand inside a page beside others."""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree

from trimtab.report.names import printable

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"


def inline(drawing: str, label: str, telephone: float) -> str:
    """The drawing as an `<svg>` element for the inside of a page.

    Metadata, comments and rules that would reach the whole page are dropped; ids that something points at start
    with a hash of the drawing, all others go. The size is left to the page, but a drawing wider than a telephone
    keeps its natural width (`data-width`), for a box that scrolls.

    Args:
        drawing: a whole SVG document from a source that is trusted.
        label: the text alternative.
        telephone: the widest drawing, in its own units, that is scaled down to fit.
    """
    root = ElementTree.fromstring(drawing)
    _strip(root)
    _describe(root, printable(label), telephone)
    _rename_ids(root)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Drop what only a standalone drawing needs: metadata, and a style rule that would reach the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _XLINK in element.attrib:
            element.set("href", element.attrib.pop(_XLINK))
    for name in ("version", "width", "height"):
        root.attrib.pop(name, None)


def _describe(root: ElementTree.Element, label: str, telephone: float) -> None:
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib.update({"xmlns": _SVG[1:-1], "role": "img", "style": "stroke-linejoin: round"})
    if width > 1.05 * telephone:
        root.set("data-width", f"{width:.0f}")
        root.attrib["style"] += f"; min-width: {width:.0f}px"
    if label:
        root.set("aria-label", label)
        title = ElementTree.Element("title")
        title.text = label
        root.insert(0, title)


def _rename_ids(root: ElementTree.Element) -> None:
    """Keep only ids that something points at, and start them with a hash of the whole drawing."""
    text = ElementTree.tostring(root, encoding="unicode")
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:10] + "-"
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    for element in root.iter():
        if element.attrib.get("id") in used:
            element.set("id", prefix + element.attrib["id"])
        else:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                element.set(key, "#" + prefix + value[1:])
            elif key != "aria-label":
                element.set(key, value.replace("url(#", "url(#" + prefix))
