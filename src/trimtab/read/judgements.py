"""Ratings of pairs of words as judgements of pairs of concepts: what counts, what is left out, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import DataError, explain, nearest

COLUMNS = ("word1", "word2", "score")
SOURCE = "source"
"""A column of ratings that may say whose they are: "people" or "labels" in every row."""
LEAST = 3
"""Pairs: fewer have no rank correlation worth the name."""

NAMES = 1000
"""Columns among which the nearest is looked for."""

Source = Literal["ratings", "people", "labels"]
"""Whose scores are: people's, labels such as "of one topic", or ratings of which nothing else is known."""


@dataclass(frozen=True)
class Judged:
    """Judgements of pairs of concepts.

    Attributes:
        pairs: (m, 2) places of concepts.
        scores: (m,), any unit; higher is more alike.
        unknown: words that are no concepts, sorted.
        source: whose they are, as far as they say so.
        notes: rows that were left out or put together, and why.
    """

    pairs: Int[np.ndarray, "m 2"]
    scores: Float[np.ndarray, " m"]
    unknown: tuple[str, ...]
    source: Source = "ratings"
    notes: tuple[str, ...] = ()


def judged(human: pd.DataFrame, names: list[str], rows: Sequence[str] | None = None) -> Judged:
    """The judgements that are about two concepts; a pair judged more than once counts with its mean.

    Words are concepts whatever the case of their letters, unless two concepts differ in that alone. A row that pairs a
    word with itself, or lacks a word, is left out; `notes` says how many there are, and which is the first.

    Args:
        human: columns word1, word2, score, and perhaps source.
        names: of the concepts.
        rows: what to call each row, such as "men.csv, row 7"; None for its place.

    Raises:
        DataError: a column is missing or there twice, a score is no finite number, there is a single concept, or fewer
            than three pairs are known; unknown words are named.
    """
    if len(names) < 2:
        raise DataError(explain(f"the single concept {', '.join(names)!r}", "at least two to compare"))
    called = [f"row {number}" for number in range(len(human))] if rows is None else list(rows)
    check_columns(human.columns)
    scores = checked_scores(human["score"], called)
    place = _places(names)
    unknown: set[str] = set()
    found: dict[tuple[int, int], list[float]] = {}
    left: dict[str, list[str]] = {"alone": [], "empty": [], "again": []}
    for row, *cells, score in zip(called, human["word1"], human["word2"], scores, strict=True):
        words = [word_of_cell(cell) for cell in cells]
        if "" in words:
            left["empty"].append(row)
            continue
        first, second = (place(word) for word in words)
        unknown.update(word for word, at in zip(words, (first, second), strict=True) if at is None)
        if words[0].casefold() == words[1].casefold() and (first is None or first == second):
            left["alone"].append(f"{row}: {words[0]!r} paired with itself")
        elif first is not None and second is not None:
            pair = (min(first, second), max(first, second))
            if pair in found:
                left["again"].append(f"{row}: {words[0]!r} and {words[1]!r}")
            found.setdefault(pair, []).append(float(score))
    notes = tuple(_notes(left))
    told = tuple(sorted(unknown))
    if len(found) < LEAST:
        named = f"; unknown: {', '.join(told[:20])}" if told else ""
        got = "; ".join([f"{len(found)} rated pairs of concepts{named}", *notes])
        raise DataError(explain(got, f"at least {LEAST}"))
    means = np.array([np.mean(values) for values in found.values()])
    return Judged(np.array(list(found)), means, told, source_of(human), notes)


def check_columns(columns: Iterable[object]) -> None:
    """Refuse ratings that lack a column, or have one of them twice.

    Raises:
        DataError: naming the columns, and the nearest that is there.
    """
    there = [str(column) for column in columns]
    if lacking := [column for column in COLUMNS if column not in there]:
        near = nearest(lacking[0], [name for name in there[:NAMES] if name not in COLUMNS])
        hint = f"renaming {near} to {lacking[0]!r}" if near else "rename the columns"
        got = f"ratings without {', '.join(lacking)} (no column {lacking[0]})"
        raise DataError(explain(got, f"columns {', '.join(COLUMNS)}", hint))
    for column in (*COLUMNS, SOURCE):
        if (count := there.count(column)) > 1:
            raise DataError(explain(f"{count} columns {column!r}", "one"))


def checked_scores(scores: pd.Series, rows: Sequence[str]) -> Float[np.ndarray, " m"]:
    """The scores as numbers.

    Raises:
        DataError: the first that is no finite number, with its row.
    """
    numbers = np.array([_number(score) for score in scores], dtype=float)
    wrong = np.nonzero(~np.isfinite(numbers))[0]
    if len(wrong):
        score = scores.iloc[int(wrong[0])]
        got = repr(score[:40]) if isinstance(score, str) else str(score)[:40]
        raise DataError(f"score of {rows[int(wrong[0])]}: {explain(got, 'a finite number')}")
    return numbers


def source_of(human: pd.DataFrame) -> Source:
    """Whose ratings are: "people" or "labels" where their column `source` says so in every row, else "ratings".

    >>> source_of(pd.DataFrame({"score": [1, 2], "source": "people"})), source_of(pd.DataFrame({"score": [1, 2]}))
    ('people', 'ratings')
    """
    told = {word_of_cell(cell).casefold() for cell in human[SOURCE]} if SOURCE in human.columns else set()
    return "people" if told == {"people"} else "labels" if told == {"labels"} else "ratings"


def word_of_cell(cell: object) -> str:
    """The word in a cell without spaces around it; "" where there is none."""
    return "" if cell is None or cell is pd.NA or cell != cell else str(cell).strip()


def _places(names: Sequence[str]) -> Callable[[str], int | None]:
    """The place of a word among the concepts: written alike, else in any case where only one concept fits."""
    exact = {name: number for number, name in enumerate(names)}
    folded: dict[str, int | None] = {}
    for name, number in exact.items():
        key = name.strip().casefold()
        folded[key] = None if key in folded else number

    def place(word: str) -> int | None:
        return exact[word] if word in exact else folded.get(word.casefold())

    return place


def _number(score: object) -> float:
    try:
        return float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


_LEFT = {
    "alone": "left out {} of one word",
    "empty": "left out {} without a word",
    "again": "{} of a pair that was there before, in either order: its mean counts",
}


def _notes(left: dict[str, list[str]]) -> Iterator[str]:
    for what, rows in left.items():
        if rows:
            number = f"{len(rows)} row{'s' if len(rows) > 1 else ''}"
            yield f"{_LEFT[what].format(number)} (the first is {rows[0]})"
