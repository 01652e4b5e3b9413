"""Pages of one result and of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import pytest

from trimtab.errors import DataError
from trimtab.report.page import Page, Section, Table, Text, chapters_page, settings_section


@dataclass(frozen=True)
class Score:
    label: str
    value: int


ONE, OTHER = Score("first", 1), Score("<i>", 2)


def verdict(score: Score) -> str:
    return f"It scored {score.value}."


def chapter(score: Score) -> Iterator[Section]:
    yield Section("Score", [Text(f"{score.value} points")])


def compared(scores: Sequence[Score], labels: Sequence[str]) -> Table:
    return Table(pd.DataFrame({"who": labels, "points": [score.value for score in scores]}))


def test_one_result_is_its_chapter_and_nothing_is_compared() -> None:
    text = chapters_page("A", [ONE], "scores", verdict=verdict, chapter=chapter, compared=compared)
    assert text == Page("A", "It scored 1.", [Section("Score", [Text("1 points")])]).render()


def test_several_are_compared_and_folded_under_numbers() -> None:
    text = chapters_page("A", [ONE, OTHER], "scores", verdict=verdict, chapter=chapter, compared=compared)
    expected = [
        Section("Compared", [compared([ONE, OTHER], ["1. first", "2. <i>"])]),
        Section("1. first", [Text("It scored 1."), *chapter(ONE)], collapsed=True),
        Section("2. <i>", [Text("It scored 2."), *chapter(OTHER)], collapsed=True),
    ]
    assert text == Page("A", "2 scores.", expected).render()
    assert "<i>" not in text


def test_a_comparison_may_be_left_out() -> None:
    text = chapters_page("A", [ONE, ONE], "scores", verdict=verdict, chapter=chapter)
    assert "Compared" not in text
    assert "2. first" in text


def test_a_page_about_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="got no result, expected at least one finished run"):
        chapters_page("A", [], "scores", verdict=verdict, chapter=chapter)


def test_settings_are_rows_in_their_order_even_under_one_name() -> None:
    found = settings_section([("model", "a"), ("model", None), ("sites", [1, 2])])
    assert found.collapsed
    (table,) = found.blocks
    assert isinstance(table, Table)
    assert table.frame.to_numpy().tolist() == [["model", "a"], ["model", "None"], ["sites", "[1, 2]"]]
