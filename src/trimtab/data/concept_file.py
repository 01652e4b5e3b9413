"""Concepts of texts as a file with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from trimtab.data.concept import Concept
from trimtab.data.mentions import word_of
from trimtab.errors import DataError, explain
from trimtab.runs.atomic import write_atomic


def write_concepts(path: Path, concepts: Iterable[Concept]) -> None:
    """Write what `read_concepts` reads."""
    rows = [
        {"name": c.name, "positive": c.positive, "negative": c.negative, "word": c.word} for c in concepts
    ]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_concepts(path: Path) -> Iterator[Concept]:
    """The concepts of a file, in its order.

    Raises:
        DataError: no such file, or a line that is no concept.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {explain(error, 'a file of JSON lines')}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _concept(line, f"{path}, line {number}")


def _concept(line: str, where: str) -> Concept:
    expected = '{"name": text, "positive": [texts], "negative": [texts]}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: {explain('damaged text', expected)}") from error
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise DataError(f"{where}: {explain('no name', expected)}")
    sides = {side: row.get(side, []) for side in ("positive", "negative")}
    for side, texts in sides.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{where}, {row['name']}: {explain(f'{side} that is no list of texts', expected)}"
            )
    word = row.get("word", word_of(row["name"]))
    return Concept(row["name"], tuple(sides["positive"]), tuple(sides["negative"]), word)
