"""Captions of items: one by a speaker for each, or several references, from frames, files and mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from trimtab.data.record_files import JSON_LIMIT, lines
from trimtab.data.tables import check_columns, label_text, list_of_text, read_table, show
from trimtab.errors import DataError, nearest, refusal
from trimtab.runs.files import check_regular, has_halves, parse_json, read_json
from trimtab.runs.paths import as_path, neighbour

CaptionSource = pd.DataFrame | str | Path | Mapping[Any, Any] | Sequence[Any]
"""A frame, a file (CSV, TSV, Parquet, JSON or JSONL, gzipped too), a mapping from items, or a list of rows."""

TO_SCORE = ("candidate", "references")
"""What a line of captions to score has."""
_JSON = "one JSON object per line, in UTF-8"


def speaker_captions(source: CaptionSource, where: str = "captions", *, empty: bool = False) -> pd.DataFrame:
    """Captions of one speaker, one of each item.

    Args:
        source: rows of `item` and `caption`, or a mapping from item to caption. Further columns are kept.
        where: what to call it in messages; a file is called by its path.
        empty: whether a caption may be empty, as a model may say nothing.

    Returns:
        Columns item and caption, both texts, and any further ones. Items are labels: 1, 1.0 and "1" are one.

    Raises:
        DataError: no rows, a column is missing, two captions of one item, or a caption that is no text or is empty.

    >>> speaker_captions({"a": "a red cat", "b": "a dog"}).to_dict("list")
    {'item': ['a', 'b'], 'caption': ['a red cat', 'a dog']}
    """
    rows, seen = list[dict[str, Any]](), dict[str, str]()
    for place, row in _rows(source, where, ("item", "caption")):
        item, caption = _item(row, place), _text(row, "caption", place, empty=empty)
        if item in seen:
            got = f"two captions of item {item!r} (the other: {seen[item]})"
            raise refusal(place, got, "one caption of each item", "one speaker at a time")
        seen[item] = place
        rows.append({**row, "item": item, "caption": caption})
    if not rows:
        raise refusal(_called(source, where), "no captions", "at least one")
    frame = pd.DataFrame(rows)
    first = ["item", "caption"]
    return frame[[*first, *(column for column in frame.columns if column not in first)]]


def references(source: CaptionSource, where: str = "references") -> dict[str, list[str]]:
    """Captions of people, several of each item.

    Args:
        source: rows of `item` and `caption` of which several share an item, rows of `item` and `references` (a list, or
            a list as JSON or Python in a CSV file), or a mapping from item to its captions (or its only caption).
        where: what to call it in messages; a file is called by its path.

    Returns:
        Item -> its captions, in the order of the source; items are labels as texts.

    Raises:
        DataError: no rows, a column is missing, an item with no references or twice with lists, or a caption that is no
            text or is empty.

    >>> references([{"item": 1, "caption": "a cat"}, {"item": 1, "caption": "a tabby"}])
    {'1': ['a cat', 'a tabby']}
    """
    found, listed = dict[str, list[str]](), dict[str, str]()
    for place, row in _rows(source, where, ("item",), either=("caption", "references")):
        item = _item(row, place)
        if "references" not in row:
            found.setdefault(item, []).append(_text(row, "caption", place))
            continue
        if item in listed:
            got = f"references of item {item!r} again (the other: {listed[item]})"
            raise refusal(place, got, "one list for each item")
        listed[item] = place
        found[item] = reference_texts(row["references"], place)
    if not found:
        raise refusal(_called(source, where), "no references", "at least one")
    return found


def reference_texts(value: Any, where: str) -> list[str]:
    """The references of one item: a list of texts, one text, or a list written as JSON or as Python does.

    Raises:
        DataError: there are none, or one is no text or is empty.

    >>> reference_texts('["a cat", "a tabby"]', "row 1")
    ['a cat', 'a tabby']
    """
    if isinstance(value, str):
        told = list_of_text(value)
        value = value if told is None else told
    if isinstance(value, str):
        value = [value]
    if hasattr(value, "tolist"):  # as Parquet gives lists
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise refusal(where, f"references that are {_kind(value)}", "a list of texts", _example())
    if not value:
        raise refusal(where, "an empty list of references", "at least one reference", "leaving the item out")
    named = f"reference {{}} of {len(value)}"
    return [_checked(one, named.format(k), where) for k, one in enumerate(value, 1)]


def captions_to_score(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Candidates and their references from a file of JSON with one item per line.

    Args:
        path: a file whose lines have `candidate`, a text that may be empty, and `references`, a list of texts; further
            keys are ignored; one that ends in .gz is unpacked on the way.

    Returns:
        The candidates, and the references of each.

    Raises:
        DataError: a file that is missing, empty or damaged, or a line that lacks a key or has another kind of value;
            the file and the line are named.
    """
    candidates, several = list[str](), list[list[str]]()
    for place, row in _rows(path, "captions", ()):
        if "caption" in row and not set(TO_SCORE) & set(row):
            got, hint = "a caption without references", "--references FILE, for a table of item and caption"
            raise refusal(place, got, "candidate and references", hint)
        _checked_row(row, place, TO_SCORE, ())
        candidates.append(_text(row, "candidate", place, empty=True))
        several.append(reference_texts(row["references"], place))
    if not candidates:
        raise refusal(path, "an empty file", "a line for each caption", _example())
    return candidates, several


