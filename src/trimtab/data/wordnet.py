"""Sentences of WordNet by the words in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.data.concept import cannot_be_encoded
from trimtab.data.concept_file import json_lines, json_row
from trimtab.errors import DataError, explain
from trimtab.runs.files import parse_json

LEAST_WORDS = 5
PARTS_OF_SPEECH = ("n", "v", "a", "r")
"""WordNet's letters for nouns, verbs, adjectives (with their satellites, "s") and adverbs."""
NOT_NOUNS = ("v", "a", "r")
"""Definitions of nouns are no sentences: they place a thing in a taxonomy, "any of various fishes of the family"."""
_TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
EXPECTED = "a file of WordNet sentences"


def is_wordnet(path: Path) -> bool:
    """Whether a file looks like one of WordNet's: its first line is an object with a definition."""
    try:
        _, line = next(json_lines(path, EXPECTED))
        row = parse_json(line, str(path), EXPECTED)
    except (StopIteration, DataError):
        return False
    return isinstance(row, dict) and "definition" in row


def is_token(word: str) -> bool:
    """Whether a word can be found in sentences: letters, with hyphens and apostrophes inside, and no space.

    >>> is_token("cat"), is_token("merry-go-round"), is_token("ice cream"), is_token("4x4")
    (True, True, False, False)
    """
    return _TOKEN.fullmatch(word.lower()) is not None


def sentences_of(
    path: Path, words: Iterable[str], pos: Collection[str] | None = None
) -> dict[str, list[str]]:
    """For each word, the definitions and examples that have it as it is written, in any case, in the order of the file.

    Args:
        path: JSON lines, gzipped or not, with `definition` and `examples` in each.
        words: single words of letters, see `is_token`; others are in no sentence.
        pos: parts of speech of the entries that count, of `PARTS_OF_SPEECH`; None for all. An entry that states none
            counts.

    Returns:
        Different sentences of at least five words each; none for a word that is in no sentence.

    Raises:
        DataError: no such file, or a line that is none of WordNet's.
    """
    found: dict[str, dict[str, None]] = {word: {} for word in words}
    written: dict[str, list[str]] = {}
    for word in found:
        written.setdefault(word.lower(), []).append(word)
    for sentence in _sentences(path, pos):
        for token in set(_TOKEN.findall(sentence.lower())):
            for word in written.get(token, ()):
                found[word][sentence] = None
    return {word: list(sentences) for word, sentences in found.items()}


def _sentences(path: Path, pos: Collection[str] | None) -> Iterator[str]:
    for where, line in json_lines(path, EXPECTED):
        row = json_row(line, where, "an object with definition and examples")
        sentences = _texts(row, where)
        if pos is None or _part_of_speech(row) in (None, *pos):
            yield from (sentence for sentence in sentences if len(sentence.split()) >= LEAST_WORDS)


def _texts(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    definition, examples = row.get("definition"), row.get("examples")
    texts = (definition, *examples) if isinstance(examples, list) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        expected = "an object with definition, a text, and examples, a list of texts"
        raise DataError(f"{where}: {explain('another line', expected)}")
    if any(map(cannot_be_encoded, texts)):
        raise DataError(f"{where}: {explain('half a character (a lone surrogate)', 'whole characters')}")
    return texts


def _part_of_speech(row: Mapping[str, Any]) -> object:
    """WordNet's letter, a satellite counted as the adjective it is; None where the entry states none."""
    return "a" if row.get("pos") == "s" else row.get("pos")
