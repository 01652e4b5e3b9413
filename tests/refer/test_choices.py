"""Who chose what: the sets that a page shows, the marks under their pictures, and thumbnails."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trimtab.refer.choices import CHOICES, MOST, SETS, drawn_sets, lettered, shown_sets, symbols, thumbnail

SVG = "{http://www.w3.org/2000/svg}"


def choices(*rows: tuple[str, str, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(CHOICES))


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_set_keeps_its_target_and_what_was_chosen() -> None:
    names = [f"n{k}" for k in range(40)]
    sets = pd.DataFrame({"item": ["a", "b"], "candidates": [names, names[:3]], "target": ["n30", "n1"]})
    chose = choices(("a", "s", "x", "n20", 0.5), ("a", "s", "x", "n10", 0.5), ("a", "t", "x", "n20", 1.0))
    shown = shown_sets(sets, chose)
    assert shown["size"].tolist() == [40] * MOST + [3] * 3
    kept = shown.groupby("item")["candidate"].agg(list)
    assert kept["a"] == ["n30", "n20", "n10", *names[:7]]
    assert kept["b"] == ["n1", "n0", "n2"]


def marks(chose: pd.DataFrame, speakers: list[str], listeners: list[str]) -> dict[str, list[str]]:
    """The words under each picture, by the name that is drawn in its place."""
    sets = pd.DataFrame([("a", 3, name) for name in "tde"], columns=list(SETS))
    (picture,) = drawn_sets(sets, chose, {}, {one: one for one in speakers}, listeners, {"a": "said"})
    assert picture.caption == "said"
    groups = ElementTree.fromstring(picture.svg).findall(f"{SVG}g")
    found = [[text.text or "" for text in group.findall(f"{SVG}text")] for group in groups]
    return {name: rest for name, *rest in found}


def test_marks_tell_who_chose_what() -> None:
    chose = choices(
        ("a", "before", "x", "d", 1.0),
        ("a", "after", "x", "t", 1.0),
        ("a", "before", "y", "d", 1.0),
        ("a", "after", "y", "e", 1.0),
        ("other", "after", "y", "d", 1.0),
    )
    assert marks(chose, ["before", "after"], ["x", "y"]) == {
        "t": ["after ●"],
        "d": ["before ●○"],
        "e": ["after ○"],
    }


def test_ties_and_several_answers_have_numbers() -> None:
    tie = choices(("a", "s", "x", "t", 0.5), ("a", "s", "x", "d", 0.5), ("a", "s", "y", "t", 1.0))
    assert marks(tie, ["s"], ["x", "y"]) == {"t": ["s ●½○"], "d": ["s ●½"], "e": []}
    three = choices(*(("a", "s", "x", one, 1 / 3) for one in "tde"))
    assert marks(three, ["s"], ["x"]) == {one: ["s ●⅓"] for one in "tde"}
    several = choices(("a", "s", "x", "t", 3.0), ("a", "s", "x", "e", 1.0))
    assert marks(several, ["s"], ["x"]) == {"t": ["s ●3"], "d": [], "e": ["s ●1"]}


def test_a_wide_tie_has_no_mark() -> None:
    wide = choices(*(("a", "s", "x", one, 0.25) for one in ("t", "d", "e", "f")), ("a", "s", "y", "d", 1.0))
    assert marks(wide, ["s"], ["x", "y"]) == {"t": [], "d": ["s ○"], "e": []}


def test_a_long_line_under_a_small_picture_is_broken() -> None:
    many = choices(*(("a", "speaker", one, "d", 1.0) for one in "wxyz"))
    assert marks(many, ["speaker"], list("wxyz"))["d"] == ["speaker", "●", "○", "■", "□"]


def test_no_two_listeners_share_a_mark_and_no_two_speakers_a_letter() -> None:
    assert len(set(lettered([str(k) for k in range(40)]).values())) == 40
    assert len(set(symbols([str(k) for k in range(20)]).values())) == 20


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_thumbnails_are_small_and_without_metadata(mode: str) -> None:
    plain = Image.new(mode, (400, 200))
    plain.info["comment"] = "secret"
    small = decoded(thumbnail(plain))
    assert (small.format, small.size) == ("PNG", (96, 48))
    assert "comment" not in small.info
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    uri = thumbnail(noise)
    assert decoded(uri).format == "JPEG"
    assert len(uri) < 10_000