def _rows(
    source: CaptionSource, where: str, columns: Sequence[str], either: Sequence[str] = ()
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a source, each with its place for messages."""
    if isinstance(source, str | Path):
        yield from _file(as_path(source, where, "a file of captions"), where, columns, either)
        return
    if isinstance(source, pd.DataFrame):
        yield from _frame(source, where, columns, either)
        return
    if isinstance(source, Mapping):
        yield from _mapping(source, where, _last(columns, either))
        return
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        hint = "a frame with columns item and caption, or a list of such rows"
        raise refusal(where, f"a {type(source).__name__}", "captions", hint)
    for number, row in enumerate(source):
        yield _checked_row(row, f"{where}, row {number}", columns, either)


def _file(
    path: Path, where: str, columns: Sequence[str], either: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = path.name.lower().removesuffix(".gz")
    if not path.exists():
        raise refusal(where, f"no file {str(path)!r}", "a file of captions", neighbour(path))
    if name.endswith((".jsonl", ".ndjson")):
        check_regular(path, _JSON)
        for place, line in lines(path, _JSON, newline=None):
            if line.strip():
                yield _checked_row(parse_json(line, place, _JSON), place, columns, either)
    elif path.name.lower().endswith(".json"):
        expected = "a JSON array of rows, or an object from item to caption"
        content = read_json(path, expected, limit=JSON_LIMIT)
        if isinstance(content, Mapping):
            yield from _mapping(content, str(path), _last(columns, either))
            return
        if not isinstance(content, list):
            raise refusal(path, _kind(content), expected)
        for number, row in enumerate(content):
            yield _checked_row(row, f"{path}, row {number}", columns, either)
    elif name.endswith((".csv", ".tsv", ".parquet")):
        yield from _frame(read_table(path), str(path), columns, either)
    else:
        expected = "a .csv, .tsv, .parquet, .json or .jsonl file; .csv.gz and .jsonl.gz too"
        raise refusal(path, repr(path.name), expected)


def _last(columns: Sequence[str], either: Sequence[str]) -> str:
    """What the values of a mapping from items are: the last of the columns, captions where there are none."""
    return ["caption", *columns, *either][-1]


def _mapping(source: Mapping[Any, Any], where: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a mapping from item to caption or references; one of columns would be read as two items."""
    if "item" in source and set(source) & {"caption", "references"}:
        hint = "pandas.DataFrame(...) of it"
        raise refusal(where, f"a mapping with keys {list(source)[:12]}", "one from item to caption", hint)
    for item, value in source.items():
        yield f"{where}, item {show(item)}", {"item": item, key: value}


def _frame(
    frame: pd.DataFrame, where: str, columns: Sequence[str], either: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        check_columns(frame, columns)
        if either and not set(either) & set(frame.columns):
            check_columns(frame, either[:1])
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    for number, row in enumerate(frame.to_dict("records")):
        yield f"{where}, row {number}", cast("Mapping[str, Any]", row)


def _checked_row(
    row: Any, place: str, columns: Sequence[str], either: Sequence[str]
) -> tuple[str, Mapping[str, Any]]:
    """A row that has the columns, and one of those of which it needs only one."""
    wanted = ", ".join(columns or TO_SCORE) + (f" and {' or '.join(either)}" if either else "")
    if not isinstance(row, Mapping):
        raise refusal(place, _kind(row), f"an object with {wanted}", _example())
    missing = [column for column in columns if column not in row]
    if either and not set(either) & set(row):
        missing.append(either[0])
    if missing:
        there = [str(one) for one in row]
        got = f"no {missing[0]!r} among {there[:12]}"
        raise refusal(place, got, f"an object with {wanted}", nearest(missing[0], there))
    return place, row


def _item(row: Mapping[str, Any], place: str) -> str:
    value = row["item"]
    try:
        item = "" if _absent(value) else label_text(value)
    except DataError as error:
        raise DataError(f"{place}: item: {error}") from None
    if not item:
        raise refusal(place, "no item", "the name of what the caption describes")
    return item


def _text(row: Mapping[str, Any], key: str, place: str, *, empty: bool = False) -> str:
    return _checked(row[key], f"the {key}", place, empty=empty)


def _checked(value: Any, what: str, place: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise refusal(place, f"{_kind(value)} for {what}", "a text")
    if has_halves(value):
        raise refusal(place, f"{value!a:.60} for {what}, with half a character", "a text in Unicode")
    if not empty and not value.strip():
        raise refusal(place, f"{what} empty", "a text with words", "leaving the item out")
    return value


def _kind(value: Any) -> str:
    """A value that is no text, for a message."""
    return "no value" if _absent(value) else f"{show(value)} ({type(value).__name__})"


def _absent(value: Any) -> bool:
    """Whether a cell holds nothing: None, nan or NA."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _called(source: object, where: str) -> object:
    return source if isinstance(source, str | Path) else where


def _example() -> str:
    return '{"candidate": "a cat", "references": ["a cat", "a tabby"]}'
