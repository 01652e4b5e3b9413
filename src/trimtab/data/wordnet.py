"""Sentences of WordNet by the words in them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trimtab.errors import DataError, explain

LEAST_WORDS = 5
_TOKEN = re.compile(r"[a-z]+(?:['-][a-z]+)*")


def is_wordnet(path: Path) -> bool:
    """Whether a file looks like one of WordNet's: its first line has a definition."""
    try:
        return "definition" in json.loads(next(_lines(path), "null"))
    except (OSError, ValueError, TypeError):
        return False


def sentences_of(path: Path, words: Iterable[str]) -> dict[str, list[str]]:
    """For each word, the definitions and examples that have it as it is written, in the order of the file.

    Args:
        path: JSON lines, gzipped or not, with `definition` and `examples` in each.
        words: in lower case.

    Returns:
        Different sentences of at least five words each; none for a word that is in no sentence.

    Raises:
        DataError: no such file, or a line that is none of WordNet's.
    """
    found: dict[str, dict[str, None]] = {word: {} for word in words}
    for sentence in _sentences(path):
        for token in set(_TOKEN.findall(sentence.lower())):
            if token in found:
                found[token][sentence] = None
    return {word: list(sentences) for word, sentences in found.items()}


def _sentences(path: Path) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(_lines(path), start=1):  # noqa: B007
            row = json.loads(line)
            for sentence in (row["definition"], *row["examples"]):
                if len(sentence.split()) >= LEAST_WORDS:
                    yield sentence
    except OSError as error:
        raise DataError(f"{path}: {explain(error, 'a file of WordNet sentences')}") from error
    except (ValueError, KeyError, TypeError) as error:
        expected = "an object with definition and examples"
        raise DataError(f"{path}, line {number}: {explain('another line', expected)}") from error


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    else:
        with path.open(encoding="utf-8") as file:
            yield from file
