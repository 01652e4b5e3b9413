"""Concepts of texts as a file with one JSON object a line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from trimtab.data.concept import Concept, cannot_be_encoded
from trimtab.data.mentions import word_of
from trimtab.errors import DataError, explain, nearest
from trimtab.runs.atomic import write_atomic
from trimtab.runs.files import TEXT_LIMIT, check_regular, parse_json, reading

EXPECTED = '{"name": text, "positive": [texts], "negative": [texts]}'


def write_concepts(path: Path, concepts: Iterable[Concept]) -> None:
    """Write what `read_concepts` reads."""
    rows = [
        {"name": c.name, "positive": c.positive, "negative": c.negative, "word": c.word} for c in concepts
    ]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_concepts(path: Path) -> Iterator[Concept]:
    """The concepts of a file, gzipped or not, in its order.

    Raises:
        DataError: no such file, a folder or a pipe, not UTF-8, or a line that is no concept; with the line.
    """
    for where, line in json_lines(path, "a file of JSON lines"):
        yield _concept(line, where)


def json_lines(path: Path, expected: str) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with "path, line n".

    A line ends at a line feed and nowhere else: JSON allows U+2028, U+0085 and others inside its texts.

    Raises:
        DataError: no such file, one that is no regular file or that cannot be read, or a line that is not UTF-8 or has
            more than `TEXT_LIMIT` bytes.
    """
    check_regular(path, expected)
    with reading(path, expected), _opened(path) as file:
        number = 0
        while raw := file.readline(TEXT_LIMIT + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(raw) > TEXT_LIMIT:
                got = f"more than {TEXT_LIMIT / 2**20:,.0f} MiB"
                raise DataError(f"{where}: {explain(got, expected)}")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                got = f"bytes that are not UTF-8 ({error.reason}, byte {error.start})"
                raise DataError(
                    f"{where}: {explain(got, f'{expected} in UTF-8', 'iconv -t utf-8')}"
                ) from error
            if text.strip(" \t\r\n"):
                yield where, text


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def json_row(line: str, where: str, expected: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        DataError: it is damaged, no object, or has a key twice, of which JSON would keep the last without a word.
    """
    try:
        row = parse_json(line, where, expected)
    except DataError as error:
        raise DataError(str(error).replace("got text that is not JSON", "got damaged text", 1)) from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: {explain(f'a {type(row).__name__}', expected)}")
    json.loads(line, object_pairs_hook=lambda pairs: _once(pairs, where, expected))
    return row


def _once(pairs: Sequence[tuple[str, Any]], where: str, expected: str) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise DataError(f"{where}: {explain(f'the key {twice[0]!r} twice', expected)}")
    return dict(pairs)


def _concept(line: str, where: str) -> Concept:
    row = json_row(line, where, EXPECTED)
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        got = "no name" if not isinstance(name, str) else f"the name {name!r}"
        raise DataError(f"{where}: {explain(got, EXPECTED, _near('name', row))}")
    if cannot_be_encoded(name):
        raise DataError(f"{where}: {explain(f'half a character in the name {name!r}', 'whole ones')}")
    sides = {side: row.get(side, []) for side in ("positive", "negative")}
    for side, texts in sides.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}, {name}: {explain(f'{side} that is no list of texts', EXPECTED)}")
        if side not in row and (near := _near(side, row)):
            raise DataError(f"{where}, {name}: {explain(f'no {side}', EXPECTED, near)}")
        if halves := [text for text in texts if cannot_be_encoded(text)]:
            got = f"half a character (a lone surrogate) in {side} example {texts.index(halves[0])}"
            raise DataError(f"{where}, {name}: {explain(got, 'whole characters')}")
    word = row.get("word", word_of(name))
    if word is not None and not isinstance(word, str):
        got = f"the word {word!r}"
        raise DataError(f"{where}, {name}: {explain(got, 'a text, or null for a concept that is no word')}")
    return Concept(name, tuple(sides["positive"]), tuple(sides["negative"]), word)


def _near(key: str, row: dict[str, Any]) -> str:
    near = nearest(key, [other for other in row if other not in ("name", "positive", "negative", "word")])
    return f"renaming {near} to {key!r}" if near else ""
