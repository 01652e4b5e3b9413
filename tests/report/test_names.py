from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from trimtab.report.formats import printable, short, short_names


@given(st.text(), st.integers(4, 30))
def test_a_short_name_fits(name: str, width: int) -> None:
    assert len(short(name, width)) <= width


@given(st.lists(st.text(max_size=40), max_size=12, unique=True), st.integers(6, 30))
def test_short_names_stay_different(names: list[str], width: int) -> None:
    found = short_names(names, width)
    assert len(set(found)) == len(names)
    assert all(len(name) <= width for name in found)


def test_a_repeated_name_is_one_name() -> None:
    assert short_names(["a", "b", "a"]) == ["a", "b", "a"]


@given(st.text(st.characters(codec="utf-8")))
def test_a_printable_name_fits_into_xml(name: str) -> None:
    element = ElementTree.Element("a", {"b": printable(name)})
    assert ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode")).get("b") == printable(
        name
    )


def test_letters_that_turn_the_reading_direction_are_shown() -> None:
    assert printable("safe\u202egnp.exe") == "safe�gnp.exe"
