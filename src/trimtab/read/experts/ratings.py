"""Ratings of pairs of words: read from files, matched to pairs of concepts, and their reliability.

Notes count the rows that are left out, and a column `source` may say whose the ratings are.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import ConfigError, DataError, explain, nearest
from trimtab.numerics.bootstrap import spearman
from trimtab.numerics.similarity import prophecy
from trimtab.runs.files import check_regular, read_text, reading

COLUMNS = ("word1", "word2", "score")
SOURCE = "source"
"""A column of ratings that may say whose they are: "people" or "labels" in every row."""
LEAST = 3
"""The least number of rated pairs that a rank correlation is taken of."""

NAMES = 1000
"""Columns among which the nearest is looked for."""

Source = Literal["ratings", "people", "labels"]
"""Whose scores are: people's, labels such as "of one topic", or ratings of which nothing else is known."""


@dataclass(frozen=True)
class Judged:
    """Ratings of pairs of concepts.

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
    """Ratings of pairs of concepts; a pair that is rated more than once has its mean score.

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
    scores_of: dict[tuple[int, int], list[float]] = {}
    same_word, empty, repeated = [], [], []
    for row, *cells, score in zip(called, human["word1"], human["word2"], scores, strict=True):
        words = [word_of_cell(cell) for cell in cells]
        if "" in words:
            empty.append(row)
            continue
        first, second = (place(word) for word in words)
        unknown.update(word for word, at in zip(words, (first, second), strict=True) if at is None)
        if words[0].casefold() == words[1].casefold() and (first is None or first == second):
            same_word.append(f"{row}: {words[0]!r} paired with itself")
        elif first is not None and second is not None:
            pair = (min(first, second), max(first, second))
            if pair in scores_of:
                repeated.append(f"{row}: {words[0]!r} and {words[1]!r}")
            scores_of.setdefault(pair, []).append(float(score))
    rows_by_note = {
        "left out {} of one word": same_word,
        "left out {} without a word": empty,
        "{} of a pair that was there before, in either order: its mean counts": repeated,
    }
    notes = tuple(
        f"{note.format(f'{len(row_names)} row' + 's' * (len(row_names) > 1))} (the first is {row_names[0]})"
        for note, row_names in rows_by_note.items()
        if row_names
    )
    no_concepts = tuple(sorted(unknown))
    if len(scores_of) < LEAST:
        named = f"; unknown: {', '.join(no_concepts[:20])}" if unknown else ""
        got = "; ".join([f"{len(scores_of)} rated pairs of concepts{named}", *notes])
        raise DataError(explain(got, f"at least {LEAST}"))
    means = np.array([np.mean(values) for values in scores_of.values()])
    return Judged(np.array(list(scores_of)), means, no_concepts, source_of(human), notes)


def check_columns(columns: Iterable[object]) -> None:
    """Column check: ratings have word1, word2 and score, each of them once.

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
    """Scores as finite numbers.

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
    """Source of ratings: "people" or "labels" where their column `source` says so in every row, else "ratings".

    >>> source_of(pd.DataFrame({"score": [1, 2], "source": "people"})), source_of(pd.DataFrame({"score": [1, 2]}))
    ('people', 'ratings')
    """
    named = {word_of_cell(cell).casefold() for cell in human[SOURCE]} if SOURCE in human.columns else set()
    return "people" if named == {"people"} else "labels" if named == {"labels"} else "ratings"


def word_of_cell(cell: object) -> str:
    """Word in a cell without spaces around it; "" where there is none."""
    return "" if cell is None or cell is pd.NA or cell != cell else str(cell).strip()


def _places(names: Sequence[str]) -> Callable[[str], int | None]:
    """Place of a word among the concepts: written alike, else in any case where only one concept fits."""
    exact = {name: number for number, name in enumerate(names)}
    folded: dict[str, int | None] = {}
    for name, number in exact.items():
        key = name.strip().casefold()
        folded[key] = None if key in folded else number

    def place(word: str) -> int | None:
        return exact[word] if word in exact else folded.get(word.casefold())

    return place


def _number(cell: object, otherwise: float = np.nan) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return otherwise


EXPECTED = "a CSV file of ratings"
LIMIT = 2**30
"""Bytes of a file of ratings."""


@dataclass(frozen=True)
class RatingsFile:
    """Ratings of a file, with what to call each of their rows.

    Attributes:
        frame: columns word1, word2 (texts), score (numbers), and source where the file says whose they are.
        rows: "path, row n" for each, the number of the line on which it ends.
    """

    frame: pd.DataFrame
    rows: tuple[str, ...]


