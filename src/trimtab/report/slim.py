"""Drawings made smaller without a visible difference: half of what matplotlib writes into an SVG says nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_LONG = re.compile(r"-?\d+\.\d{3,}")
_COORDINATES = ("d", "x", "y", "transform")
_WRITTEN = {"text", "tspan", "title"}
_UNTURNED = re.compile(r"rotate\(-?0 [^)]*\)")
_FONT = re.compile(r"font-family: '?DejaVu Sans'?(?:; )?")


def slim(root: ElementTree.Element) -> None:
    """Drop what nobody sees from a drawing whose names have no namespace.

    Coordinates keep two decimals (a hundredth of a point); groups and definitions that hold or say nothing, shapes
    without ink, blank text between elements and turns by 0 degrees go; the font is said once.
    """
    for element in root.iter():
        if element.tag not in _WRITTEN and not (element.text or "").strip():
            element.text = None
        if element.tag != "tspan" and not (element.tail or "").strip():
            element.tail = None
        _shorten(element.attrib)
    root.attrib["style"] = "; ".join(filter(None, (root.get("style"), "font-family: 'DejaVu Sans'")))
    _unwrap(root)


def _shorten(attributes: dict[str, str]) -> None:
    for name in _COORDINATES:
        if name in attributes:
            rounded = _LONG.sub(_two_decimals, attributes[name])
            attributes[name] = " ".join(_UNTURNED.sub("", rounded).split())
    if attributes.get("transform") == "":
        del attributes["transform"]
    if "style" in attributes:
        attributes["style"] = _FONT.sub("", attributes["style"])


def _two_decimals(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _unwrap(parent: ElementTree.Element) -> None:
    """Put the children of groups without an attribute in their place, from the inside out."""
    kept: list[ElementTree.Element] = []
    for child in list(parent):
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            kept.extend(child)
        elif not _says_nothing(child):
            kept.append(child)
    parent[:] = kept


def _says_nothing(element: ElementTree.Element) -> bool:
    if element.tag == "path":
        return element.attrib.get("style") == "fill: none" and "id" not in element.attrib
    return element.tag in ("g", "defs") and not len(element)
