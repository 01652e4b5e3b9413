"""A name made from text stays in its folder and apart from the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.runs.paths import safe_name

HOSTILE = [
    "../x",
    "a/b",
    "a\\b",
    "",
    ".",
    "..",
    "\x00",
    "CON",
    "con.txt",
    "x" * 300,
    "naïve",
    "..",
    "a.",
    "-rf",
    "~",
]


@pytest.mark.parametrize("text", ["dynamics-light", "seed=0,fit.lr=1e-4", "a_b", "x" * 80])
def test_plain_names_stay(text: str) -> None:
    assert safe_name(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_inside(tmp_path: Path, text: str) -> None:
    name = safe_name(text)
    assert name != text
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@settings(deadline=None)
@given(st.text())
def test_any_text_is_one_short_plain_component(text: str) -> None:
    name = safe_name(text)
    assert name.isascii()
    assert Path(name).name == name
    assert 0 < len(name) <= 80
    assert not name.startswith((".", "-"))


@settings(deadline=None)
@given(st.sets(st.text(alphabet="ab/.-", max_size=6), max_size=30))
def test_different_texts_stay_different(texts: set[str]) -> None:
    assert len({safe_name(text) for text in texts}) == len(texts)


def test_a_forged_name_does_not_collide() -> None:
    changed = safe_name("a/b")
    assert safe_name(changed) != changed


def test_lone_surrogates_are_fine() -> None:
    assert safe_name("\ud800") != safe_name("\ud801")
