"""Sentences of WordNet by the words in them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from trimtab.errors import DataError, explain

LEAST_WORDS = 5
PARTS_OF_SPEECH = ("n", "v", "a", "r")
"""WordNet's letters for nouns, verbs, adjectives (with their satellites, "s") and adverbs."""
NOT_NOUNS = ("v", "a", "r")
"""Definitions of nouns are no sentences: they place a thing in a taxonomy, "any of various fishes of the family"."""
_TOKEN = re.compile(r"[a-z]+(?:['-][a-z]+)*")


def is_wordnet(path: Path) -> bool:
    """Whether a file looks like one of WordNet's: its first line has a definition."""
    try:
        return "definition" in json.loads(next(_lines(path), "null"))
    except (OSError, ValueError, TypeError):
        return False


def sentences_of(
    path: Path, words: Iterable[str], pos: Collection[str] | None = None
) -> dict[str, list[str]]:
    """For each word, the definitions and examples that have it as it is written, in the order of the file.

    Args:
        path: JSON lines, gzipped or not, with `definition` and `examples` in each.
        words: in lower case.
        pos: parts of speech of the entries that count, of `PARTS_OF_SPEECH`; None for all. An entry that states none
            counts.

    Returns:
        Different sentences of at least five words each; none for a word that is in no sentence.

    Raises:
        DataError: no such file, or a line that is none of WordNet's.
    """
    found: dict[str, dict[str, None]] = {word: {} for word in words}
    for sentence in _sentences(path, pos):
        for token in set(_TOKEN.findall(sentence.lower())):
            if token in found:
                found[token][sentence] = None
    return {word: list(sentences) for word, sentences in found.items()}


def _sentences(path: Path, pos: Collection[str] | None) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(_lines(path), start=1):  # noqa: B007
            row = json.loads(line)
            sentences = (row["definition"], *row["examples"])
            if pos is None or _part_of_speech(row) in (None, *pos):
                yield from (sentence for sentence in sentences if len(sentence.split()) >= LEAST_WORDS)
    except OSError as error:
        raise DataError(f"{path}: {explain(error, 'a file of WordNet sentences')}") from error
    except (ValueError, KeyError, TypeError) as error:
        expected = "an object with definition and examples"
        raise DataError(f"{path}, line {number}: {explain('another line', expected)}") from error


def _part_of_speech(row: Mapping[str, str]) -> str | None:
    """WordNet's letter, a satellite counted as the adjective it is; None where the entry states none."""
    return "a" if row.get("pos") == "s" else row.get("pos")


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    else:
        with path.open(encoding="utf-8") as file:
            yield from file