def read_ratings(path: str | Path) -> pd.DataFrame:
    """Ratings of a CSV file with the columns word1, word2, score; words such as "null" are words.

    A column `source` may say whose they are: "people" or "labels" in every row. So may a file of the same name with
    `.source` after it.

    Raises:
        DataError: no such file, not UTF-8, a row of another length than the header, no row, a column that is missing,
            or a score that is no finite number; always with the file, and with the row where one is to blame.
    """
    return ratings_file(path).frame


def ratings_file(path: str | Path) -> RatingsFile:
    """Ratings of a file and what to call their rows; see `read_ratings`.

    Raises:
        DataError: as `read_ratings`.
    """
    cells = _cells(Path(path))
    _, header = next(cells, (0, []))
    header = [cell.strip() for cell in header]
    try:
        check_columns(header)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    rows, kept = [], []
    for number, row in cells:
        rows.append(f"{path}, row {number}")
        kept.append(row)
        if len(row) != len(header):
            expected, hint = f"{len(header)} as in the header", "quotes around cells with commas"
            raise DataError(f"{rows[-1]}: {explain(f'{len(row)} cells', expected, hint)}")
    if not kept:
        raise DataError(f"{path}: {explain('no row below the header', EXPECTED)}")
    frame = pd.DataFrame(kept, columns=pd.Index(header))
    frame["score"] = checked_scores(frame["score"], rows)
    if SOURCE not in header and (note := Path(f"{path}.{SOURCE}")).is_file():
        frame[SOURCE] = read_text(note, "a word", limit=100).strip()
    return RatingsFile(frame, tuple(rows))


def most_rated(ratings: Mapping[str, pd.DataFrame], usable: Iterable[str], most: int) -> list[str]:
    """Greedy choice of words that keeps rated pairs: the word with the fewest pairs goes until `most` are left.

    Each set of ratings weighs the same, however many pairs it has. Scores play no part.

    Args:
        ratings: name -> word1, word2, score.
        usable: words that may be taken.
        most: how many.

    Returns:
        Words, sorted; fewer where fewer are usable and rated.

    >>> frame = pd.DataFrame({"word1": ["a", "a", "b"], "word2": ["b", "c", "d"], "score": 1.0})
    >>> most_rated({"x": frame}, "abcd", 3)
    ['a', 'b', 'd']
    """
    allowed = set(usable)
    pairs = [
        (frozenset(pair), 1 / len(frame))
        for frame in ratings.values()
        for pair in frame[["word1", "word2"]].itertuples(index=False, name=None)
        if allowed.issuperset(pair) and pair[0] != pair[1]
    ]
    while True:
        weight: Counter[str] = Counter()
        for pair, share in pairs:
            weight.update(dict.fromkeys(pair, share))
        if len(weight) <= most:
            return sorted(weight)
        worst = min(weight, key=lambda word: (weight[word], word))
        pairs = [(pair, share) for pair, share in pairs if worst not in pair]


