"""Concept files: what is read, what is drawn, and lines that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.steer.hypertransport.concept_file import HELD_OUT, ConceptDraw, ConceptRow, read_concept_rows


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    return path


def row(name: str = "red", **more: Any) -> dict[str, Any]:
    return {"concept": name, "prompts": ["a red one", "red"], **more}


def test_rows_come_in_order_with_what_they_say(tmp_path):
    path = written(
        tmp_path / "a.jsonl", row(split="train", values={"colour": "red"}), row("blü", split="held")
    )
    first, second = read_concept_rows(path)
    assert first == ConceptRow("red", ("a red one", "red"), "train", {"colour": "red"})
    assert (second.name, second.split, second.values) == ("blü", "held", {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no concept, expected lines of"),
        ([[1]], r"a\.jsonl:1: got a list"),
        ([row(), row()], r"a\.jsonl:3: got 'red' again, as on line 1"),
        ([row(), row("blue", split="train")], "a split of some concepts, and none of 'red'"),
        ([row(prompt=["x"])], "the key 'prompt', expected keys of .*; try 'prompts'"),
        ([row(" ")], "the concept ' '"),
        ([row(prompts="red")], "prompts 'red', expected a list of texts"),
        ([row(values={"colour": 1})], "values .* expected an object of texts"),
        ([row(split="")], "the split ''"),
        ([row(split="training")], "the split 'training', as results call another, .*; try 'train'"),
        ([row("\ud800")], "half a character"),
    ],
)
def test_lines_that_do_not_do_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_concept_rows(written(tmp_path / "a.jsonl", *rows))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl.* expected a file of concepts"):
        read_concept_rows(tmp_path / "no.jsonl")


@given(st.integers(0, 5), st.integers(2, 6), st.integers(0, 2), st.integers(0, 99))
def test_a_draw_without_splits_parts_the_concepts(train, held_out, shown, seed):
    rows = [ConceptRow(str(place), ("a", "b")) for place in range(14)]
    draw = ConceptDraw.of(rows, train + 2, held_out, shown, seed)
    names = [one.name for one in (*draw.train, *draw.held_out)]
    assert len(set(names)) == len(names) == train + 2 + held_out
    assert {one.split for one in draw.held_out} == {HELD_OUT}
    assert draw.shown == draw.train[:shown]
    assert draw == ConceptDraw.of(rows, train + 2, held_out, shown, seed)


def test_splits_take_turns_among_the_held_out():
    rows = [
        ConceptRow(f"{split} {place}", ("a", "b"), split)
        for split in ("train", "x", "y")
        for place in range(6)
    ]
    draw = ConceptDraw.of(rows, None, 6, 2, 0)
    assert [one.split for one in draw.held_out] == ["x", "y"] * 3
    assert len(draw.train) == 6
    with pytest.raises(DataError, match=r"12 held out \(6 of train, 6 of x, 6 of y\), expected at least 13"):
        ConceptDraw.of(rows, None, 13, 2, 0)
    with pytest.raises(DataError, match="6 to train on"):
        ConceptDraw.of(rows, 7, 2, 2, 0)
