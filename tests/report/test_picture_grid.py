"""A grid of pictures is one drawing that holds its pictures, with a text alternative for each."""

from __future__ import annotations

from xml.etree import ElementTree

from trimtab.report.picture_grid import MOST_COLUMNS, MOST_ROWS, picture_grid

SVG = "{http://www.w3.org/2000/svg}"


def test_each_picture_has_its_place_and_its_words():
    rows = [("a <b> prompt", ["AAAA", ""]), ("another", ["BBBB", "CCCC"])]
    grid = picture_grid(rows, ["unsteered", "at strength 1"], label="Pictures & strengths", caption="shown")
    root = ElementTree.fromstring(grid.svg)
    assert root.get("aria-label") == "Pictures & strengths"
    images = root.findall(f"{SVG}image")
    assert [one.findtext(f"{SVG}title") for one in images] == [
        "a <b> prompt: unsteered",
        "another: unsteered",
        "another: at strength 1",
    ]
    assert [one.get("href") for one in images] == [f"data:image/png;base64,{png * 4}" for png in "ABC"]
    assert images[1].get("x") == images[0].get("x") < images[2].get("x")
    assert images[1].get("y") == images[2].get("y")
    wide, high = (float(one) for one in root.get("viewBox").split()[2:])
    assert all(float(one.get("x")) + 60 <= wide and float(one.get("y")) + 60 <= high for one in images)
    assert grid.caption == "shown"


def test_what_is_too_much_is_left_out_and_hostile_names_are_harmless():
    rows = [(f"\u202e</svg><script>{place}", ["AAAA"] * 40) for place in range(40)]
    grid = picture_grid(rows, [f"<i>{place}" for place in range(40)])
    root = ElementTree.fromstring(grid.svg)
    assert len(root.findall(f"{SVG}image")) == MOST_ROWS * MOST_COLUMNS
    assert "<script" not in grid.svg
    assert "\u202e" not in grid.svg