# How reliable the means of several raters are -----------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Split-half reliability: expected correlation of mean ratings with those of as many other raters.

    Attributes:
        value: mean over splits; nan where no split says anything.
        low: 2.5th percentile of the splits, not an interval over raters or items.
        high: 97.5th percentile.
        n_splits: splits that said something.
        n_items: items that at least two raters rated.
        n_raters: raters.
        n_left_out: items that fewer than two raters rated.
    """

    value: float
    low: float
    high: float
    n_splits: int
    n_items: int
    n_raters: int
    n_left_out: int


def split_half_reliability(raters: pd.DataFrame, *, n_splits: int = 1000, seed: int = 0) -> Reliability:
    """Split-half reliability of mean ratings, stepped up by Spearman and Brown: k r / (1 + (k - 1) r).

    In each split two halves of the raters give two means of every item; their rank correlation, which is that of
    halves, is stepped up to all raters. Of an odd number one rater, drawn anew for each split, is in neither half.
    Where every rater rated every item, raters are dealt out once for all items; else those of each item are.
    The value is what `reliability=` of `ExpertLens.align` and of a recipe asks for.

    Args:
        raters: wide: columns word1 and word2 (or item), and one column per rater, empty where one did not rate (a
            column score is none); or long: columns rater and value, and word1 and word2 (or item). The two words of
            a pair stand in either order.
        n_splits: random splits.
        seed: of the splits.

    Raises:
        DataError: neither form, fewer than two raters, fewer than three items that two rated, a rater who rates an item
            twice (long), or a rating that is no finite number.
        ConfigError: n_splits below 1.

    Source: Spearman 1910; Brown 1910.

    >>> table = pd.DataFrame({"item": list("abcd"), "ann": [1, 2, 3, 4], "bob": [1, 2, 4, 3]})
    >>> round(split_half_reliability(table).value, 3)  # 2 r / (1 + r) at a correlation of .8
    0.889
    """
    if n_splits < 1:
        raise ConfigError(f"n_splits: {explain(n_splits, 'at least 1')}")
    table = _items_by_raters(raters)
    counts = np.isfinite(table).sum(1)
    kept = table[counts > 1]
    if len(kept) < 3:
        got = f"{len(kept)} items that at least two of {table.shape[1]} raters rated"
        raise DataError(explain(got, "at least 3"))
    rng = np.random.default_rng(seed)
    there, splits = np.isfinite(kept), []
    several = there.sum(1)
    half = (several // 2)[:, None]
    for _ in range(n_splits):
        keys = rng.random(kept.shape[1]) if there.all() else rng.random(kept.shape)
        # Those who did not rate an item come last in its order, and so into neither half.
        place = np.argsort(np.argsort(np.where(there, keys, 2.0), axis=1), axis=1)
        sides = (place < half, (place >= half) & (place < 2 * half))
        means = [np.where(side & there, kept, 0.0).sum(1) / half[:, 0] for side in sides]
        splits.append(prophecy(float(spearman(*means)), float((several / half[:, 0]).mean())))
    finite = np.array(splits)[np.isfinite(splits)]
    value, low, high = (finite.mean(), *np.quantile(finite, [0.025, 0.975])) if finite.size else [np.nan] * 3
    sizes = (len(kept), table.shape[1], int((counts < 2).sum()))
    return Reliability(float(value), float(low), float(high), len(finite), *sizes)


def _items_by_raters(raters: pd.DataFrame) -> Float[np.ndarray, "i r"]:
    """Ratings matrix: one row per item and one column per rater; nan where one did not rate."""
    keys = ["word1", "word2"] if {"word1", "word2"} <= set(raters.columns) else ["item"]
    if not set(keys) <= set(raters.columns) or not raters.columns.is_unique:
        got = f"columns {', '.join(map(str, raters.columns))[:200]}"
        raise DataError(explain(got, "word1 and word2, or item; and rater and value, or a column per rater"))
    pairs = raters[keys].to_numpy(dtype=object)
    items = [tuple(sorted(map(word_of_cell, pair))) for pair in pairs]
    if {"rater", "value"} <= set(raters.columns):
        cells: list[tuple[Any, pd.Series]] = [(list(raters["rater"]), raters["value"])]
    else:
        columns = [name for name in raters.columns if name not in (*keys, "score", SOURCE)]
        cells = [(name, raters[name]) for name in columns]
    parts = [pd.DataFrame({"item": items, "rater": name, "value": _values(column)}) for name, column in cells]
    long = pd.concat(parts) if parts else pd.DataFrame(columns=["item", "rater", "value"])
    every = long["item"].drop_duplicates()
    long = long.dropna(subset="value")
    if (twice := long.duplicated(["item", "rater"])).any():
        row = long[twice].iloc[0]
        got = f"two ratings of {' and '.join(row['item'])} by {row['rater']}"
        raise DataError(explain(got, "one of each item by each rater"))
    if long["rater"].nunique() < 2:
        raise DataError(explain(f"{long['rater'].nunique()} raters", "at least two"))
    table = long.pivot(index="item", columns="rater", values="value")
    return table.reindex(list(every)).to_numpy(dtype=float)


def _values(cells: pd.Series) -> list[float]:
    """Ratings as numbers, nan for empty cells."""
    values = [_number(word_of_cell(cell) or "nan", np.inf) for cell in cells]
    for number, (cell, value) in enumerate(zip(cells, values, strict=True)):
        if np.isinf(value):
            got = f"{cell!r} in row {number} of {cells.name}"
            raise DataError(explain(got, "a finite number, or nothing"))
    return values


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """CSV rows that are not blank, each with the number of its last line.

    Raises:
        DataError: see `read_ratings`.
    """
    check_regular(path, EXPECTED, limit=LIMIT)
    if path.suffix in PACKED:
        with reading(path, EXPECTED), PACKED[path.suffix](path) as file:
            text = str(file.read(LIMIT), encoding="utf-8-sig")
    else:
        text = read_text(path, EXPECTED, limit=LIMIT)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            got = f"a row that cannot be read ({error})"
            raise DataError(f"{path}, row {rows.line_num}: {explain(got, EXPECTED)}") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield rows.line_num, row


def only_member(path: Path) -> IO[bytes]:
    """Single file of a ZIP archive, opened to be read.

    Raises:
        DataError: there are more, or none.
    """
    archive = zipfile.ZipFile(path)
    if len(archive.namelist()) != 1:
        got = f"an archive of {len(archive.namelist())} files"
        raise DataError(f"{path}: {explain(got, 'one of a single file')}")
    return archive.open(archive.namelist()[0])


PACKED: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": only_member}
