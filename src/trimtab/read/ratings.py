"""People's ratings of pairs of words, and the words that they speak of most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from trimtab.errors import DataError, explain
from trimtab.read.agreement import COLUMNS


def read_ratings(path: str | Path) -> pd.DataFrame:
    """A CSV file with the columns word1, word2, score; words such as "null" are words.

    Raises:
        DataError: no such file, or a column is missing.
    """
    try:
        frame = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {explain(error, 'a CSV file of ratings')}") from error
    if missing := [column for column in COLUMNS if column not in frame.columns]:
        raise DataError(f"{path}: {explain(f'no column {missing[0]}', f'columns {COLUMNS}')}")
    return frame


def most_rated(ratings: Mapping[str, pd.DataFrame], usable: Iterable[str], most: int) -> list[str]:
    """The so many words that keep as many rated pairs as can be: the word with the fewest pairs goes, again and again.

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
        if allowed.issuperset(pair)
    ]
    while True:
        weight: Counter[str] = Counter()
        for pair, share in pairs:
            weight.update(dict.fromkeys(pair, share))
        if len(weight) <= most:
            return sorted(weight)
        worst = min(weight, key=lambda word: (weight[word], word))
        pairs = [(pair, share) for pair, share in pairs if worst not in pair]
