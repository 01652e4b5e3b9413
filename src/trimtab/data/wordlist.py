"""Word lists as data: names -> labels, from a file with a stated source that anyone can replace."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.errors import ConfigProblems, DataError, Problem, explain, nearest
from trimtab.runs.config import read_mapping

MIXED, UNKNOWN = "mixed", "unknown"
"""Labels of objects that a list gives several labels, and none."""
_NEVER = "\x00\x01\x02"


@dataclass(frozen=True)
class WordList:
    """Labels of names, by whole words and by regular expressions; any case.

    Attributes:
        labels: label -> expressions, any of which makes a name bear the label.
        source: where the list is from.
        title: what it is called in messages and reports.
    """

    labels: Mapping[str, Sequence[str]]
    source: str
    title: str = "a word list"

    def __post_init__(self) -> None:
        if not self.labels or not any(self.labels.values()):
            raise DataError(f"{self.title}: {explain('no word', 'at least one word or pattern')}")
        if not self.source.strip():
            raise DataError(
                f"{self.title}: {explain('no source', 'a line that says where the list is from')}"
            )
        for label, expressions in self.labels.items():
            if not expressions:
                raise DataError(f"{self.title}, {label!r}: {explain('no word', 'at least one')}")
            for expression in expressions:
                _check(expression, f"{self.title}, {label!r}")

    @classmethod
    def read(cls, where: str | Path) -> WordList:
        """A list from a YAML file, or one that ships with the package: `gender-en`, `sports-en`, `people-en`.

        The file has `source`, and `words` (label -> whole words) or `patterns` (label -> regular expressions), or both.

        Raises:
            DataError: an empty list, a list without a source, an expression that is wrong or matches everything.
            ConfigProblems: no such file, or not YAML.
        """
        path = _path(where)
        content = read_mapping(path)
        if unknown := set(content) - {"source", "words", "patterns"}:
            raise DataError(f"{where}: {explain(sorted(unknown), 'source, words and patterns only')}")
        labels: dict[str, list[str]] = {}
        for label, words in _lists(content, "words", where).items():
            labels[label] = [rf"\b{re.escape(word.lower())}\b" for word in words]
        for label, patterns in _lists(content, "patterns", where).items():
            labels.setdefault(label, []).extend(patterns)
        return cls(labels, str(content.get("source") or ""), str(where))

    @cached_property
    def _compiled(self) -> dict[str, re.Pattern[str]]:
        return {label: re.compile("|".join(f"(?:{e})" for e in own)) for label, own in self.labels.items()}

    def __call__(self, name: str) -> bool:
        """Whether a name bears any label."""
        return any(pattern.search(name.lower()) for pattern in self._compiled.values())

    def label(self, name: str) -> str | None:
        """The label of a name: the first that fits, `"mixed"` if several do, None if none does.

        >>> words = WordList({"male": [r"\\bman\\b"], "female": [r"\\bwoman\\b"]}, "an example")
        >>> words.label("Old man"), words.label("man and woman"), words.label("mango")
        ('male', 'mixed', None)
        """
        found = self.labels_in(name)
        return MIXED if len(found) > 1 else found[0] if found else None

    def labels_in(self, name: str) -> tuple[str, ...]:
        """Every label that a name bears, in the order of the list."""
        return tuple(label for label, pattern in self._compiled.items() if pattern.search(name.lower()))


def labels_of_objects(
    frame: pd.DataFrame,
    words: WordList,
    *,
    object: str = "referent",
    name: str = "name",
    weight: str | None = "count",
    agreement: float = 0.5,
    ignore: Sequence[str] = (),
) -> pd.Series[Any]:
    """The label of each object by what it was called: the label that more than `agreement` of its labelled names bear.

    Args:
        frame: one row per object and name.
        words: the list.
        object: the column of objects.
        name: the column of names.
        weight: the column of counts; None: one per row.
        agreement: in [0.5, 1); objects where no label has a larger share are "mixed".
        ignore: labels that do not count, such as those that say nothing specific.

    Returns:
        A series by object, in order of appearance; "unknown" where no name bears a label.

    Raises:
        DataError: a column is missing, or the agreement is out of range.
    """
    check_columns(frame, [object, name, *([weight] if weight else [])])
    if not 0.5 <= agreement < 1:
        raise DataError(explain(f"agreement {agreement}", "a number in [0.5, 1)", "0.5"))
    distinct = frame[name].dropna().unique()
    labels = {one: words.label(str(one)) for one in distinct}
    # A name of both groups speaks for neither alone; it counts against agreement by being labelled "mixed".
    given = frame[name].map(labels)
    counts = frame[weight] if weight else pd.Series(1, index=frame.index)
    known = given.notna() & ~given.isin(list(ignore))
    table = counts[known].groupby([frame.loc[known, object], given[known]]).sum().unstack(fill_value=0)
    shares = table.div(table.sum(axis=1), axis=0)
    best = shares.idxmax(axis=1).where(shares.max(axis=1) > agreement, MIXED)
    return best.reindex(frame[object].unique()).fillna(UNKNOWN)


def is_word_list(text: str) -> bool:
    """Whether a setting names a word list (one that ships, or a YAML file) and not a column.

    >>> is_word_list("gender-en"), is_word_list("mine.yaml"), is_word_list("gender")
    (True, True, False)
    """
    return text.endswith((".yaml", ".yml")) or _path(text) != Path(text)


def unreadable_list(where: str, value: str, example: str) -> list[Problem]:
    """The problem of a setting that should name a word list and does not; nothing where it is empty.

    >>> unreadable_list("heads", "", "gender-en")
    []
    """
    try:
        if value:
            WordList.read(value)
    except (DataError, ConfigProblems) as error:
        return [Problem(where, str(error), "a word list", f"{example}, or a YAML file")]
    return []


def check_columns(frame: pd.DataFrame, columns: Sequence[Hashable]) -> None:
    """Refuse a frame without the columns, naming the nearest that it has."""
    for column in columns:
        if column not in frame.columns:
            there = [str(one) for one in frame.columns]
            raise DataError(explain(f"no column {column!r}", f"one of {there}", nearest(str(column), there)))


def _check(expression: str, where: str) -> None:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise DataError(f"{where}: {explain(repr(expression), f'a regular expression ({error})')}") from None
    if pattern.search("") or pattern.search(_NEVER):
        raise DataError(
            f"{where}: {explain(repr(expression), 'an expression that does not match everything')}"
        )


def _path(where: str | Path) -> Path:
    shipped = Path(str(files("trimtab.data"))) / "words" / f"{where}.yaml"
    return shipped if shipped.is_file() else Path(where)


def _lists(content: Mapping[str, Any], key: str, where: str | Path) -> dict[str, list[str]]:
    found = content.get(key) or {}
    if not isinstance(found, Mapping):
        raise DataError(f"{where}, {key}: {explain(type(found).__name__, 'labels with lists of words')}")
    for label, words in found.items():
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise DataError(f"{where}, {key}, {label!r}: {explain(repr(words), 'a list of words')}")
    return {str(label): list(words) for label, words in found.items()}
